"""Between receipt and child, and after the end: threads that survive a failing store and end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from cloudq import CloudQ
from cloudq.driver import BackendDriver, BrokerDriver, Code, Delivery, Item, Key, Limits, loader
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import Action, Settlement
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.runtime import Services
from cloudq.testing import FaultPlan, eventually
from cloudq.testing.kit.wrapping import wrapped
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.opener import Opener
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.settler import Settler
from cloudq.worker.slots import Slots

ORDERED = "lane.fifo"


class Rig:
    """A worker without pollers and children: what is opened stays with the dispatcher."""

    def __init__(self, plan: FaultPlan, *, billed: bool) -> None:
        self.plan = plan
        self.calls: Counter[str] = Counter()
        self.app = CloudQ("opener", broker=f"memory://{uuid4().hex}", backend="memory://store")
        self.app.runtime.services = Services(
            open_broker=self._broker, open_backend=lambda url: self._store(url, billed)
        )
        self.app.task(_answer, name="t")
        self.out: list[Flight] = []
        self.flights = Flights()
        executor = self.app.executor()
        consumer = Consumer(executor, log=Log("test"))
        self.settler = Settler(consumer, released=self._forget, starved=lambda: False)
        self.dispatcher = Dispatcher(
            executor=executor,
            broker=self.app.broker,
            settler=self.settler,
            max_tasks_per_child=None,
        )
        self.opener = Opener(
            executor,
            self.app.broker,
            self.dispatcher,
            self.settler,
            self.flights,
            Slots(8, {"default": 1}),
        )
        self.settler.start()

    def _broker(self, url: str) -> BrokerDriver:
        inner = loader.open_broker(url)

        def limits(queue: str) -> Limits:
            return replace(inner.limits(queue), ordered=queue == ORDERED)

        return wrapped(self.plan.broker(inner), {"limits": limits})

    def _store(self, url: str, billed: bool) -> BackendDriver:
        inner = loader.open_backend(url)
        driver: Any = self.plan.store(inner)
        calls = {name: self._counted(name, getattr(driver, name)) for name in ("get", "update")}
        return wrapped(driver, {**calls, "limits": replace(inner.limits, billed=billed)})

    def _counted(self, name: str, call: Any) -> Any:
        def counted(*args: Any, **named: Any) -> Any:
            self.calls[name] += 1
            return call(*args, **named)

        return counted

    def _forget(self, flights: Sequence[Flight]) -> None:
        self.flights.remove(flights)
        self.out += flights

    def take(self, count: int, *, queue: str = "default", groups: int = 0) -> list[Flight]:
        """Messages that are delivered a second time, so that each asks the store for itself."""
        deliveries = [
            Delivery(
                queue=queue,
                id=(id := f"{uuid4().hex}"),
                body=encode(TaskMessage(id=id, task="t", queue=queue)),
                receipt="r",
                attempts=2,
                lease=60.0,
                group=f"g{n % groups}" if groups else None,
            )
            for n in range(count)
        ]
        return self.flights.add(deliveries, time.monotonic() + 60.0)

    def close(self) -> None:
        self.opener.stop()
        self.dispatcher.close()
        self.settler.stop()
        self.app.close()


def _answer() -> int:
    return 1


def threads(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.removeprefix("late-") == name]


@pytest.fixture
def rigs() -> Iterator[Any]:
    with ExitStack() as stack:

        def make(plan: FaultPlan, *, billed: bool = True) -> Rig:
            rig = Rig(plan, billed=billed)
            stack.callback(rig.close)
            return rig

        yield make
    eventually(lambda: not [*threads("open"), *threads("commit"), *threads("dispose")])


def all_opened(flights: Sequence[Flight]) -> bool:
    return all(flight.job is not None for flight in flights)


@pytest.mark.parametrize("billed", [True, False], ids=["by threads", "by the poller"])
def test_what_a_failing_store_refuses_is_opened_in_the_end(rigs: Any, billed: bool) -> None:
    rig: Rig = rigs(FaultPlan(7).store_down(chance=0.3), billed=billed)
    flights = rig.take(100)
    for start in range(0, 100, 10):
        rig.opener.open(flights[start : start + 10])
    eventually(lambda: all_opened(flights))
    ready = list(rig.dispatcher._ready)  # pyright: ignore[reportPrivateUsage]
    assert Counter(map(id, ready)) == Counter(map(id, flights))
    assert rig.out == []


@pytest.mark.parametrize("billed", [True, False], ids=["by threads", "by the poller"])
def test_a_failing_share_of_requests_costs_about_its_share(rigs: Any, billed: bool) -> None:
    """No message that has passed is asked for again: else 20 % would cost ten times as much."""
    needed: list[int] = []
    for chance in (0.0, 0.2):
        plan = FaultPlan(3).store_down(chance=chance) if chance else FaultPlan(3)
        rig: Rig = rigs(plan, billed=billed)
        flights = rig.take(200)
        for start in range(0, 200, 10):
            rig.opener.open(flights[start : start + 10])
        eventually(lambda flights=flights: all_opened(flights))
        needed.append(rig.calls.total())
    assert needed[1] < 1.7 * needed[0]


@pytest.mark.parametrize("billed", [True, False], ids=["by threads", "by the poller"])
def test_messages_of_a_group_keep_their_order_when_the_store_fails(rigs: Any, billed: bool) -> None:
    rig: Rig = rigs(FaultPlan(11).store_down(chance=0.3), billed=billed)
    flights = rig.take(90, queue=ORDERED, groups=3)
    for start in range(0, 90, 10):
        rig.opener.open(flights[start : start + 10])
    eventually(lambda: all_opened(flights))
    ready = list(rig.dispatcher._ready)  # pyright: ignore[reportPrivateUsage]
    lanes = rig.dispatcher._lanes  # pyright: ignore[reportPrivateUsage]
    for group in ("g0", "g1", "g2"):
        first = [flight for flight in ready if flight.delivery.group == group]
        order = [flight.number for flight in (*first, *lanes[ORDERED, group])]
        assert order == [f.number for f in flights if f.delivery.group == group]


@pytest.mark.parametrize("billed", [True, False], ids=["by threads", "by the poller"])
def test_at_a_stop_what_waits_for_the_store_goes_back(rigs: Any, billed: bool) -> None:
    rig: Rig = rigs(FaultPlan().store_down(chance=1.0), billed=billed)
    flights = received(rig, 30)
    rig.opener.open(flights)
    rig.opener.open(later := received(rig, 5, queue=ORDERED))
    assert threads("open")
    eventually(lambda: rig.calls["get"] > 2)
    assert not any(flight.settling for flight in flights)
    rig.opener.stop()
    eventually(lambda: not threads("open"))
    rig.opener.open(last := received(rig, 1))  # a poller was still receiving it
    eventually(lambda: len(rig.out) == 36)
    assert all(flight.settling for flight in (*flights, *later, *last))
    assert len(rig.flights) == 0
    assert not all_opened([*flights, *later, *last])


def test_an_outage_that_ends_is_seen_by_all_that_waits(rigs: Any) -> None:
    rig: Rig = rigs(FaultPlan().store_down(calls=6))
    flights = rig.take(20)
    for flight in flights:
        rig.opener.open([flight])
    eventually(lambda: all_opened(flights))
    assert len({flight.number for flight in flights}) == 20


class Panic(BaseException):
    """The panic of a library in Rust."""


@pytest.mark.parametrize("error", [ValueError, MemoryError, Panic, SystemExit])
def test_what_raises_while_it_is_opened_ends_no_thread(
    rigs: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    rig: Rig = rigs(FaultPlan())
    whole = rig.app.runtime.services.clock
    raised: list[str] = []

    def clock() -> float:  # the time is asked for in the middle of the sorting of messages
        if len(raised) < 1 and threading.current_thread().name == "open":
            raised.append(threading.current_thread().name)
            raise error("as planned")
        return whole()

    monkeypatch.setattr(rig.app.runtime, "services", replace(rig.app.runtime.services, clock=clock))
    first = rig.take(3)
    rig.opener.open(first)
    eventually(lambda: len(raised) == 1)
    # A message alone that raises is dead-lettered; together, each is opened for itself.
    eventually(lambda: all(flight.job or flight.settling for flight in first))
    assert len(threads("open")) == 4
    second = rig.take(3)
    rig.opener.open(second)
    eventually(lambda: all_opened(second))


def settled_pairs(flights: Sequence[Flight]) -> list[tuple[Flight, Settlement]]:
    return [(flight, Settlement(action=Action.ACK)) for flight in flights]


def received(rig: Rig, count: int, *, queue: str = "default") -> list[Flight]:
    """Messages that the broker has leased, each of a group of its own where there is an order."""
    groups = [f"g{n}" if queue == ORDERED else None for n in range(count)]
    rig.app.broker.send(
        [TaskMessage(id=uuid4().hex, task="t", queue=queue, group_key=group) for group in groups]
    )
    found: list[Delivery] = []
    while len(found) < count:
        found += rig.app.broker.receive(queue, count=count - len(found), wait=1.0, lease=60.0)
    return rig.flights.add(found, time.monotonic() + 60.0)


def test_outcomes_that_a_failing_broker_refuses_are_settled_once_each(rigs: Any) -> None:
    plan = FaultPlan(5)
    rig: Rig = rigs(plan)
    flights = received(rig, 100)
    plan.broker_down(chance=0.2)
    rig.settler.settle(settled_pairs(flights))
    eventually(lambda: len(rig.out) == 100)
    assert Counter(map(id, rig.out)) == Counter(map(id, flights))
    stats = rig.app.broker.admin.stats("default")
    assert (stats.ready, stats.leased) == (0, 0)


def test_the_settlers_threads_end_while_the_broker_is_down(rigs: Any) -> None:
    plan = FaultPlan()
    rig: Rig = rigs(plan)
    flights = received(rig, 20)
    plan.broker_down(chance=1.0)
    rig.settler.settle(settled_pairs(flights))
    eventually(lambda: len(plan.happened) > 3)
    rig.settler.stop()
    assert not [*threads("commit"), *threads("gather"), *threads("dispose")]
    assert rig.out == []  # their leases bring them back


def test_records_that_a_failing_store_refuses_are_all_written(rigs: Any) -> None:
    rig: Rig = rigs(FaultPlan(9).store_down(chance=0.3))
    flights = received(rig, 60)
    rig.opener.open(flights)
    eventually(lambda: all_opened(flights))
    executor = rig.app.executor()
    ids = [flight.job.message.id for flight in flights if flight.job]
    rig.settler.settle([(f, executor.run(f.job)) for f in flights if f.job is not None])
    eventually(lambda: len(rig.out) == 60)
    rig.plan.faults.clear()
    records = rig.app.backend.records(ids)
    assert {str(record.state) for record in records.values()} == {"SUCCESS"}
    assert len(records) == 60


def test_an_error_of_one_batch_is_an_outage_of_that_batch_alone(rigs: Any) -> None:
    """Records are put in batches: the second one's failure says nothing of the first."""
    plan = FaultPlan()
    rig: Rig = rigs(plan)
    backend, size = rig.app.backend, rig.app.backend.driver.limits.put
    items = [Item(key=Key("p", f"{n:05d}"), fields={"n": n}) for n in range(2 * size)]
    plan.store_down(nth=2)
    failed = backend.put(items)
    assert sorted(failed) == list(range(size, 2 * size))
    assert {failure.code for failure in failed.values()} == {Code.UNREACHABLE}
    assert len(backend.query("p", limit=3 * size).items) == size
