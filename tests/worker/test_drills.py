"""Kill, stop and endurance drills on real workers: nothing is lost, and little is repeated."""

from __future__ import annotations

import os
import random
import time

import pytest

from cloudq import AsyncResult, State, TimeLimitExceeded, wait_for
from tests.worker import drill_tasks
from tests.worker.harness import Place, until

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
PROCESSES, THREADS = 2, 8
SLOTS = PROCESSES * THREADS
WORKER = ("--processes", str(PROCESSES), "--threads", str(THREADS), "--lease", "3")


def publish(place: Place, count: int, seconds: float) -> list[AsyncResult[int]]:
    work = place.app.task(name="drill_tasks.work")(drill_tasks.work.function)
    return place.app.publish([work.prepare(n, seconds) for n in range(count)])


def audit(place: Place, results: list[AsyncResult[int]]) -> int:
    """Every task has its right result and is in the ledger; how many ran more than once."""
    records = wait_for(results, timeout=180)
    assert [record.state for record in records] == [State.SUCCESS] * len(results)
    assert [result.get() for result in results] == [n * 2 for n in range(len(results))]
    counts = place.counts()
    assert set(counts) == {str(n) for n in range(len(results))}, "lost executions"
    assert place.app.broker.admin.peek_dead(place.queue, count=10) == []
    return counts.total() - len(results)


@pytest.mark.timeout(600)
def test_killed_at_random_nothing_is_lost_and_little_is_repeated(every_place: Place) -> None:
    place = every_place
    count, kills = (2000, 20) if FULL else (200, 3)
    dice = random.Random(7)
    results = publish(place, count, seconds=0.05)
    worker = place.start(*WORKER)
    parents = 0
    for number in range(kills):
        reached = count * (number + 1) // (kills + 2)
        until(
            lambda reached=reached: len(place.counts()) >= reached,
            within=60,
            what=f"{reached} tasks done: {worker.log()[-2000:]}",
        )
        children = worker.children()
        if children and dice.random() < 0.5:
            dice.choice(children).kill()
        else:
            parents += 1
            worker.kill()
            worker = place.start(*WORKER, ready=False)
    repeated = audit(place, results)
    print(
        f"{place.broker.split(':')[0]}: {count} tasks, {kills} kills ({parents} of supervisors): "
        f"0 lost, {repeated} repeated (bound {kills * SLOTS})"
    )
    assert repeated <= kills * SLOTS
    # The last kill may have come after the last task: the one that follows is still starting.
    until(worker.is_up, within=20, what="the last worker is up")
    assert worker.stop() == 0


@pytest.mark.timeout(600)
def test_stopped_over_and_over_nothing_is_lost_and_nothing_repeated(every_place: Place) -> None:
    place = every_place
    count, stops = (2000, 20) if FULL else (120, 2)
    dice = random.Random(11)
    results = publish(place, count, seconds=0.05)
    for number in range(stops):
        worker = place.start(*WORKER, "--grace", "20", ready=False)
        reached = count * (number + 1) // (stops + 2)
        until(
            lambda reached=reached: len(place.counts()) >= reached,
            within=60,
            what=f"{reached} tasks done: {worker.log()[-2000:]}",
        )
        time.sleep(dice.random() * 0.05)
        assert worker.stop() == 0, worker.log()
        assert not worker.children()
    worker = place.start(*WORKER)
    repeated = audit(place, results)
    print(
        f"{place.broker.split(':')[0]}: {count} tasks, {stops} stops: 0 lost, {repeated} repeated"
    )
    assert repeated == 0
    assert worker.stop() == 0


@pytest.mark.parametrize("task", ["nap", "async_nap", "hog"])
def test_a_task_longer_than_its_lease_runs_once(place: Place, task: str) -> None:
    seconds, lease = (30.0, 5) if FULL else (6.0, 2)
    place.start("--processes", "1", "--threads", "2", "--lease", str(lease))
    place.start("--processes", "1", "--threads", "2", "--lease", str(lease))
    result = place.app.send_task(f"drill_tasks.{task}", [task, seconds])
    assert result.get(timeout=seconds * 3) == task
    time.sleep(lease * 1.5)  # a second delivery would start in this time
    assert place.counts() == {f"start {task}": 1, f"end {task}": 1}


def test_a_task_that_holds_the_gil_past_its_hard_limit_is_stopped(place: Place) -> None:
    worker = place.start("--processes", "1", "--threads", "2", "--lease", "2")
    first = worker.children()[0].pid
    start = time.monotonic()
    result = place.app.send_task("drill_tasks.spin", ["spin"])
    error = result.get(timeout=20, propagate=False)
    took = time.monotonic() - start
    assert isinstance(error, TimeLimitExceeded)
    assert result.state is State.FAILURE
    assert 1.5 <= took < 4.5
    # The next task runs in the child that replaced the stopped one.
    assert place.app.send_task("drill_tasks.pid").get(timeout=20) != first
    assert place.counts() == {"start spin": 1}


def test_work_beside_a_stopped_task_is_run_again_at_once(place: Place) -> None:
    place.start("--processes", "1", "--threads", "4", "--lease", "30")
    nap = place.app.send_task("drill_tasks.nap", ["nap", 3.0])
    until(lambda: "start nap" in place.entries(), within=10, what="the nap starts")
    spin = place.app.send_task("drill_tasks.spin", ["spin"])
    assert isinstance(spin.get(timeout=20, propagate=False), TimeLimitExceeded)
    assert nap.get(timeout=10) == "nap"
    assert place.counts()["start nap"] == 2
