"""A worker whose parts fail: threads, processes, and their ends at awkward moments."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from uuid import uuid4

import pytest

from cloudq import CloudQ, State, TaskFailure, TimeLimitExceeded, wait_for
from cloudq.broker.broker import Refused
from cloudq.driver import Delivery
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import Action, Settlement
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.leases import Leases
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.settler import Settler
from tests.worker.harness import Place, until

ONE = ("--processes", "1", "--lease", "2")


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_POLL_WAIT", "1")


def test_an_async_task_that_exits_leaves_the_loop_to_the_others(sqlite_place: Place) -> None:
    sqlite_place.start(*ONE, "--threads", "2")
    nap = sqlite_place.app.send_task("drill_tasks.async_nap", ["nap", 1.5])
    until(lambda: "start nap" in sqlite_place.entries(), what="the nap starts")
    left = sqlite_place.app.send_task("drill_tasks.leave").get(timeout=PATIENCE, propagate=False)
    assert isinstance(left, TaskFailure)
    assert left.type == "SystemExit"
    assert nap.get(timeout=PATIENCE) == "nap"
    again = sqlite_place.app.send_task("drill_tasks.async_nap", ["again", 0.0])
    assert again.get(timeout=PATIENCE) == "again"


def test_a_retry_that_makes_no_sense_is_a_failure_and_costs_no_thread(sqlite_place: Place) -> None:
    sqlite_place.start(*ONE, "--threads", "1")
    for _ in range(2):
        odd = sqlite_place.app.send_task("drill_tasks.retry_oddly")
        assert isinstance(odd.get(timeout=PATIENCE, propagate=False), TypeError)
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)


def test_a_retry_that_outgrows_the_apps_limit_does_not_stop_the_worker(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDQ_MAX_BODY", "1024")
    worker = sqlite_place.start(*ONE, "--threads", "1")
    message = TaskMessage(id="large", task="drill_tasks.retry_large", queue="default", args=[""])
    text = "x" * (1024 - len(encode(message)))
    sqlite_place.app.broker.send([message.model_copy(update={"args": [text]})])
    until(lambda: f"try {len(text)}" in sqlite_place.entries(), what="the first try")
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
    assert worker.stop() == 0


@pytest.fixture
def heirs(sqlite_place: Place) -> Iterator[None]:
    yield
    for entry in sqlite_place.entries():
        if entry.startswith("heir "):
            os.kill(int(entry.split()[1]), signal.SIGKILL)


def test_a_dead_child_is_noticed_though_its_own_children_hold_its_connection(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch, heirs: None
) -> None:
    monkeypatch.setenv("CLOUDQ_MAX_DELIVERIES", "1")
    worker = sqlite_place.start(*ONE, "--threads", "1")
    sqlite_place.app.send_task("drill_tasks.die_with_heir", [60])
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
    assert worker.stop() == 0


@pytest.mark.parametrize("task", ["terminate_forked", "terminate_started"])
def test_what_a_task_starts_can_be_terminated(sqlite_place: Place, task: str) -> None:
    sqlite_place.start(*ONE, "--threads", "1")
    stopped = sqlite_place.app.send_task(f"drill_tasks.{task}")
    assert stopped.get(timeout=PATIENCE) == -signal.SIGTERM


def test_a_retired_child_that_will_not_leave_is_replaced(sqlite_place: Place) -> None:
    sqlite_place.start(*ONE, "--threads", "1", "--max-tasks-per-child", "1")
    first = sqlite_place.app.send_task("drill_tasks.leave_a_thread").get(timeout=PATIENCE)
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE) != first


def test_a_retiring_child_with_a_long_task_keeps_nothing_waiting(sqlite_place: Place) -> None:
    sqlite_place.start(*ONE, "--threads", "2", "--max-tasks-per-child", "2")
    nap = sqlite_place.app.send_task("drill_tasks.hold", ["nap"])
    until(lambda: "start nap" in sqlite_place.entries(), what="the nap starts")
    pids = [sqlite_place.app.send_task("drill_tasks.pid") for _ in range(3)]
    wait_for(pids, timeout=PATIENCE)
    sqlite_place.let_go()
    assert nap.get(timeout=PATIENCE) == "nap"
    assert sqlite_place.counts()["start nap"] == 1


def test_all_that_are_past_their_limit_end_together(sqlite_place: Place) -> None:
    sqlite_place.start(*ONE, "--threads", "4")
    stalls = [sqlite_place.app.send_task("drill_tasks.stall", [f"s{n}"]) for n in range(4)]
    records = wait_for(stalls, timeout=PATIENCE)
    assert {record.state for record in records} == {State.FAILURE}
    assert isinstance(stalls[0].get(propagate=False), TimeLimitExceeded)
    # Those that were handed out a moment later may have had some of their time left: once more.
    assert max(sqlite_place.counts().values()) <= 2


def test_an_idle_worker_rests_also_where_it_may_not_wait(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_POLL_WAIT", "0")
    worker = sqlite_place.start(*ONE, "--threads", "1")
    before = worker.cpu()
    time.sleep(2)
    assert worker.cpu() - before < 0.5


@pytest.fixture
def app() -> Iterator[CloudQ]:
    app = CloudQ("parts", broker=f"memory://{uuid4().hex}")
    yield app
    app.close()


def in_hand(app: CloudQ, count: int, *, lease: float = 60.0) -> list[Flight]:
    """Messages as a poller has received them."""
    app.broker.send([TaskMessage(id=str(n), task="t", queue="default") for n in range(count)])
    deliveries = app.broker.receive("default", count=count, wait=1.0, lease=lease)
    return Flights().add(deliveries, time.monotonic() + lease)


def make_dispatcher(app: CloudQ) -> Dispatcher:
    """A dispatcher without children; what it settles waits in a settler that is not started."""
    return Dispatcher(
        executor=app.executor(),
        broker=app.broker,
        settler=Settler(app, released=[].extend, starved=lambda: False),
        max_tasks_per_child=None,
    )


def test_what_comes_to_a_dispatcher_that_was_closed_goes_back(app: CloudQ) -> None:
    dispatcher = make_dispatcher(app)
    fresh, innocent = in_hand(app, 2)
    dispatcher.close()
    dispatcher.submit(iter([fresh]))  # a poller was just looking its task up
    dispatcher.again(iter([innocent]))  # the task beside it ran into its hard limit
    assert fresh.settling
    assert innocent.settling


def test_what_has_lost_its_lease_is_not_started(app: CloudQ) -> None:
    dispatcher = make_dispatcher(app)
    lost, held = in_hand(app, 2)
    lost.lost = True
    dispatcher.submit([lost, held])
    assert (lost.settling, held.settling) == (True, False)
    dispatcher.close()
    assert held.settling


def test_a_neighbour_of_tasks_that_are_stopped_gets_its_own_process_in_the_end(
    sqlite_place: Place,
) -> None:
    worker = sqlite_place.start(*ONE, "--threads", "2")
    neighbour = sqlite_place.app.send_task("drill_tasks.delivered", ["it"])
    for number in range(4):
        until(
            lambda number=number: sqlite_place.counts()["start it"] > number,
            what="it starts again",
        )
        spin = sqlite_place.app.send_task("drill_tasks.spin", [f"spin {number}"])
        assert isinstance(spin.get(timeout=PATIENCE, propagate=False), TimeLimitExceeded)
    until(lambda: sqlite_place.counts()["start it"] == 5, what="it starts for the last time")
    first = sqlite_place.app.send_task("drill_tasks.spin", ["last"])
    assert isinstance(first.get(timeout=PATIENCE, propagate=False), TimeLimitExceeded)
    sqlite_place.let_go()
    assert neighbour.get(timeout=PATIENCE)[:2] == [1, True], worker.log()
    assert sqlite_place.counts()["start it"] == 5


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """No other thread runs until this one waits."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("undisturbed")
def test_what_was_handed_over_before_the_stop_is_still_settled(app: CloudQ) -> None:
    out: list[Flight] = []
    consumer = Consumer(
        app.executor(),
        log=Log("test"),
    )
    settler = Settler(consumer, released=out.extend, starved=lambda: False)
    flights = in_hand(app, 3)
    settler.start()
    # The end is queued right behind it, before the threads have looked.
    settler.settle([(flight, Settlement(action=Action.ACK)) for flight in flights])
    settler.stop()
    assert out == flights
    assert app.broker.admin.stats("default").leased == 0


def test_a_lease_that_was_extended_too_late_stays_doubtful(app: CloudQ) -> None:
    flights = Flights()
    in_time, late = flights.add([f.delivery for f in in_hand(app, 2)], time.monotonic() + 10)
    late.lease_ends = time.monotonic() - 1
    leases = Leases(app.broker, flights, 60.0, wake=lambda: None)
    leases.extend(time.monotonic())
    assert (in_time.doubtful, late.doubtful) == (False, True)
    leases.extend(time.monotonic())
    assert late.doubtful
    assert late.lease_ends > time.monotonic()


def test_a_lease_that_gets_no_answer_is_asked_for_again_by_the_other_thread(
    app: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights = Flights()
    now = time.monotonic()
    [flight] = flights.add([f.delivery for f in in_hand(app, 1)], now + 10)
    leases = Leases(app.broker, flights, 60.0, wake=lambda: None)
    extend, asked, answer = app.broker.extend, list[int](), threading.Event()

    def slow(deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Refused]:
        asked.append(len(deliveries))
        if len(asked) == 1:  # over a connection that has died in silence
            assert answer.wait(PATIENCE)
        return extend(deliveries, lease=lease)

    monkeypatch.setattr(app.broker, "extend", slow)
    first = threading.Thread(target=leases.extend, args=[now])
    first.start()
    until(lambda: bool(asked), what="the first asks")
    leases.extend(now + 1.0)
    assert len(asked) == 1, "it was asked for a moment ago"
    leases.extend(now + 2.5)
    assert flight.lease_ends > now + 50
    answer.set()
    first.join(PATIENCE)
    assert (flight.doubtful, flight.asked_at) == (False, 0.0)
    assert flight.lease_ends > now + 50


def test_the_parts_of_a_bundle_know_that_its_lease_was_extended(app: CloudQ) -> None:
    flights = Flights()
    [whole] = flights.add([f.delivery for f in in_hand(app, 1)], time.monotonic() + 10)
    whole.extended = True
    [part] = flights.split(whole, [whole.delivery])
    assert part.extended
