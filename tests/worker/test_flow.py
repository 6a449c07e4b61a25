"""The work that a worker takes in hand, and the requests that it costs: counted, never timed."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from cloudq import CloudQ
from cloudq.driver import Delivery, Limits, loader
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.runtime import Services
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from cloudq.worker import WorkerOptions, poller
from cloudq.worker import gathering as gathering_module
from cloudq.worker.control.counters import Counters
from cloudq.worker.control.ledger import Ledger
from cloudq.worker.gathering import LONGEST, Gathering
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.leases import Leases
from cloudq.worker.opener import Opener
from cloudq.worker.pace import Pace
from cloudq.worker.poller import Poller, WorkerParts
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.pool.self_pipe import Shutdown
from cloudq.worker.settler import Settler
from cloudq.worker.shares import ReadyLine
from cloudq.worker.slots import Slots
from cloudq.worker.work_off import Crew
from tests.support.faults import FaultyBroker
from tests.worker.harness import Place, until

# ---- the pace


def flights(count: int, *, took: float = 0.0, queue: str = "q", **more: Any) -> list[Flight]:
    """Flights of a queue that children have run in so many seconds."""
    body = encode(TaskMessage(id="x", task="t", queue=queue))
    deliveries = [
        Delivery(queue=queue, id=str(n), body=body, receipt=n, attempts=1, lease=60.0, **more)
        for n in range(count)
    ]
    made = Flights().add(deliveries, time.monotonic() + 60.0)
    for flight in made:
        flight.took = took
    return made


def paced(count: int, *, took: float = 0.001, seconds: float = 60.0) -> Pace:
    pace = Pace(seconds)
    pace.did(flights(count, took=took))
    return pace


def test_as_much_is_held_ahead_as_was_done_lately() -> None:
    pace = paced(40)
    assert pace.ahead("q") == 40
    pace.did(flights(25, took=0.001))
    assert pace.ahead("q") == 65
    pace.did(flights(5_000, took=0.001))
    assert pace.ahead("q") == 1_000


def test_nothing_is_held_of_long_tasks_nor_of_a_queue_that_is_not_known() -> None:
    pace = paced(40)
    assert pace.ahead("other") == 0
    pace.did(flights(40, took=61.0, queue="long"))
    assert pace.ahead("long") == 0
    pace.did(flights(40, took=5_000.0))  # they were short once
    assert pace.ahead("q") == 0


def test_nothing_is_held_where_it_is_turned_off() -> None:
    assert paced(40, seconds=0.0).ahead("q") == 0


def test_large_messages_are_held_by_their_bytes() -> None:
    pace = paced(1_000)
    large = flights(3)
    for flight in large:
        flight.delivery = replace(flight.delivery, body=bytes(4 << 20))
    pace.received(large)
    assert pace.ahead("q") == 4


def test_slots_are_taken_ahead_only_for_those_who_may() -> None:
    slots = Slots(4, {"q": 1, "q.fifo": 1}, paced(40))
    assert slots.take("q", 100, ahead=True) == 44
    assert slots.take_free("q", 10, ahead=True) == 0
    slots.give(41)
    assert slots.take_free("q.fifo", 10) == 1
    assert slots.take_free("q.fifo", 10) == 0
    assert slots.await_free("q", ahead=True) == 40


def test_who_waits_for_more_slots_learns_that_more_may_be_held_ahead() -> None:
    pace = Pace(60.0)
    slots = Slots(16, {"q": 1}, pace)
    assert slots.take("q", 10, ahead=True) == 10
    got: list[int] = []
    waits = threading.Thread(
        target=lambda: got.append(slots.take("q", 10, linger=2 * PATIENCE, ahead=True))
    )
    waits.start()
    until(lambda: slots._lingering, what="it waits")  # pyright: ignore[reportPrivateUsage]
    pace.did(flights(10, took=0.001))  # whose slots are still taken
    slots.ran()
    waits.join(PATIENCE)
    assert got == [10]


# ---- the turn of each queue in hand


def test_what_waits_in_hand_starts_by_the_weights_of_its_queues() -> None:
    line = ReadyLine({"high": 3, "low": 1})
    low, high = flights(40, queue="low"), flights(40, queue="high")
    for flight in low[:20]:
        line.append(flight)
    first = [line.popleft() for _ in range(4)]
    for flight in (*high, *low[20:]):
        line.append(flight)
    assert first == low[:4]
    queues = [line.popleft().delivery.queue for _ in range(40)]
    assert (queues.count("high"), queues.count("low")) == (30, 10)
    again = flights(2, queue="low")
    line.put_first(again)
    assert line.first is again[0]
    assert [line.popleft(), line.popleft()] == again
    rest = [line.popleft() for _ in range(len(line))]
    assert [f for f in rest if f.delivery.queue == "low"] == low[14:]
    assert not line


def test_what_came_last_goes_back_but_not_for_ever_nor_out_of_its_order() -> None:
    line = ReadyLine({})
    held, often, ordered = flights(5), flights(2), flights(2, group="g")
    for flight in often:
        flight.delivery = replace(flight.delivery, attempts=3)
    for flight in held:
        line.append(flight)
    assert line.give_up(3, before=-1.0) == []  # the first has not waited for so long
    assert line.give_up(-2, before=0.0) == []
    assert line.give_up(2, before=0.0) == [held[4], held[3]]
    for flight in (*often, *ordered):
        line.append(flight)
    assert line.give_up(9, before=0.0) == []
    assert list(line) == [*held[:3], *often, *ordered]


# ---- the pauses of a poller


def pauses(gathering: Gathering, received: Sequence[int], asked: int = 10) -> list[bool]:
    return [gathering.after(count, asked) > 0.0 for count in received]


def test_a_poller_pauses_rarely_where_messages_come_one_by_one() -> None:
    gathering = Gathering()
    paused = pauses(gathering, [1] * 1_000)
    assert 3 <= sum(paused) <= 8
    assert not any(paused[:15])


def test_a_poller_pauses_where_a_pause_brings_more() -> None:
    gathering = Gathering()
    while not gathering.after(1, 10):
        pass
    assert all(pauses(gathering, [5] * 20))
    assert pauses(gathering, [10] * 5) == [True, True, False, False, False]  # a backlog
    assert gathering.after(3, 10) <= LONGEST
    assert gathering.after(1, 10) == 0.0  # it has brought no second one
    assert not any(pauses(gathering, [1] * 15))


def test_a_steady_stream_is_received_in_full_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(gathering_module, "time", SimpleNamespace(monotonic=lambda: now))
    gathering, sent, receives = Gathering(), [number / 700 for number in range(7_000)], 0
    place = 0
    while place < len(sent):  # a long poll, whose answer is 3 ms away
        now = max(now + 0.003, sent[place])
        found = min(10, bisect_right(sent, now) - place)
        place, receives = place + found, receives + 1
        now += gathering.after(found, 10)
    assert receives < 0.12 * len(sent)  # 0.15 without pauses after full ones


# ---- receives, counted


class Hand:
    """A worker without children: what its poller receives stays in hand."""

    def __init__(self, stack: ExitStack, *, slots: int, pace: Pace, queue: str = "q") -> None:
        self.app = CloudQ("flow", broker=f"memory://{uuid4().hex}", task_default_queue=queue)
        self.wire = FaultyBroker(loader.open_broker(self.app.conf.broker))
        self.wire.change_limits = self._limits
        self.app.runtime.services = Services(
            open_broker=lambda url: self.wire, open_backend=loader.open_backend
        )
        self.app.task(name="t")(print)
        self.queue = queue
        self.flights = Flights()
        self.slots = Slots(slots, {queue: 1}, pace)
        executor = self.app.executor()
        settler = Settler(
            Consumer(executor, log=Log("test")), released=self._forget, starved=lambda: False
        )
        self.dispatcher = Dispatcher(
            executor=executor, broker=self.app.broker, settler=settler, max_tasks_per_child=None
        )
        options = WorkerOptions(app_path="", queues=((queue, 1),), processes=1, threads=slots)
        parts = WorkerParts(
            app=self.app,
            options=options,
            executor=executor,
            flights=self.flights,
            slots=self.slots,
            pace=pace,
            leases=Leases(self.app.broker, self.flights, 60.0, wake=lambda: None),
            dispatcher=self.dispatcher,
            settler=settler,
            opener=Opener(
                executor, self.app.broker, self.dispatcher, settler, self.flights, self.slots
            ),
            ledger=Ledger(self.app.runtime, Counters()),
            shutdown=Shutdown(),
        )
        self.poller = Poller(queue, parts)
        settler.start()
        stack.callback(self.app.close)
        stack.callback(settler.stop)
        stack.callback(self.stop)

    def _limits(self, limits: Limits) -> Limits:
        return replace(limits, batch=10, billed=True, ordered=self.queue.endswith(".fifo"))

    def _forget(self, gone: Sequence[Flight]) -> None:
        self.flights.remove(gone)
        self.slots.give(len(gone))

    def send(self, count: int) -> None:
        group = "g" if self.queue.endswith(".fifo") else None
        messages = [
            TaskMessage(id=uuid4().hex, task="t", queue=self.queue, group_key=group and f"g{n}")
            for n in range(count)
        ]
        self.app.broker.send(messages)

    def holds(self, count: int) -> None:
        eventually(lambda: len(self.flights) >= count)
        assert len(self.flights) == count

    def stop(self) -> None:
        self.poller.stop()
        self.slots.close()
        self.dispatcher.close()
        self.send(1)  # ends the receive under way
        eventually(lambda: not self.poller.receiving)


@pytest.fixture
def hand() -> Iterator[Callable[..., Hand]]:
    with ExitStack() as stack:
        yield lambda **more: Hand(stack, **more)


def test_messages_that_come_one_by_one_cost_a_receive_each(hand: Callable[..., Hand]) -> None:
    it: Hand = hand(slots=100, pace=Pace(0.0))
    it.poller.start()
    eventually(lambda: it.wire.calls["receive"] == 2)  # the first finds it empty, the next waits
    for number in range(14):
        it.send(1)
        it.holds(number + 1)
        eventually(lambda number=number: it.wire.calls["receive"] == 3 + number)


def test_a_backlog_is_received_in_full_batches(hand: Callable[..., Hand]) -> None:
    it: Hand = hand(slots=200, pace=Pace(0.0))
    it.send(150)
    it.poller.start()
    it.holds(150)
    # One by one they would be 150. At the end each of those at work may find it empty.
    assert it.wire.calls["receive"] <= 15 + 6


def test_what_finds_no_slot_is_left_to_another_worker_unless_it_has_an_order(
    hand: Callable[..., Hand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "STALLED", 0.0)
    for queue, back in (("q", 1), ("q.fifo", 0)):
        it: Hand = hand(slots=1, pace=Pace(0.0), queue=queue)
        it.poller.start()
        eventually(lambda it=it: it.wire.calls["receive"] == 2)  # it waits, with no slot taken
        it.slots.overdraw(queue, 1)
        it.send(1)
        eventually(lambda it=it, back=back: it.slots.starved() and it.wire.calls["release"] == back)
        assert len(it.flights) == 1 - back
        it.slots.give(1)
        eventually(lambda it=it: all(each.job for each in it.flights.all()) and it.flights.all())
        assert it.wire.calls["release"] == back


@pytest.mark.parametrize(("queue", "held"), [("q", 30), ("q.fifo", 4)])
def test_a_worker_holds_ahead_what_it_did_lately(
    hand: Callable[..., Hand], queue: str, held: int
) -> None:
    pace = Pace(600.0)
    pace.did(flights(30, took=0.001, queue=queue))
    it: Hand = hand(slots=4, pace=pace, queue=queue)
    it.send(60)
    it.poller.start()
    it.holds(held)


def test_what_has_expired_in_hand_is_not_started(hand: Callable[..., Hand]) -> None:
    it: Hand = hand(slots=4, pace=Pace(0.0))
    it.poller.start()
    it.app.broker.send(
        [TaskMessage(id="a", task="t", queue="q", expires=it.app.broker.clock() + 0.2)]
    )
    it.holds(1)
    (flight,) = it.flights.all()

    def is_over() -> bool:
        it.dispatcher.pump()
        return flight.settling

    eventually(is_over)


# ---- what a crew does in one attempt


class Work:
    """Attempts that last until `go`; notes what each was made at."""

    def __init__(self) -> None:
        self.attempts: list[list[int]] = []
        self.go = threading.Event()

    def attempt(self, items: list[int]) -> list[int]:
        self.attempts.append(items)
        assert self.go.wait(PATIENCE)
        return []


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.go.set()


def test_what_comes_during_an_attempt_shares_the_next(work: Work) -> None:
    crew: Crew[int] = Crew(work.attempt, name="crew", full=100)
    crew.start()
    crew.put([0])
    eventually(lambda: len(work.attempts) == 1)
    for number in range(1, 20):
        crew.put([number])
    work.go.set()
    eventually(lambda: len(work.attempts) == 2)
    assert work.attempts == [[0], list(range(1, 20))]
    crew.end(PATIENCE)


def test_others_join_in_where_enough_waits_for_a_full_attempt(work: Work) -> None:
    crew: Crew[int] = Crew(work.attempt, name="crew", full=3)
    crew.start(helpers=2)
    crew.put([0])
    eventually(lambda: len(work.attempts) == 1)
    crew.put([1, 2, 3, 4, 5, 6])
    eventually(lambda: len(work.attempts) == 3)
    assert sorted(work.attempts) == [[0], [1, 2, 3], [4, 5, 6]]
    work.go.set()
    crew.end(PATIENCE)


def test_others_join_in_where_an_attempt_is_late(work: Work) -> None:
    crew: Crew[int] = Crew(work.attempt, name="crew", full=100)
    crew.start(helpers=2)
    for number in range(3):
        crew.put([number])
        eventually(lambda number=number: len(work.attempts) == number + 1)
    work.go.set()
    crew.end(PATIENCE)


def test_a_crew_that_lingers_goes_when_it_is_full_or_in_a_hurry(work: Work) -> None:
    work.go.set()
    hurries: list[None] = []
    crew: Crew[int] = Crew(
        work.attempt, name="crew", full=3, linger=PATIENCE, hurries=lambda: bool(hurries)
    )
    crew.start()
    crew.put([0])
    crew.put([1])
    assert not work.attempts
    crew.put([2])
    eventually(lambda: work.attempts == [[0, 1, 2]])
    crew.put([3])
    hurries.append(None)
    crew.put([4])
    eventually(lambda: [n for each in work.attempts for n in each] == [0, 1, 2, 3, 4])
    crew.end(PATIENCE)


# ---- a worker


@pytest.mark.slow
def test_what_waits_behind_long_tasks_is_left_to_another_worker(sqlite_place: Place) -> None:
    app = sqlite_place.app
    quick = [app.send_task("drill_tasks.pid") for _ in range(80)]
    held = [app.send_task("drill_tasks.hold", [f"long {n}"]) for n in range(2)]
    worker = sqlite_place.start("-c", "1", "-t", "1", "--prefetch", "1")
    quick[-1].get(timeout=PATIENCE)
    until(lambda: "start long 0" in sqlite_place.entries(), what="the first long task starts")
    sqlite_place.start("-c", "1", "-t", "1")
    until(lambda: "start long 1" in sqlite_place.entries(), what="the other worker has the second")
    sqlite_place.let_go()
    assert [each.get(timeout=PATIENCE) for each in held] == ["long 0", "long 1"]
    assert worker.stop() == 0
