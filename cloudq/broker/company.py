"""Sends in one request what threads send to one queue at the same time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from cloudq.driver import BrokerDriver, Code, Failure, Limits, Outgoing
from cloudq.driver.forks import renew_after_fork

# One waits this long for company, in seconds: the request under way may never be answered.
_LATE = 1.0
# A request that has been under way for this long has no thread any more.
_LOST = 120.0
# A service that refuses a whole request for these has one message of it in mind.
_OF_ONE = frozenset({Code.INVALID, Code.TOO_LARGE, Code.UNSUPPORTED})


class Companies:
    """Sends to the queues of a driver, with one company for each queue of a billed service."""

    def __init__(self, driver: Callable[[], BrokerDriver]) -> None:
        self._driver = driver
        self._by_queue: dict[str, Company] = {}

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Send one batch; return what was refused. Raises what the driver raises.

        What is ordered goes by itself: a refusal may hold up what follows it.
        """
        company = self._by_queue.get(queue)
        if company is None:
            limits = self._driver().limits(queue)
            if limits.ordered:
                return self._driver().send(queue, messages)
            company = self._by_queue.setdefault(queue, Company(self._driver, queue, limits))
        return company.send(messages)


class _Sending:
    """The messages of one thread, and what became of them."""

    __slots__ = ("error", "failures", "gate", "is_alone", "lot", "messages", "size")

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.messages = messages
        self.size = sum(len(message.body) for message in messages)
        self.gate = threading.Lock()  # held until they were sent, or are to be sent by this thread
        self.lot: list[_Sending] | None = None  # what this thread sends in one request
        self.failures: Sequence[Failure] | None = None
        self.error: Exception | None = None
        self.is_alone = False  # something in a shared request is refused: each sends its own


class Company:
    """Shares requests between the threads that send to a queue. Safe to use from many threads.

    As databases commit in groups: the first goes at once, those who come while requests are under
    way share the next, which goes when it is full, when no other is under way, or after a second.
    Each returns when its own messages were sent or refused. An outage is everybody's. After a
    refusal of the whole request for what may be in one message, each sends its own by itself; any
    other error is that of the thread which met it, as an interruption is.
    """

    def __init__(self, driver: Callable[[], BrokerDriver], queue: str, limits: Limits) -> None:
        self._driver = driver
        self._queue = queue
        self._limits = limits
        self._renew()
        renew_after_fork(self, Company._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Sending] = deque()
        self._under_way: dict[object, float] = {}  # requests, and when they began

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Send messages that fit into one request; return those that were refused.

        Raises what the driver raises.
        """
        alone = object()
        try:
            # Nothing stands before `try`: an interruption there would keep all others waiting.
            with self._lock:
                is_first = not self._under_way
                if is_first:
                    self._under_way[alone] = time.monotonic()
            if is_first:
                return self._driver().send(self._queue, messages)
        finally:
            if alone in self._under_way:
                self._over(alone, [])
        while True:
            mine = _Sending(messages)
            try:
                self._come(mine)
                self._wait(mine)
                if mine.lot is not None:
                    self._send(mine, mine.lot)
            except BaseException:
                self._leave(mine)
                raise
            if mine.error is not None:
                raise mine.error
            if mine.failures is not None:
                return mine.failures
            if mine.is_alone:
                return self._driver().send(self._queue, messages)
            # The thread that sent them was interrupted.

    def _come(self, mine: _Sending) -> None:
        """Join those who share the next request."""
        with self._lock:
            mine.gate.acquire()
            self._waiting.append(mine)
            if not self._under_way or self._fills_a_request():
                self._appoint()

    def _wait(self, mine: _Sending) -> None:
        """Wait until the messages were sent, or are to be sent by this thread."""
        until = time.monotonic() + _LOST
        while not mine.gate.acquire(timeout=_LATE):
            now = time.monotonic()
            with self._lock:
                for request, began in list(self._under_way.items()):
                    if now - began > _LOST:
                        del self._under_way[request]
                if mine in self._waiting:
                    self._appoint()
                elif now > until:
                    mine.is_alone = True
                    return

    def _send(self, mine: _Sending, lot: list[_Sending]) -> None:
        failures: Sequence[Failure] | None = None
        error: Exception | None = None
        try:
            messages = [message for each in lot for message in each.messages]
            failures = self._driver().send(self._queue, messages)
        except Exception as raised:
            code = self._driver().error_code(raised)
            if code is Code.UNKNOWN:
                raise
            if code in _OF_ONE and len(lot) > 1:
                for each in lot:
                    each.is_alone = True
            else:
                error = raised
        start = 0
        for each in lot:
            each.error = error
            if failures is not None:
                end = start + len(each.messages)
                each.failures = [
                    replace(failure, index=failure.index - start)
                    for failure in failures
                    if start <= failure.index < end
                ]
                start = end
        self._over(mine, lot)

    def _over(self, request: object, lot: list[_Sending]) -> None:
        """Let those of a request go, and those who wait make the next one if it is time."""
        with self._lock:
            self._under_way.pop(request, None)
            while lot:
                each = lot.pop()
                if each is not request:  # the one that sent them waits for nothing
                    each.gate.release()
            if self._waiting and (not self._under_way or self._fills_a_request()):
                self._appoint()

    def _leave(self, mine: _Sending) -> None:
        """Keep nobody waiting for a thread that was interrupted, or whose error is its own."""
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return
        if mine in self._under_way or mine.lot:
            self._over(mine, mine.lot or [])

    def _fills_a_request(self) -> bool:
        count = sum(len(each.messages) for each in self._waiting)
        size = sum(each.size for each in self._waiting)
        return count >= self._limits.batch or size >= self._limits.batch_body

    def _appoint(self) -> None:
        """Have the first that waits send what fits into one request."""
        first = self._waiting.popleft()
        lot, count, size = [first], len(first.messages), first.size
        while self._waiting:
            following = self._waiting[0]
            count, size = count + len(following.messages), size + following.size
            if count > self._limits.batch or size > self._limits.batch_body:
                break
            lot.append(self._waiting.popleft())
        first.lot = lot
        self._under_way[first] = time.monotonic()
        first.gate.release()
