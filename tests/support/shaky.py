"""Drivers before others that fail on a plan: before the effect, after it, in part, or for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from cloudq.driver import (
    BackendDriver,
    Change,
    Code,
    Delivery,
    Failure,
    Item,
    Key,
    Limits,
    Outgoing,
    Page,
    Scheduled,
    StoreLimits,
)
from cloudq.driver.ends import Died
from tests.support.faults import Outage

T = TypeVar("T")


class Kind(StrEnum):
    """The ways in which a call goes wrong."""

    DOWN = "down"  # it is not heard
    LOST = "lost"  # it has its effect, and the answer is lost
    PART = "part"  # the first element is refused
    DIES = "dies"  # its caller dies before it
    DIES_AFTER = "dies after"  # its caller dies after it
    LATE = "late"  # its caller stands still before it, beyond its leases


@dataclass
class Fault:
    """One call that goes wrong: the one of this name, or of any, after so many others."""

    kind: Kind
    call: str | None
    skip: int


@dataclass
class Plan:
    """The faults to come. `late` is what happens meanwhile; `seen` is called after each effect."""

    late: Callable[[], None] = lambda: None
    seen: Callable[[str, Any], None] = lambda call, given: None
    faults: list[Fault] = field(default_factory=list[Fault])
    still: int = 0  # nothing goes wrong while it is above 0

    def meet(self, call: str) -> Kind | None:
        """Count a call; return how it goes wrong."""
        met: Kind | None = None
        if self.still:
            return met
        for fault in list(self.faults):
            if fault.call not in (None, call):
                continue
            if fault.skip:
                fault.skip -= 1
            elif met is None:
                met = fault.kind
                self.faults.remove(fault)
        return met

    def run(self, call: str, given: Any, work: Callable[[], T]) -> T:
        """Make one call, and have it go wrong if it is its turn."""
        return self._run(self.meet(call), call, given, work)

    def run_batch(
        self, call: str, batch: Sequence[T], work: Callable[[Sequence[T]], Sequence[Failure]]
    ) -> Sequence[Failure]:
        """Make one call with many elements, of which the first may be refused."""
        kind = self.meet(call)
        if kind is not Kind.PART or not batch:
            return self._run(kind, call, batch, lambda: work(batch))
        refused = [Failure(index=0, code=Code.THROTTLED, reason="refused on purpose")]
        if len(batch) > 1:
            rest = self._run(None, call, batch[1:], lambda: work(batch[1:]))
            refused += [Failure(index=f.index + 1, code=f.code, reason=f.reason) for f in rest]
        return refused

    def _run(self, kind: Kind | None, call: str, given: Any, work: Callable[[], T]) -> T:
        if kind is Kind.LATE:
            self.still += 1
            self.late()
            self.still -= 1
        if kind in (Kind.DOWN, Kind.PART):
            raise Outage(f"{call} is not heard")
        if kind is Kind.DIES:
            raise Died
        answer = work()
        self.seen(call, given)
        if kind is Kind.LOST:
            raise Outage(f"the answer to {call} is lost")
        if kind is Kind.DIES_AFTER:
            raise Died
        return answer


class ShakyBroker:
    """A broker driver before one of `cloudq_local`, on a plan."""

    def __init__(self, inner: Any, plan: Plan) -> None:
        self.inner = inner
        self.plan = plan

    def limits(self, queue: str) -> Limits:
        return self.inner.limits(queue)

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        def work(batch: Sequence[Outgoing]) -> Sequence[Failure]:
            return self.inner.send(queue, batch)

        return self.plan.run_batch("send", messages, work)

    def schedule(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[str | Failure]:
        return self.plan.run("send", messages, lambda: self.inner.schedule(queue, messages))

    def unschedule(self, queue: str, handles: Sequence[str]) -> Sequence[Failure]:
        return self.plan.run("unschedule", handles, lambda: self.inner.unschedule(queue, handles))

    def scheduled(self, queue: str, *, count: int, after: str | None = None) -> Sequence[Scheduled]:
        return self.inner.scheduled(queue, count=count, after=after)

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        return self.plan.run(
            "receive", queue, lambda: self.inner.receive(queue, count=count, wait=wait, lease=lease)
        )

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        return self.plan.run_batch("ack", deliveries, self.inner.ack)

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        def work(batch: Sequence[Delivery]) -> Sequence[Failure]:
            return self.inner.release(batch, after=after)

        return self.plan.run_batch("release", deliveries, work)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        def work(batch: Sequence[Delivery]) -> Sequence[Failure]:
            return self.inner.extend(batch, lease=lease)

        return self.plan.run_batch("extend", deliveries, work)

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        def work(batch: Sequence[Delivery]) -> Sequence[Failure]:
            return self.inner.dead_letter(batch, reason=reason)

        return self.plan.run_batch("dead_letter", deliveries, work)

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        def work(batch: Sequence[Delivery]) -> Sequence[Failure]:
            return self.inner.copy_to_dead(batch, reason=reason)

        return self.plan.run_batch("copy_to_dead", deliveries, work)

    def is_beside(self, store: Any) -> bool:
        beside = getattr(self.inner, "is_beside", None)
        return beside is not None and beside(store.inner)

    def settle(self, store: Any, items: Sequence[Item], deliveries: Sequence[Delivery]) -> bool:
        def work() -> bool:
            return self.inner.settle(store.inner, items, deliveries)

        return self.plan.run("settle", deliveries, work)

    def error_code(self, error: Exception) -> Code:
        return Code.UNREACHABLE if isinstance(error, Outage) else self.inner.error_code(error)

    def close(self) -> None:
        self.inner.close()


class ShakyStore:
    """A backend driver before another, on a plan. It wakes nobody."""

    def __init__(self, inner: BackendDriver, plan: Plan, limits: StoreLimits) -> None:
        self.inner = inner
        self.plan = plan
        self.limits = limits

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        return self.plan.run_batch("put", items, self.inner.put)

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        return self.plan.run("get", keys, lambda: self.inner.get(keys, consistent=consistent))

    def update(self, key: Key, change: Change) -> Item:
        return self.plan.run("update", key, lambda: self.inner.update(key, change))

    def query(self, partition: str, *, after: str | None, limit: int) -> Page:
        return self.plan.run(
            "query", partition, lambda: self.inner.query(partition, after=after, limit=limit)
        )

    def delete(self, keys: Sequence[Key]) -> Sequence[Failure]:
        return self.plan.run_batch("delete", keys, self.inner.delete)

    def error_code(self, error: Exception) -> Code:
        return Code.UNREACHABLE if isinstance(error, Outage) else self.inner.error_code(error)

    def close(self) -> None:
        self.inner.close()
