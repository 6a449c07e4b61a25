"""The source or the target of a migration, and the sending of messages unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cloudq.broker.broker import Broker
from cloudq.broker.delayed import DelayedStore
from cloudq.broker.retry import PublishPolicy
from cloudq.broker.sending import Answer, Attempts, Lot, Way
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
from cloudq.errors import BrokerError, ServiceError
from cloudq.results.backend import Backend
from cloudq.text import describe, masked

# With these codes, the service may or may not have taken the message.
UNSURE = frozenset({Code.UNREACHABLE, Code.UNKNOWN})
# With these codes, the message itself is what the service refused.
OF_THE_MESSAGE = frozenset({Code.INVALID, Code.TOO_LARGE, Code.UNSUPPORTED, Code.EXISTS})

# Retried only where the service certainly has not taken the message.
_SLOW_DOWN = frozenset({Code.THROTTLED})
_PATIENCE = PublishPolicy(most=4, start=0.2)
_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The source or the target; `peeks` is true if looking at its messages leases none."""

    broker: Broker
    peeks: bool = False

    @classmethod
    def of(
        cls, driver: BrokerDriver, url: str, backend: Backend | None, *, peeks: bool
    ) -> Endpoint:
        delayed_store = None if backend is None else DelayedStore(lambda: backend)
        return cls(
            broker=Broker(driver, url=url, delayed_store=delayed_store),
            peeks=peeks,
        )

    @property
    def url(self) -> str:
        return self.broker.url

    def stats(self, queue: str) -> QueueStats | None:
        """Return the queue's counts, None where the driver has none. Raises `BrokerError`."""
        if not isinstance(self.broker.driver, QueueAdmin):
            return None
        with self.broker.asking("look at", queue) as admin:
            return admin.stats(queue)

    def lists(self, queue: str) -> bool:
        """Tell whether its delayed messages can be listed."""
        return self.broker.stores_delayed(queue) or isinstance(self.broker.driver, Scheduling)

    def delayed(self, queue: str, *, most: int | None = None) -> Iterator[Scheduled]:
        """Yield its delayed messages, as far as they can be listed."""
        after: str | None = None
        seen = 0
        while self.lists(queue) and (most is None or seen < most):
            page = self.broker.scheduled(queue, count=_PAGE, after=after)
            yield from page
            if not page:
                return
            seen += len(page)
            after = page[-1].handle

    def send(self, queue: str, messages: Sequence[Outgoing]) -> list[Answer]:
        """Send one batch; return for each message its handle ("" if it has none), or its refusal.

        An error of the service is a `Failure` of each message, too, and is not raised.
        """
        ways: dict[Way, dict[int, Outgoing]] = {}
        for place, message in enumerate(messages):
            ways.setdefault(self.broker.way_of(queue, message), {})[place] = message
        answers: dict[int, Answer] = {}
        for way, some in ways.items():
            lot = Lot(queue=queue, way=way, messages=some)
            patience = dict.fromkeys(lot.messages, _PATIENCE)
            attempts = Attempts(lot, self.broker.limits(queue), patience, again=_SLOW_DOWN)
            for batch in attempts:
                attempts.answered(batch, self._answers(queue, lot.batch(batch), way))
            answers |= attempts.answers
        return [answers[place] for place in range(len(messages))]

    def _answers(self, queue: str, batch: Sequence[Outgoing], way: Way) -> Sequence[Answer]:
        """Send one batch once; if one of its messages made all fail, send them one by one."""
        try:
            return self.broker.try_send(queue, batch, way)
        except ServiceError as error:
            code = Code(error.code)
            said = error.__cause__ if isinstance(error, BrokerError) else None
            reason = str(error) if said is None else masked(f"{self.url}: {describe(said)}")
        if code in OF_THE_MESSAGE and len(batch) > 1:
            return [self._answers(queue, [message], way)[0] for message in batch]
        return [Failure(index=place, code=code, reason=reason) for place in range(len(batch))]

    def missing(self, queue: str) -> bool:
        """Tell whether there is no such queue. Raises `BrokerError` where that is unknown."""
        try:
            self.stats(queue)
        except BrokerError as error:
            if error.code != Code.NOT_FOUND:
                raise
            return True
        return False


def total(stats: QueueStats | None) -> int | None:
    """Return the number of all messages of a queue, None if any of the counts is unknown."""
    if stats is None:
        return None
    counts = (stats.ready, stats.delayed, stats.leased)
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
