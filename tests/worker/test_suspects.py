"""A task that ends its process: it alone is counted and buried, and its neighbours run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cloudq import AsyncResult, State, TimeLimitExceeded, WorkerLost, wait_for
from cloudq.driver import Delivery
from cloudq.execution.outcomes import Job
from cloudq.messages.message import TaskMessage
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.in_flight import Flight
from cloudq.worker.pool.suspects import Suspects, has_room
from tests.worker.drill_tasks import ENDS
from tests.worker.harness import Place, Worker, until

APART = "each runs in a process of its own"
MOST = 2  # deliveries


@pytest.fixture(autouse=True)
def few_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_POLL_WAIT", "1")
    monkeypatch.setenv("CLOUDQ_MAX_DELIVERIES", str(MOST))


def begun(place: Place, count: int, task: str = "delivered") -> list[AsyncResult[Any]]:
    """So many innocent tasks that run, and wait until they are let go."""
    results = [place.app.send_task(f"drill_tasks.{task}", [f"i{n}"]) for n in range(count)]
    until(lambda: len(starts(place)) == count, what="all have begun")
    return results


def starts(place: Place) -> list[str]:
    return [entry for entry in place.entries() if entry.startswith("start ")]


def all_ran(results: Sequence[AsyncResult[Any]], place: Place, *, times: int) -> None:
    """All succeeded in their first delivery, after this many runs at most."""
    records = wait_for(results, timeout=PATIENCE)
    assert [record.state for record in records] == [State.SUCCESS] * len(results)
    assert {result.get()[0] for result in results} == {1}
    assert max(count for entry, count in place.counts().items() if "start" in entry) <= times


def buried(place: Place, culprits: Sequence[AsyncResult[Any]]) -> None:
    """These ended as WorkerLost after as many deliveries as may be, and nothing else did."""
    for culprit in culprits:
        assert isinstance(culprit.get(timeout=PATIENCE, propagate=False), WorkerLost)
    admin = place.app.broker.admin
    until(
        lambda: len(admin.peek_dead(place.queue, count=20)) == len(culprits),
        what="the dead letters",
    )
    for dead in admin.peek_dead(place.queue, count=20):
        assert (dead.reason or "").startswith(f"WorkerLost: delivered {MOST + 1} times")


def alone(place: Place, *options: str) -> Worker:
    return place.start("-c", "1", "--lease", "5", *options)


# ---- who is counted


@pytest.mark.slow
@pytest.mark.parametrize("way", ENDS)
def test_a_task_that_ends_its_process_takes_no_neighbour_with_it(
    sqlite_place: Place, way: str
) -> None:
    worker = alone(sqlite_place, "-t", "8")
    innocent = begun(sqlite_place, 6)
    culprit = sqlite_place.app.send_task("drill_tasks.end", ["poison", way])
    buried(sqlite_place, [culprit])
    sqlite_place.let_go()
    all_ran(innocent, sqlite_place, times=2)
    # Once among others, which is not counted, and then alone as often as it may be delivered.
    assert sqlite_place.counts()["end poison"] == MOST + 1
    assert worker.log().count(APART) == 1


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "asyncio", "gevent"])
def test_it_is_so_in_every_pool(sqlite_place: Place, pool: str) -> None:
    if pool == "gevent":
        pytest.importorskip("gevent")
    sqlite_place.start("--pool", pool, "-c", "8", "--lease", "5")
    innocent = begun(sqlite_place, 4)
    culprit = sqlite_place.app.send_task("drill_tasks.end", ["poison"])
    buried(sqlite_place, [culprit])
    sqlite_place.let_go()
    all_ran(innocent, sqlite_place, times=2)


@pytest.mark.slow
def test_the_neighbours_on_sqs_are_not_delivered_again(sqs_place: Place) -> None:
    alone(sqs_place, "-t", "8")
    innocent = begun(sqs_place, 4)
    culprit = sqs_place.app.send_task("drill_tasks.end", ["poison"])
    buried(sqs_place, [culprit])
    sqs_place.let_go()
    all_ran(innocent, sqs_place, times=2)


@pytest.mark.slow
def test_of_several_that_end_their_process_each_is_found(sqlite_place: Place) -> None:
    alone(sqlite_place, "-t", "8")
    innocent = begun(sqlite_place, 4)
    culprits = [
        sqlite_place.app.send_task("drill_tasks.end", [f"p{n}", "exit", 1.0]) for n in range(3)
    ]
    buried(sqlite_place, culprits)
    sqlite_place.let_go()
    all_ran(innocent, sqlite_place, times=4)


@pytest.mark.slow
def test_two_workers_each_find_it(sqlite_place: Place) -> None:
    for _ in range(2):
        alone(sqlite_place, "-t", "4")
    innocent = begun(sqlite_place, 6)
    culprits = [sqlite_place.app.send_task("drill_tasks.end", [f"p{n}"]) for n in range(2)]
    buried(sqlite_place, culprits)
    sqlite_place.let_go()
    all_ran(innocent, sqlite_place, times=4)


# ---- each alone


@pytest.mark.slow
def test_each_suspect_has_a_process_of_its_own_until_the_culprit_is_found(
    sqlite_place: Place,
) -> None:
    worker = alone(sqlite_place, "-t", "8")
    culprit = sqlite_place.app.send_task("drill_tasks.end", ["old poison", "exit", 3.0])
    until(lambda: "end old poison" in sqlite_place.entries(), what="the culprit has begun")
    innocent = begun(sqlite_place, 3)
    until(lambda: APART in worker.log(), what="its end")
    until(lambda: len(starts(sqlite_place)) == 4, what="the first suspect runs")
    # The others of the same death wait for it, what was sent later does not.
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
    assert len(starts(sqlite_place)) == 4
    sqlite_place.let_go()
    all_ran(innocent, sqlite_place, times=2)
    assert all(result.get()[1] for result in innocent)  # they may have done something before
    assert len({result.get()[2] for result in innocent}) == 3
    buried(sqlite_place, [culprit])
    until(lambda: len(worker.children()) == 1, what="the processes of suspects have left")


@pytest.mark.slow
def test_a_process_that_is_killed_from_outside_costs_nobody_a_delivery(
    sqlite_place: Place,
) -> None:
    worker = alone(sqlite_place, "-t", "4")
    innocent = begun(sqlite_place, 3)
    worker.children()[0].kill()
    until(lambda: APART in worker.log(), what="its end")
    sqlite_place.let_go()
    all_ran(innocent, sqlite_place, times=2)
    assert sqlite_place.app.broker.admin.peek_dead("default", count=5) == []


@pytest.mark.slow
def test_a_suspect_takes_up_its_own_claim_and_permit(sqlite_place: Place) -> None:
    alone(sqlite_place, "-t", "4")
    claimed = begun(sqlite_place, 2, "once")
    culprit = sqlite_place.app.send_task("drill_tasks.end", ["poison"])
    buried(sqlite_place, [culprit])
    sqlite_place.let_go()
    wait_for(claimed, timeout=PATIENCE)
    assert [result.get() for result in claimed] == [1, 1]
    assert max(sqlite_place.counts()[f"start i{n}"] for n in range(2)) <= 2


@pytest.mark.slow
def test_a_hard_limit_holds_for_a_suspect_and_is_its_own(sqlite_place: Place) -> None:
    worker = alone(sqlite_place, "-t", "4")
    innocent = begun(sqlite_place, 2)
    stalled = sqlite_place.app.send_task("drill_tasks.stall", ["stall"])
    until(lambda: "start stall" in sqlite_place.entries(), what="the third has begun")
    worker.children()[0].kill()
    assert isinstance(stalled.get(timeout=PATIENCE, propagate=False), TimeLimitExceeded)
    sqlite_place.let_go()
    all_ran(innocent, sqlite_place, times=3)


@pytest.mark.slow
def test_an_ordered_group_stays_in_order_while_one_of_it_is_a_suspect(sqlite_place: Place) -> None:
    queue = "default.fifo"
    sqlite_place.app.broker.admin.create(queue, lease=5, max_deliveries=30)
    worker = sqlite_place.start("-c", "1", "-t", "4", queues=f"{queue},default")
    ordered = [
        sqlite_place.app.send_task("drill_tasks.hold", [f"g{n}"], queue=queue, group_key="g")
        for n in range(3)
    ]
    other = sqlite_place.app.send_task("drill_tasks.hold", ["other"])
    until(lambda: len(starts(sqlite_place)) == 2, what="the first and the other have begun")
    worker.children()[0].kill()
    until(lambda: APART in worker.log(), what="its end")
    sqlite_place.let_go()
    wait_for([*ordered, other], timeout=PATIENCE)
    ends = [entry for entry in sqlite_place.entries() if entry.startswith("end g")]
    assert ends == ["end g0", "end g1", "end g2"]


@pytest.mark.slow
def test_a_stop_gives_back_the_suspects_that_wait(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDQ_MAX_DELIVERIES", "10")  # a stop is a delivery, or two
    worker = alone(sqlite_place, "-t", "4")
    innocent = begun(sqlite_place, 3)
    worker.children()[0].kill()
    until(lambda: len(starts(sqlite_place)) == 4, what="the first suspect runs")
    worker.process.terminate()
    until(lambda: "stopping" in worker.log(), what="it stops")
    sqlite_place.let_go()
    assert worker.process.wait(PATIENCE) == 0
    assert len(starts(sqlite_place)) == 4
    alone(sqlite_place, "-t", "4")
    records = wait_for(innocent, timeout=PATIENCE)
    assert {record.state for record in records} == {State.SUCCESS}
    assert len(starts(sqlite_place)) == 6


# ---- the list of suspects


def flight(number: int, given_at: float = 0.0) -> Flight:
    delivery = Delivery(queue="q", id=str(number), body=b"", receipt=number, attempts=1, lease=60.0)
    message = TaskMessage(id=str(number), task="t", queue="q")
    job = Job(delivery=delivery, message=message)
    return Flight(number=number, delivery=delivery, lease_ends=0.0, job=job, given_at=given_at)


def test_the_newest_comes_first_and_a_culprit_clears_those_of_its_own_death() -> None:
    suspects = Suspects()
    old, new, other = flight(1, 1.0), flight(2, 2.0), flight(3, 3.0)
    suspects.add([old, new])
    suspects.add([other])
    assert list(suspects.waiting) == [new, old, other]
    culprit = suspects.waiting.popleft()
    assert suspects.convict(culprit) == [old]
    assert list(suspects.waiting) == [other]
    assert suspects.knows(flight(2))
    assert not suspects.knows(flight(1))


def test_one_that_came_back_and_died_alone_clears_nobody() -> None:
    suspects = Suspects()
    suspects.add([flight(1), flight(2)])
    assert suspects.convict(flight(9)) == []
    assert len(suspects.waiting) == 2


def test_a_call_that_was_cleared_often_runs_alone() -> None:
    suspects = Suspects()
    unlucky, culprit = flight(1), flight(2)
    for _ in range(4):
        unlucky.restart()
    suspects.add([unlucky, culprit])
    suspects.waiting.remove(culprit)
    assert suspects.convict(culprit) == []
    assert list(suspects.waiting) == [unlucky]


def test_old_culprits_are_forgotten() -> None:
    suspects = Suspects()
    for number in range(2_000):
        suspects.convict(flight(number))
    assert [suspects.knows(flight(n)) for n in (0, 999, 1_000, 1_999)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("begun", "slots", "room"),
    [
        ([], 1, True),
        ([None], 16, False),
        ([95.0], 16, False),
        ([80.0], 16, True),
        ([80.0, 95.0], 16, False),
        ([80.0, None], 16, False),
        ([60.0, 80.0], 16, True),
        ([60.0, 80.0], 2, False),
        ([60.0] * 8, 16, False),
    ],
)
def test_a_suspect_that_takes_long_keeps_no_other_waiting(
    begun: list[float | None], slots: int, room: bool
) -> None:
    assert has_room(begun, 100.0, slots) is room
