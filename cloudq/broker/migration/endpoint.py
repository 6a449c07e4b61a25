"""One of the two brokers of a migration, and what is done with messages that stay as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cloudq.broker.broker import Broker
from cloudq.broker.delayed import DelayedStore
from cloudq.driver import (
    BrokerDriver,
    Code,
    Failure,
    Outgoing,
    QueueAdmin,
    QueueStats,
    Scheduled,
    Scheduling,
)
from cloudq.errors import BrokerError, ConfigurationError, ServiceError
from cloudq.results.backend import Backend

# A refusal with one of these says nothing about whether the message was taken.
UNSURE = frozenset({Code.UNREACHABLE, Code.UNKNOWN})
# These are about the message itself.
OF_THE_MESSAGE = frozenset({Code.INVALID, Code.TOO_LARGE, Code.UNSUPPORTED, Code.EXISTS})

# A delay that is long enough to remember how the message can be taken back, as `Broker` does.
_WORTH_A_HANDLE = 60.0
_PAGE = 100
_PATIENCE = 5

_Call = Callable[[Sequence[Outgoing]], Sequence["str | Failure"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A broker; `backend` keeps delayed messages for it where it cannot.

    `peeks` says that its peek takes no message from anybody.
    """

    broker: Broker
    delayed_store: DelayedStore | None = None
    peeks: bool = False

    @classmethod
    def of(
        cls, driver: BrokerDriver, url: str, backend: Backend | None, *, peeks: bool
    ) -> Endpoint:
        delayed_store = None if backend is None else DelayedStore(lambda: backend)
        return cls(
            broker=Broker(driver, url=url, delayed_store=delayed_store),
            delayed_store=delayed_store,
            peeks=peeks,
        )

    @property
    def url(self) -> str:
        return self.broker.url

    def stats(self, queue: str) -> QueueStats | None:
        """The queue's counts, None where the service cannot be asked. Raises `BrokerError`."""
        if not isinstance(self.broker.driver, QueueAdmin):
            return None
        with self.broker.asking("look at", queue) as admin:
            return admin.stats(queue)

    def lists(self, queue: str) -> bool:
        """Whether its delayed messages can be looked at."""
        return self.broker.stores_delayed(queue) or isinstance(self.broker.driver, Scheduling)

    def delayed(self, queue: str, *, most: int | None = None) -> Iterator[Scheduled]:
        """Its delayed messages, as far as they can be looked at."""
        after: str | None = None
        seen = 0
        while self.lists(queue) and (most is None or seen < most):
            page = self.broker.scheduled(queue, count=_PAGE, after=after)
            yield from page
            if not page:
                return
            seen += len(page)
            after = page[-1].handle

    def send(self, queue: str, messages: Sequence[Outgoing]) -> list[str | Failure]:
        """Send one batch; each one's handle ("" where it has none), or why it was not taken.

        Raises nothing that a service says: that is a `Failure` too.
        """
        answers: dict[int, str | Failure] = {}
        for call, places in self._ways(queue, messages):
            answers |= self._patiently(call, {place: messages[place] for place in places})
        return [answers[place] for place in range(len(messages))]

    def _ways(self, queue: str, messages: Sequence[Outgoing]) -> list[tuple[_Call, list[int]]]:
        driver, delayed_store = self.broker.driver, self.delayed_store

        def plainly(batch: Sequence[Outgoing]) -> Sequence[str | Failure]:
            refused = {failure.index: failure for failure in driver.send(queue, batch)}
            return [refused.get(place, "") for place in range(len(batch))]

        late: list[int] = []
        ways: list[tuple[_Call, list[int]]] = []
        if delayed_store is not None and self.broker.stores_delayed(queue):
            late = [place for place, message in enumerate(messages) if message.delay]
            ways.append((lambda batch: delayed_store.keep(queue, batch), late))
        elif isinstance(driver, Scheduling):
            late = [p for p, message in enumerate(messages) if message.delay >= _WORTH_A_HANDLE]
            ways.append((lambda batch: driver.schedule(queue, batch), late))
        ways.append((plainly, [place for place in range(len(messages)) if place not in late]))
        return [(call, places) for call, places in ways if places]

    def _patiently(self, call: _Call, messages: dict[int, Outgoing]) -> dict[int, str | Failure]:
        """Send, again where the service was busy, and one by one where the batch was wrong."""
        answers: dict[int, str | Failure] = {}
        waiting = list(messages)
        for attempt in range(_PATIENCE):
            if attempt:
                time.sleep(0.1 * 2**attempt)
            answered = self._answers(call, [messages[place] for place in waiting])
            answers |= zip(waiting, answered, strict=True)
            waiting = [place for place in waiting if _code(answers[place]) is Code.THROTTLED]
            if not waiting:
                break
        return answers

    def _answers(self, call: _Call, batch: Sequence[Outgoing]) -> Sequence[str | Failure]:
        try:
            return call(batch)
        except ConfigurationError:
            raise
        except ServiceError as error:
            code, reason = Code(error.code), str(error)
        except Exception as error:  # whatever a service's SDK raises
            code, reason = self.broker.driver.error_code(error), f"{self.url}: {error}"
        if code in OF_THE_MESSAGE and len(batch) > 1:
            return [self._answers(call, [message])[0] for message in batch]
        return [Failure(index=i, code=code, reason=reason) for i in range(len(batch))]

    def missing(self, queue: str) -> bool:
        """Whether there is no such queue. Raises `BrokerError` where that cannot be told."""
        try:
            self.stats(queue)
        except BrokerError as error:
            if error.code != Code.NOT_FOUND:
                raise
            return True
        return False


def _code(answer: str | Failure) -> Code | None:
    return answer.code if isinstance(answer, Failure) else None


def total(stats: QueueStats | None) -> int | None:
    """All messages of a queue, None where any of the counts is unknown."""
    if stats is None:
        return None
    counts = (stats.ready, stats.delayed, stats.leased)
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
