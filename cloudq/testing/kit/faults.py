"""A fault plan in front of any driver: its calls fail, repeat or end the worker as declared."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cloudq.driver import (
    BackendDriver,
    BrokerDriver,
    Change,
    Code,
    Delivery,
    Failure,
    Item,
    Key,
    Outgoing,
)
from cloudq.errors import DecodeError
from cloudq.messages.body import decode
from cloudq.messages.bundle import START, Unread, read_bundle
from cloudq.messages.message import TaskMessage
from cloudq.testing.kit.plan import Kind, Outage, Rules, Unit
from cloudq.testing.kit.wrapping import wrapped


class FaultPlan(Rules):
    """Faults to come, in front of any driver. Safe to use from many threads.

    Declare them, open the drivers through `broker` and `store` (`worker` and `in_memory` do it),
    and in the end ask `assert_all_happened`. The filters of a declaration: `queue`, `task` (its
    name), `nth` of those (1 = the first), `times` in a row, or a `chance` for each. What is
    counted are messages where a message is meant (`deliver_twice`, `deliver_late`, `die` at the
    start or end, `throttle` of a batch), else calls.
    """

    def broker(self, driver: BrokerDriver) -> BrokerDriver:
        """Put this plan in front of a broker driver."""
        return _FaultyBroker(self, driver).driver

    def store(self, driver: BackendDriver) -> BackendDriver:
        """Put this plan in front of a backend driver."""
        return _FaultyStore(self, driver).driver

    def call(self, call: str, units: Sequence[Unit], work: Callable[[], Any]) -> Any:
        """Make a call, with the faults that are due at it."""
        self.live()
        if self.hit(Kind.DOWN, call, units):
            raise Outage(f"{call}: the service is down, as planned", Code.UNREACHABLE)
        if self.hit(Kind.DIES, call, units):
            self.die_here()
        answer = work()
        if self.hit(Kind.DIES, call, units, after=True):
            self.die_here()
        if self.hit(Kind.LOST, call, units):
            raise Outage(f"{call}: the response was lost, as planned", Code.UNREACHABLE)
        return answer

    def throttled(self, call: str, units: Sequence[Unit]) -> dict[int, Failure]:
        """Return the refusals due at single messages or items, by index."""
        reason = f"{call}: too many, as planned"
        places = self.hit_each(Kind.THROTTLED, call, units)
        return {p: Failure(index=p, code=Code.THROTTLED, reason=reason) for p in sorted(places)}

    def throttle_whole(self, call: str, units: Sequence[Unit]) -> None:
        """Raise `Outage` if a call without a batch is to be throttled."""
        self.live()
        if self.hit(Kind.THROTTLED, call, units):
            raise Outage(f"{call}: too many requests, as planned", Code.THROTTLED)


class _Again:
    """The receipt of a repeated delivery; settling it does nothing."""


class _FaultyBroker:
    """The methods that replace those of a broker driver."""

    def __init__(self, plan: FaultPlan, inner: Any) -> None:
        self._plan = plan
        self._inner = inner
        self._lock = threading.Lock()
        # By queue: deliveries for one of the next receives.
        self._waiting: defaultdict[str, deque[Delivery]] = defaultdict(deque)
        settling = ("ack", "release", "extend", "dead_letter")
        self.driver: Any = wrapped(
            inner,
            {
                "send": self.send,
                "schedule": self.schedule,
                "receive": self.receive,
                **{name: partial(self._settle, name) for name in settling},
                "error_code": self.error_code,
            },
        )

    def error_code(self, error: Exception) -> Code:
        return error.code if isinstance(error, Outage) else self._inner.error_code(error)

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        units = [self._unit(queue, message.body) for message in messages]
        refused = self._plan.throttled("send", units)

        def work(places: Sequence[int]) -> list[Failure]:
            failed = self._inner.send(queue, [messages[p] for p in places])
            return [replace(failure, index=places[failure.index]) for failure in failed]

        return self._rest("send", units, refused, work)

    def schedule(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[str | Failure]:
        units = [self._unit(queue, message.body) for message in messages]
        answers: dict[int, str | Failure] = dict(self._plan.throttled("send", units))
        places = [place for place in range(len(messages)) if place not in answers]
        if places:
            sent = self._plan.call(
                "send",
                [units[p] for p in places],
                partial(self._inner.schedule, queue, [messages[p] for p in places]),
            )
            for place, answer in zip(places, sent, strict=True):
                is_failure = isinstance(answer, Failure)
                answers[place] = replace(answer, index=place) if is_failure else answer
        return [answers[place] for place in range(len(messages))]

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        units = [Unit(queue)]
        self._plan.throttle_whole("receive", units)

        def work() -> list[Delivery]:
            return self._received(queue, count, wait, lease)

        return self._plan.call("receive", units, work)

    def _received(self, queue: str, count: int, wait: float, lease: float) -> list[Delivery]:
        with self._lock:
            waiting = self._waiting[queue]
            first = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        if first:
            return first
        found: list[Delivery] = list(
            self._inner.receive(queue, count=count, wait=wait, lease=lease)
        )
        units = [self._unit(queue, delivery.body) for delivery in found]
        repeated = self._plan.hit_each(Kind.TWICE, "receive", units)
        # Grouped messages keep their order on every service that has groups.
        loose = [place for place, delivery in enumerate(found) if delivery.group is None]
        late = self._plan.hit_each(Kind.LATE, "receive", [units[place] for place in loose])
        held = [loose[place] for place in sorted(late)]
        again = [
            replace(found[p], receipt=_Again(), attempts=found[p].attempts + 1)
            for p in sorted(repeated)
        ]
        ordered = [d for place, d in enumerate(found) if place not in held]
        if held and not ordered:
            ordered = list(self._inner.receive(queue, count=1, wait=0.0, lease=lease))
        for place in held if not ordered else ():
            self._plan.take_back(Kind.LATE, units[place])
        ordered += [found[place] for place in held]
        with self._lock:
            self._waiting[queue].extend([*ordered[count:], *again])
        return ordered[:count]

    def _settle(self, call: str, deliveries: Sequence[Delivery], **named: Any) -> Sequence[Failure]:
        real = [d for d in deliveries if not isinstance(d.receipt, _Again)]
        units = [self._unit(delivery.queue, delivery.body) for delivery in real]
        at = {id(delivery): place for place, delivery in enumerate(deliveries)}
        refused = self._plan.throttled(call, units)

        def work(places: Sequence[int]) -> list[Failure]:
            method = getattr(self._inner, call)
            failed = method([real[p] for p in places], **named)
            return [replace(failure, index=places[failure.index]) for failure in failed]

        failures = self._rest(call, units, refused, work)
        return [replace(failure, index=at[id(real[failure.index])]) for failure in failures]

    def _rest(
        self,
        call: str,
        units: Sequence[Unit],
        refused: dict[int, Failure],
        work: Callable[[Sequence[int]], list[Failure]],
    ) -> list[Failure]:
        """Make the call for what is not refused; return all failures."""
        places = [place for place in range(len(units)) if place not in refused]
        failed: list[Failure] = []
        if places:
            failed = self._plan.call(call, [units[p] for p in places], partial(work, places))
        else:
            self._plan.live()
        return [*refused.values(), *failed]

    def _unit(self, queue: str, body: bytes) -> Unit:
        try:
            calls = _calls(body)
        except DecodeError:
            return Unit(queue)
        for call in reversed(calls):
            self._plan.learn(call.id, Unit(queue, call.task))
        return Unit(queue, calls[0].task) if calls else Unit(queue)


def _calls(body: bytes) -> Sequence[TaskMessage]:
    """Read the calls in a body: one, or those of a bundle. Raises `DecodeError`."""
    if not body.startswith(START):
        return [decode(body, limit=len(body))]
    read = read_bundle(body, limit=len(body))
    return [call for call in read.calls if not isinstance(call, Unread)]


class _FaultyStore:
    """The methods that replace those of a backend driver."""

    def __init__(self, plan: FaultPlan, inner: Any) -> None:
        self._plan = plan
        self._inner = inner
        self.driver: Any = wrapped(
            inner,
            {
                "put": self.put,
                "get": self.get,
                "update": self.update,
                "query": self.query,
                "delete": self.delete,
                "error_code": self.error_code,
            },
        )

    def error_code(self, error: Exception) -> Code:
        return error.code if isinstance(error, Outage) else self._inner.error_code(error)

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        units = [self._unit(item.key) for item in items]
        refused = self._plan.throttled("put", units)
        places = [place for place in range(len(items)) if place not in refused]
        if not places:
            self._plan.live()
            return list(refused.values())
        failed: Sequence[Failure] = self._plan.call(
            "put", [units[p] for p in places], partial(self._inner.put, [items[p] for p in places])
        )
        return [*refused.values(), *(replace(f, index=places[f.index]) for f in failed)]

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Any:
        return self._whole("get", keys, partial(self._inner.get, keys, consistent=consistent))

    def update(self, key: Key, change: Change) -> Item:
        return self._whole("update", [key], partial(self._inner.update, key, change))

    def query(self, partition: str, *, after: str | None, limit: int) -> Any:
        return self._whole(
            "query",
            [Key(partition)],
            partial(self._inner.query, partition, after=after, limit=limit),
        )

    def delete(self, keys: Sequence[Key]) -> Any:
        return self._whole("delete", keys, partial(self._inner.delete, keys))

    def _whole(self, call: str, keys: Sequence[Key], work: Callable[[], Any]) -> Any:
        units = [self._unit(key) for key in keys]
        self._plan.throttle_whole(call, units)
        return self._plan.call(call, units, work)

    def _unit(self, key: Key) -> Unit:
        return self._plan.unit_of(key.partition.removeprefix("task#"))
