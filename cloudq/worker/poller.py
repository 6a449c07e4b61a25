"""Receives from a queue as many messages as the worker may hold, and survives all errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.clock import Backoff
from cloudq.driver import Code, Delivery, is_ordered
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.errors import BrokerError
from cloudq.execution.executor import Executor
from cloudq.worker.control.ledger import Ledger
from cloudq.worker.gathering import Gathering
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.leases import FIRST, Leases
from cloudq.worker.opener import Opener
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pace import Pace
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.pool.self_pipe import Shutdown
from cloudq.worker.settler import Settler
from cloudq.worker.shares import STALLED, may_go_back
from cloudq.worker.slots import Slots

log = Log("cloudq.worker")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
# The shortest wait for a message of an empty queue, whatever the setting, lest it be a busy loop.
_SHORTEST_WAIT = 0.1
# The longest wait where requests cost nothing.
_UNBILLED_WAIT = 1.0
# Seconds that a receive waits for more slots where requests are billed.
_LINGER = 0.05
# Where requests are billed, so many threads receive beside the poller: where a receive is as late
# as this, in seconds, some of them, as one that is slow, or that an SDK tries again, holds up no
# queue; and one more for each receive in a row that came back full.
_LATE = 0.2
_LATE_HELPERS, _HELPERS = 2, 3
_FATAL = frozenset({Code.NOT_FOUND, Code.DENIED, Code.CREDENTIALS, Code.INVALID})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """The parts of a worker that its pollers and its commands work with."""

    app: CloudQ
    options: WorkerOptions
    executor: Executor
    flights: Flights
    slots: Slots
    pace: Pace
    leases: Leases
    dispatcher: Dispatcher
    settler: Settler
    opener: Opener
    ledger: Ledger
    shutdown: Shutdown


class Poller:
    """Receives from one queue, in a thread, with others that help out where it waits too long.

    While receives come back full it takes slots first, and asks for as many messages. Else it waits
    for as many as there are slots free, with none taken, so that it keeps no other queue from
    working. What comes when others have taken them is held for a few seconds, then left to
    another worker.

    An error that waiting does not mend, met before the first answer, stops the worker; with
    `added`, for a queue that a command has added, it stops this poller only.
    """

    def __init__(self, queue: str, parts: WorkerParts, *, added: bool = False) -> None:
        self.queue = queue
        self._broker = parts.app.broker
        self._flights = parts.flights
        self._slots = parts.slots
        self._pace = parts.pace
        self._leases = parts.leases
        self._opener = parts.opener
        self._shutdown = parts.shutdown
        self._added = added
        self._lease, wait = parts.options.lease, parts.options.poll_wait
        if not self._broker.limits(queue).billed:  # another request is free, and a stop waits
            wait = min(wait, _UNBILLED_WAIT)
        self._wait = max(wait, _SHORTEST_WAIT)
        self._first_lease = self._lease
        if self._broker.limits(queue).polls_outlive_callers:
            self._first_lease = min(self._lease, FIRST)
        self._stopping = threading.Event()
        self._going = threading.Event()  # not set while it is paused
        self._going.set()
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._reached = False
        self._asked_at: float | None = None  # of the receive under way, if it has slots
        self._threads = [threading.Thread(target=self._run, name=f"poll-{queue}", daemon=True)]
        limits = self._broker.limits(queue)
        self._most = limits.batch
        self._is_billed = limits.billed
        self._ahead = not is_ordered(queue)
        self._gathering = Gathering() if limits.billed else None
        self._full = 0  # receives in a row that came back full
        self._beside = [threading.Event() for _ in range(_HELPERS)]
        if limits.billed and not limits.ordered:
            self._threads += [
                threading.Thread(target=self._help, args=(n,), name=f"late-{queue}", daemon=True)
                for n in range(_HELPERS)
            ]

    @property
    def receiving(self) -> bool:
        """True until the last receive has come back."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def is_idle(self) -> bool:
        """True where a receive under way has no slots: it may wait for long, and for nothing."""
        return self._asked_at is None and not any(t.is_alive() for t in self._threads[1:])

    def start(self) -> None:
        """Begin to receive."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Receive no more; a receive that is under way ends by itself, or by its driver."""
        self._stopping.set()
        self._going.set()
        for helper in self._beside:
            helper.set()

    def pause(self) -> bool:
        """Receive nothing until `resume`; False if it was paused already.

        What a receive that is under way brings goes back.
        """
        if not self._going.is_set() or self._stopping.is_set():
            return False
        self._going.clear()
        log.info("queue %s is paused: nothing is received from it until it is resumed", self.queue)
        return True

    def resume(self) -> bool:
        """Receive again; False if it was not paused."""
        if self._going.is_set():
            return False
        log.info("queue %s is resumed", self.queue)
        self._going.set()
        return True

    def _run(self) -> None:
        busy = True
        while not self._stopping.is_set():
            self._going.wait()
            try:
                busy = self._busy() if busy else self._idle()
            except BaseException as error:  # if the thread ended, its queue would stand still
                pass_ends(error)
                log.exception("receiving from %s failed, and is tried again", self.queue)
                busy = False
                self._backoff.failed()
            if pause := self._backoff.left:
                self._stopping.wait(pause)

    def _busy(self) -> bool:
        """Take slots, then receive as many messages; tell whether there may be more.

        A receive that fails alone is made again. Where more do, no slots are taken for them.
        """
        linger = _LINGER if self._is_billed else 0.0
        slots = self._slots.take(self.queue, self._most, linger=linger, ahead=self._ahead)
        flights: Sequence[Flight] = ()
        try:
            if slots:
                self._asked_at = time.monotonic()
                flights = self._hold(self._receive(slots, 0.0))
        finally:
            self._asked_at = None
            self._slots.give(slots - len(flights))
        self._opener.open(flights)
        if self._backoff.failures == 1:
            return True
        return self._is_full(len(flights), slots)

    def _idle(self) -> bool:
        """Wait for messages with no slots taken; tell whether there may be more."""
        free = min(self._slots.await_free(self.queue, ahead=self._ahead), self._most)
        if not free:
            return False
        flights = self._hold(self._receive(free, self._wait))
        if not self._going.is_set():  # it was paused meanwhile
            self._give_back(flights)
            return False
        # A worker of one slot learns nothing from one message.
        return (
            self._started(flights) and self._is_full(len(flights), free) and self._slots.total > 1
        )

    def _started(self, flights: Sequence[Flight]) -> bool:
        """Hand on messages as slots come free; False if some went back.

        Others may have taken the slots meanwhile, and run for long: what has waited for some
        seconds goes to another worker, if it may.
        """
        left = self._handed_on(flights, STALLED)
        back = [each for each in left if may_go_back(each)]
        self._give_back(back)
        kept = self._handed_on([each for each in left if not may_go_back(each)], None)
        self._give_back(kept)  # the worker stops
        return not (back or kept)

    def _handed_on(self, flights: Sequence[Flight], within: float | None) -> Sequence[Flight]:
        """Hand on messages as slots come free; return the rest where none is `within` seconds."""
        done = 0
        while done < len(flights):
            slots = self._slots.take(
                self.queue, len(flights) - done, ahead=self._ahead, within=within
            )
            if not slots:
                break
            self._opener.open(flights[done : done + slots])
            done += slots
        return flights[done:]

    def _give_back(self, flights: Sequence[Flight]) -> None:
        if not flights:
            return
        self._flights.remove(flights)
        try:
            self._broker.release([flight.delivery for flight in flights])
        except BrokerError as error:
            log.warning("%d messages come back when their leases end: %s", len(flights), error)

    def _is_full(self, received: int, asked: int) -> bool:
        """Tell whether a receive came back full, and have others made beside the next ones.

        Else let some messages gather, where that pays.
        """
        if not received:
            self._slots.idle(self.queue)
        is_full = 0 < asked == received
        was_awaited = self._gathering is not None and self._gathering.paused
        self._full = self._full + 1 if is_full and not was_awaited else 0
        for helper in self._beside[: max(0, self._full - 1)]:
            helper.set()
        pause = self._gathering.after(received, asked) if self._gathering is not None else 0.0
        if pause:
            self._stopping.wait(pause)
        return is_full

    def _help(self, place: int) -> None:
        """Receive beside the poller while the queue is full, or while a receive of it is late."""
        asked = self._beside[place]
        while not self._stopping.is_set():
            asked.wait(_LATE if place < _LATE_HELPERS else None)
            asked.clear()
            if not self._going.is_set():
                continue
            late = self._asked_at if place < _LATE_HELPERS else None
            try:
                while self._has_more(place) and self._received_beside(self._most):
                    pass
                while late is not None and self._is_late(late) and self._received_beside():
                    pass
            except BaseException as error:  # the poller tells, and makes pauses
                pass_ends(error)
                log.debug("a receive from %s beside another failed", self.queue, exc_info=error)

    def _has_more(self, place: int) -> bool:
        return self._full > place + 1 and self._going.is_set()

    def _is_late(self, asked_at: float) -> bool:
        """Tell whether the receive of that time is still under way, and late."""
        if self._asked_at != asked_at or self._stopping.is_set() or self._backoff.failures:
            return False
        return time.monotonic() - asked_at >= _LATE

    def _received_beside(self, least: int = 1) -> bool:
        """Receive once if so many slots are free; tell whether there may be more."""
        slots = self._slots.take_free(self.queue, self._most, least=least, ahead=self._ahead)
        flights: Sequence[Flight] = ()
        try:
            if slots:
                flights = self._hold(
                    self._broker.receive(self.queue, count=slots, wait=0.0, lease=self._lease)
                )
        finally:
            self._slots.give(slots - len(flights))
        self._opener.open(flights)
        return len(flights) >= least and bool(flights)

    def _hold(self, deliveries: Sequence[Delivery]) -> list[Flight]:
        flights = self._leases.hold(deliveries)
        self._pace.received(flights)
        return flights

    def _receive(self, count: int, wait: float) -> Sequence[Delivery]:
        lease = self._first_lease if wait else self._lease
        try:
            deliveries = self._broker.receive(self.queue, count=count, wait=wait, lease=lease)
        except BrokerError as error:
            if self._stopping.is_set():
                log.debug("the last receive from %s failed", self.queue, exc_info=error)
                return ()
            if not self._reached and error.code in _FATAL:
                self._give_up(error)
                return ()
            log.warning("%s", error)
            self._backoff.failed()
            return ()
        if self._backoff.failures:
            log.info("queue %s answers again", self.queue)
        self._reached = True
        self._backoff.succeeded()
        return deliveries

    def _give_up(self, error: BrokerError) -> None:
        self._stopping.set()
        if self._added:
            log.error("stopped receiving from %s, which a command had added: %s", self.queue, error)
            self._slots.remove(self.queue)
        else:
            self._shutdown.fail(error)
