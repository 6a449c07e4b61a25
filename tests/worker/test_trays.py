"""Plain calls of a bundle that a worker holds as one, and what becomes of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cloudq import AsyncResult, CloudQ, State
from cloudq.driver import Change, Item, Key
from cloudq.driver.log import Log
from cloudq.execution.bundles import Held
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import Action
from cloudq.results.bundle_item import Delivered
from cloudq.testing import drain, eventually
from cloudq.testing.kit.wrapping import wrapped
from cloudq.worker.control.counters import Counters
from cloudq.worker.in_flight import Ended, Ends, Flight, Flights, Tray
from cloudq.worker.pool import pipe
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.pool.plain_jobs import PlainJobs, by_shape
from cloudq.worker.settler import Settler
from cloudq.worker.shares import ReadyLine, calls_of, singly

COUNT = 6


def add(a: int, b: int) -> int:
    return a + b


class Hands:
    """A worker's flights and its settler, without the processes that run calls."""

    def __init__(self, app: CloudQ) -> None:
        self.app = app
        self.task = app.task(add, name="add")
        self.executor = app.executor(hostname="here")
        self.flights = Flights()
        self.counters = Counters(self.executor.tasks)
        self.settler = Settler(
            Consumer(self.executor, log=Log("cloudq.tests")),
            released=self.flights.remove,
            ended=self.flights.remove_plain,
            starved=bool,
            counters=self.counters,
        )
        self.settler.start()

    def receive(self) -> tuple[list[AsyncResult[int]], Tray]:
        results = self.app.publish([self.task.prepare(n, 1) for n in range(COUNT)], bundle=COUNT)
        deliveries = self.app.broker.receive("default", count=1, wait=0.0, lease=60)
        [flight] = self.flights.add(deliveries, float("inf"))
        [plain] = self.executor.sort(deliveries).plain
        return results, self.flights.hold_plain(flight, plain)

    def ends(self, tray: Tray, *numbers: int) -> Ends:
        run = self.executor.plain_run(tray.calls, tray.parcel.whole)
        return Ends(tray=tray, ends=[_ended(number, run.run(number)) for number in numbers])

    @property
    def leased(self) -> int:
        return self.app.broker.admin.stats("default").leased

    def states(self, results: list[AsyncResult[int]]) -> list[State]:
        backend = self.app.backend
        assert backend is not None
        backend.bundles.seen.forget()
        return [self.app.AsyncResult(result.id).state for result in results]


def _ended(number: int, success: object) -> Ended:
    assert isinstance(success, tuple)
    value, started, finished = success
    return number, value, started, finished, finished - started


@pytest.fixture
def hands() -> Iterator[Hands]:
    with CloudQ("trays", broker="memory://trays") as app:
        hands = Hands(app)
        yield hands
        hands.settler.stop()


def test_when_all_have_ended_the_message_is_done(hands: Hands) -> None:
    results, tray = hands.receive()
    assert (len(hands.flights), len(hands.flights.all())) == (COUNT, 1)
    hands.settler.settle_plain([hands.ends(tray, 3, 1, 0)])
    assert hands.states(results) == [State.PENDING] * COUNT, "they wait for the others"
    hands.settler.settle_plain([hands.ends(tray, 2, 5, 4)])
    eventually(lambda: not hands.flights)
    assert [result.get(timeout=0) for result in results] == [n + 1 for n in range(COUNT)]
    assert (hands.leased, hands.flights.all()) == (0, [])


def test_what_ends_while_others_run_on_is_recorded_within_a_second(hands: Hands) -> None:
    results, tray = hands.receive()
    hands.settler.settle_plain([hands.ends(tray, 0, 1)])
    eventually(lambda: hands.states(results) == [State.SUCCESS] * 2 + [State.PENDING] * 4)
    assert (hands.leased, len(hands.flights), len(hands.flights.all())) == (1, COUNT - 2, 1)
    hands.settler.settle_plain([hands.ends(tray, 2, 3, 4, 5)])
    eventually(lambda: not hands.flights)
    assert hands.states(results) == [State.SUCCESS] * COUNT
    assert hands.leased == 0


def test_what_has_not_ended_goes_back_without_what_has(hands: Hands) -> None:
    results, tray = hands.receive()
    tray.cut(4, 1.0)
    hands.settler.settle_plain([hands.ends(tray, 0, 1)])
    running = tray.take_out([2, 3], given_at=1.0)
    waiting = tray.take_waiting()
    assert [flight.number - tray.first for flight in (*running, *waiting)] == [2, 3, 4, 5]
    assert len(hands.flights) == COUNT
    hands.settler.release([*running, *waiting], "the worker stops")
    eventually(lambda: not hands.flights)
    assert hands.states(results) == [State.SUCCESS] * 2 + [State.PENDING] * 4
    assert (hands.leased, hands.app.broker.admin.stats("default").ready) == (0, 1)
    drain(hands.app)
    assert [result.get(timeout=0) for result in results] == [n + 1 for n in range(COUNT)]


@pytest.mark.parametrize("known_by", ["doubtful", "lost", "lease_ends"])
def test_ends_of_a_lost_lease_are_not_recorded(hands: Hands, known_by: str) -> None:
    results, tray = hands.receive()
    backend = hands.app.backend
    assert backend is not None
    backend.bundles.claim(tray.parcel.name, Delivered(tray.parcel.whole.id, 2))
    setattr(tray.flight, known_by, 0.0 if known_by == "lease_ends" else True)
    hands.settler.settle_plain([hands.ends(tray, *range(COUNT))])
    eventually(lambda: not hands.flights)
    assert hands.states(results) == [State.PENDING] * COUNT
    assert hands.leased == 1, "whoever has the message settles it"


def test_a_mark_of_revocation_is_found_when_ends_are_recorded(hands: Hands) -> None:
    results, tray = hands.receive()
    results[1].revoke()
    results[4].revoke()
    hands.settler.settle_plain([hands.ends(tray, 0, 1)])
    eventually(lambda: hands.states(results)[0] is State.SUCCESS)
    eventually(lambda: set(tray.parcel.revoked) == {4})


def test_they_are_counted_as_others_are(hands: Hands) -> None:
    _, tray = hands.receive()
    ends = hands.ends(tray, *range(COUNT))
    hands.counters.add_plain(ends)
    others = Counters(hands.executor.tasks)
    others.add([(flight.delivery, end) for flight, end in tray.pairs(ends.ends)])
    assert hands.counters.ends() == others.ends() == {("add", "SUCCESS"): COUNT}
    assert hands.counters.runtimes()["add"][0] == others.runtimes()["add"][0]
    [(called, row)] = hands.counters.handled().items()
    [(same, other)] = others.handled().items()
    assert (called, row.tasks, row.records, row.stored) == (
        same,
        other.tasks,
        other.records,
        other.stored,
    )
    assert (row.messages, row.size) == (pytest.approx(other.messages), pytest.approx(other.size))


def test_a_tray_waits_as_its_calls_would(hands: Hands) -> None:
    _, tray = hands.receive()
    _, other = hands.receive()
    line = ReadyLine({"default": 1})
    for each in (tray, other):
        line.append(each.flight)
    assert (len(line), calls_of([tray.flight, other.flight])) == (2 * COUNT, 2 * COUNT)
    cut = line.cut(tray, 4, 5.0)
    assert (sorted(cut.left), cut.number, len(line)) == ([0, 1, 2, 3], tray.first, 2 * COUNT - 4)
    assert line.first is tray.flight
    line.take_apart()
    flights: list[Flight] = []
    while line:
        flights.append(line.popleft())
    assert [f.number for f in flights] == [
        *range(tray.first + 4, tray.first + COUNT),
        *range(other.first, other.first + COUNT),
    ]
    assert singly(flights) == flights
    assert len(hands.flights) == 2 * COUNT
    assert [f.released("x").action for f in cut.take_out([1])] == [Action.RELEASE]
    assert sorted(cut.left) == [0, 2, 3]


def test_what_is_held_of_a_bundle_comes_as_one(hands: Hands) -> None:
    _, tray = hands.receive()
    held = Held[int](lambda _: tray.parcel.part(0))
    assert held.added(tray.parcel, range(3), [7]) == []
    assert held.added(tray.parcel, range(2, COUNT), [8, 9]) == [7, 8, 9]
    assert not held


def test_their_number_is_never_less_than_none(hands: Hands) -> None:
    hands.app.publish([hands.task.prepare(n, 1) for n in range(3)], bundle=3)
    [delivery] = hands.app.broker.receive("default", count=1, wait=0.0, lease=60)
    [plain] = hands.executor.sort([delivery]).plain
    flights, done = Flights(), threading.Event()
    raised: list[ValueError] = []

    def look() -> None:
        while not done.is_set():
            try:
                len(flights)
            except ValueError as error:
                raised.append(error)

    looker = threading.Thread(target=look)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        looker.start()
        for _ in range(3_000):
            tray = flights.hold_plain(flights.add([delivery], 0.0)[0], plain)
            last = tray.take_out([2])
            flights.remove_plain(tray, 2)
            flights.remove(last)
    finally:
        sys.setswitchinterval(before)
        done.set()
        looker.join()
    assert raised == []
    assert not flights


class LostMeanwhile(Flight):
    """A flight whose lease is lost just after it was looked at."""

    looks = 0

    @property
    def lost(self) -> bool:
        self.looks += 1
        return self.looks > 1

    @lost.setter
    def lost(self, value: bool) -> None: ...


def dispatcher_of(hands: Hands) -> Dispatcher:
    return Dispatcher(
        executor=hands.executor,
        broker=hands.app.broker,
        settler=hands.settler,
        max_tasks_per_child=None,
    )


def test_a_tray_whose_lease_is_lost_as_it_is_handed_out_is_not_settled_as_one_call(
    hands: Hands,
) -> None:
    _, tray = hands.receive()
    whole = tray.flight
    tray.flight = LostMeanwhile(
        number=whole.number, delivery=whole.delivery, lease_ends=whole.lease_ends, tray=tray
    )
    dispatcher = dispatcher_of(hands)
    dispatcher.submit([tray.flight])
    assert (dispatcher.waiting, tray.waiting) == (COUNT, COUNT)
    dispatcher.close()
    eventually(lambda: not hands.flights)
    assert hands.flights.all() == []


def test_a_call_that_has_ended_its_process_comes_again_as_a_suspect(hands: Hands) -> None:
    """Each delivery is the first where they are not counted."""
    _, tray = hands.receive()
    culprit, *others = tray.take_waiting()
    dispatcher = dispatcher_of(hands)
    dispatcher.convict(culprit)
    hands.settler.release([culprit, *others], "its process died")
    eventually(lambda: not hands.flights)
    [again] = hands.app.broker.receive("default", count=1, wait=0.0, lease=60)
    [flight] = hands.flights.add([replace(again, attempts=1)], float("inf"))
    [plain] = hands.executor.sort([flight.delivery]).plain
    hands.flights.hold_plain(flight, plain)
    dispatcher.submit([flight])
    assert (dispatcher.suspects, dispatcher.waiting) == (1, COUNT)


def test_what_raises_in_the_store_s_library_ends_no_thread(hands: Hands) -> None:
    """The panic of a library in Rust is no `Exception`."""
    backend = hands.app.backend
    assert backend is not None
    driver, panics = backend.driver, ["as planned"]

    def update(key: Key, change: Change) -> Item:
        if panics:
            raise BaseException(panics.pop())
        return driver.update(key, change)

    backend.driver = wrapped(driver, {"update": update})
    results, tray = hands.receive()
    hands.settler.settle_plain([hands.ends(tray, *range(COUNT))])
    eventually(lambda: not hands.flights)
    assert (panics, hands.states(results)) == ([], [State.SUCCESS] * COUNT)


def test_of_two_outcomes_of_a_call_its_success_is_sent_first(hands: Hands) -> None:
    """It is handed in again, as failed, if its thread is interrupted just then."""
    _, tray = hands.receive()
    jobs = PlainJobs(pipe.pack_cut(tray.cut(COUNT, 1.0)), hands.executor)
    number = jobs.first + 2
    failed = hands.executor.spoiled(jobs.job(number), RuntimeError("interrupted"))
    first, second = by_shape(
        [(jobs, (2, "3", 1.0, 2.0, 1.0)), pipe.pack_settlement(number, failed)]
    )
    assert [type(each[0]) for each in (first, second)] == [pipe.PackedEnds, pipe.PackedSettlement]
