"""Kill, stop and endurance drills on real workers: nothing is lost, and little is repeated."""

from __future__ import annotations

import os
import random
import time

import pytest

from cloudq import AsyncResult, State, TimeLimitExceeded, wait_for
from cloudq.testing.waiting import PATIENCE
from tests.worker import drill_tasks
from tests.worker.harness import Place, until

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
PROCESSES, THREADS = 2, 8
SLOTS = PROCESSES * THREADS
POOL = ("--processes", str(PROCESSES), "--threads", str(THREADS))
WORKER = (*POOL, "--lease", "3")
# Nothing waits for a lease to end where nobody is killed, so that a busy machine may take its time.
PATIENT = (*POOL, "--lease", "60", "--grace", str(int(PATIENCE)))


# Each drill by calls of their own, and by calls in bundles, as short as it can be.
BUNDLES = pytest.mark.parametrize("bundle", [1, 20])


def publish(place: Place, count: int, seconds: float, bundle: int) -> list[AsyncResult[int]]:
    work = place.app.task(name="drill_tasks.work")(drill_tasks.work.function)
    return place.app.publish([work.prepare(n, seconds) for n in range(count)], bundle=bundle)


def audit(place: Place, results: list[AsyncResult[int]]) -> int:
    """Every task has its right result and is in the ledger; how many ran more than once."""
    records = wait_for(results, timeout=4 * PATIENCE)
    assert [record.state for record in records] == [State.SUCCESS] * len(results)
    assert [result.get() for result in results] == [n * 2 for n in range(len(results))]
    counts = place.counts()
    assert set(counts) == {str(n) for n in range(len(results))}, "lost executions"
    assert place.app.broker.admin.peek_dead(place.queue, count=10) == []
    return counts.total() - len(results)


def ran_unrecorded(place: Place, results: list[AsyncResult[int]]) -> int:
    """Count the calls that have run in processes that are dead, which had not recorded their ends.

    A supervisor has the ends of calls whose bundle has not ended, for a second.
    """
    assert place.app.backend is not None
    place.app.backend.bundles.seen.forget()
    records = place.app.backend.records([result.id for result in results])
    ended = {id for id, record in records.items() if record.terminal}
    return sum(results[int(entry)].id not in ended for entry in place.entries())


@BUNDLES
@pytest.mark.timeout(1800)
def test_killed_at_random_nothing_is_lost_and_little_is_repeated(
    every_place: Place, bundle: int
) -> None:
    place = every_place
    count, kills = (2000, 20) if FULL else (200, 3)
    dice = random.Random(7 if bundle == 1 else 22)  # of bundles, supervisors die first
    results = publish(place, count, seconds=0.05, bundle=bundle)
    worker = place.start(*WORKER)
    parents, unrecorded = 0, 0
    for number in range(kills):
        reached = count * (number + 1) // (kills + 2)
        until(
            lambda reached=reached: len(place.counts()) >= reached,
            what=f"{reached} tasks done: {worker.log()[-2000:]}",
        )
        children = worker.children()
        if children and dice.random() < 0.5:
            dice.choice(children).kill()
        else:
            parents += 1
            worker.kill()
            unrecorded += ran_unrecorded(place, results)
            worker = place.start(*WORKER, ready=False)
    repeated = audit(place, results)
    bound = (kills - parents) * SLOTS + (unrecorded if bundle > 1 else parents * SLOTS)
    print(
        f"{place.broker.split(':')[0]}: {count} tasks in bundles of {bundle}, {kills} kills "
        f"({parents} of supervisors): 0 lost, {repeated} repeated (bound {bound})"
    )
    assert repeated <= bound
    # The last kill may have come after the last task: the one that follows is still starting.
    until(worker.is_up, what="the last worker is up")
    assert worker.stop() == 0


@BUNDLES
@pytest.mark.timeout(1800)
def test_stopped_over_and_over_nothing_is_lost_and_nothing_repeated(
    every_place: Place, bundle: int
) -> None:
    place = every_place
    count, stops = (2000, 20) if FULL else (120, 2)
    dice = random.Random(11)
    results = publish(place, count, seconds=0.05, bundle=bundle)
    for number in range(stops):
        worker = place.start(*PATIENT, ready=False)
        reached = count * (number + 1) // (stops + 2)
        until(
            lambda reached=reached: len(place.counts()) >= reached,
            what=f"{reached} tasks done: {worker.log()[-2000:]}",
        )
        until(worker.is_up, what="it is up, though the one before has done so many")
        time.sleep(dice.random() * 0.05)
        assert worker.stop() == 0, worker.log()
        assert not worker.children()
    worker = place.start(*PATIENT)
    repeated = audit(place, results)
    print(
        f"{place.broker.split(':')[0]}: {count} tasks in bundles of {bundle}, {stops} stops: "
        f"0 lost, {repeated} repeated"
    )
    assert repeated == 0
    assert worker.stop() == 0


def test_a_task_longer_than_its_lease_runs_once(place: Place) -> None:
    """One that sleeps, one that awaits and one that keeps the GIL, each in a process of its own."""
    seconds, lease = (30.0, 5) if FULL else (6.0, 2)
    tasks = ("nap", "async_nap", "hog")
    size = ("--processes", str(len(tasks)), "--threads", "1")
    for _ in range(2):
        place.start(*size, "--lease", str(lease), ready=False)
    place.await_workers()
    results = [place.app.send_task(f"drill_tasks.{task}", [task, seconds]) for task in tasks]
    assert [result.get(timeout=PATIENCE) for result in results] == list(tasks)
    time.sleep(lease * 1.5)  # a second delivery would start in this time
    assert place.counts() == {f"{what} {task}": 1 for task in tasks for what in ("start", "end")}


def test_a_task_that_holds_the_gil_past_its_hard_limit_is_stopped(place: Place) -> None:
    worker = place.start("--processes", "1", "--threads", "2", "--lease", "2")
    first = worker.children()[0].pid
    start = time.monotonic()
    result = place.app.send_task("drill_tasks.spin", ["spin"])
    error = result.get(timeout=PATIENCE, propagate=False)
    took = time.monotonic() - start
    assert isinstance(error, TimeLimitExceeded)
    assert result.state is State.FAILURE
    assert took >= 1.5
    # The next task runs in the child that replaced the stopped one.
    assert place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE) != first
    # At most once: on a busy machine its time can be over before the child comes to note its start.
    assert place.counts()["start spin"] <= 1


def test_work_beside_a_stopped_task_is_run_again_at_once(place: Place) -> None:
    # At once: long before its lease ends, which outlasts the patience of this test.
    place.start("--processes", "1", "--threads", "4", "--lease", "600")
    nap = place.app.send_task("drill_tasks.hold", ["nap"])
    until(lambda: "start nap" in place.entries(), what="the nap starts")
    spin = place.app.send_task("drill_tasks.spin", ["spin"])
    assert isinstance(spin.get(timeout=PATIENCE, propagate=False), TimeLimitExceeded)
    place.let_go()
    assert nap.get(timeout=PATIENCE) == "nap"
    assert place.counts()["start nap"] == 2
