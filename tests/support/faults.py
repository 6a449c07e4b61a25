"""Real drivers with a fault in front: outages, refusals, small limits, and counts of requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cloudq.driver import (
    BackendDriver,
    BrokerDriver,
    Change,
    Code,
    DeadLetterCopies,
    Delivery,
    Failure,
    Item,
    Key,
    Limits,
    Outgoing,
    Page,
    StoreLimits,
)


class Outage(Exception):
    """The error of a service that is down."""


@dataclass
class FaultyBroker:
    """A broker driver before another: counts calls, refuses places, has limits of its own."""

    inner: BrokerDriver
    calls: Counter[str] = field(default_factory=Counter)
    down: set[str] = field(default_factory=set)
    failing: Counter[str] = field(default_factory=Counter)  # how many calls go wrong from now on
    slowness: float = 0.0  # of calls that go wrong
    refuse: Callable[[Outgoing], Code | None] = lambda message: None
    change_limits: Callable[[Limits], Limits] = lambda limits: limits

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.down or self.failing[name] > 0:
            self.failing[name] -= 1
            time.sleep(self.slowness)
            raise Outage(f"{name}: the broker is down")

    def limits(self, queue: str) -> Limits:
        return self.change_limits(self.inner.limits(queue))

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        self._called("send")
        assert isinstance(self.inner, DeadLetterCopies)
        return self.inner.copy_to_dead(deliveries, reason=reason)

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        self._called("send")
        assert len(messages) <= self.limits(queue).batch
        assert sum(len(m.body) for m in messages) <= self.limits(queue).batch_body
        assert all(0 <= m.delay <= self.limits(queue).max_delay for m in messages)
        failures = [
            Failure(index=place, code=code, reason="refused on purpose")
            for place, message in enumerate(messages)
            if (code := self.refuse(message)) is not None
        ]
        refused = {failure.index for failure in failures}
        self.inner.send(queue, [m for place, m in enumerate(messages) if place not in refused])
        return failures

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        self._called("receive")
        return self.inner.receive(queue, count=count, wait=wait, lease=lease)

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        self._called("ack")
        return self.inner.ack(deliveries)

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        self._called("release")
        return self.inner.release(deliveries, after=after)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        self._called("extend")
        return self.inner.extend(deliveries, lease=lease)

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        self._called("dead_letter")
        return self.inner.dead_letter(deliveries, reason=reason)

    def error_code(self, error: Exception) -> Code:
        return Code.UNREACHABLE if isinstance(error, Outage) else self.inner.error_code(error)

    def close(self) -> None:
        self.inner.close()


@dataclass
class FaultyStore:
    """A backend driver before another: counts calls, fails while down, has limits of its own.

    It has no `watch`, so that readers look at it again and again, as at a cloud's table.
    """

    inner: BackendDriver
    limits: StoreLimits = field(
        default_factory=lambda: StoreLimits(put=25, get=100, item=400_000, bills_kilobytes=True)
    )
    calls: Counter[str] = field(default_factory=Counter)
    consistent: int = 0  # of the reads
    down: set[str] = field(default_factory=set)
    refuse: Callable[[Item], Code | None] = lambda item: None

    def _called(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.down or "all" in self.down:
            raise Outage(f"{name}: the store is down")

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        self._called("put")
        assert len(items) <= self.limits.put
        failures = [
            Failure(index=place, code=code, reason="refused on purpose")
            for place, item in enumerate(items)
            if (code := self._refusal(item)) is not None
        ]
        refused = {failure.index for failure in failures}
        self.inner.put([item for place, item in enumerate(items) if place not in refused])
        return failures

    def _refusal(self, item: Item) -> Code | None:
        size = sum(len(value) for value in item.fields.values() if isinstance(value, str))
        return Code.TOO_LARGE if size > self.limits.item else self.refuse(item)

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        self._called("get")
        self.consistent += consistent
        assert len(keys) <= self.limits.get
        return self.inner.get(keys, consistent=consistent)

    def update(self, key: Key, change: Change) -> Item:
        self._called("update")
        if self._refusal(Item(key=key, fields=change.set)) is Code.TOO_LARGE:
            raise TooLarge("the item is over the limit")
        return self.inner.update(key, change)

    def query(self, partition: str, *, after: str | None, limit: int) -> Page:
        self._called("query")
        return self.inner.query(partition, after=after, limit=limit)

    def delete(self, keys: Sequence[Key]) -> Sequence[Failure]:
        self._called("delete")
        return self.inner.delete(keys)

    def error_code(self, error: Exception) -> Code:
        if isinstance(error, Outage):
            return Code.UNREACHABLE
        return Code.TOO_LARGE if isinstance(error, TooLarge) else self.inner.error_code(error)

    def close(self) -> None:
        self.inner.close()


class TooLarge(Exception):
    """The error of a store when an update makes an item too large."""
