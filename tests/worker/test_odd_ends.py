"""Tasks that fork their process or stop it: nothing hangs, and their neighbours run."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest

from cloudq import State, WorkerLost, wait_for
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.pool.frozen import Frozen
from tests.worker.harness import Place, until


@pytest.fixture(autouse=True)
def few_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_POLL_WAIT", "1")
    monkeypatch.setenv("CLOUDQ_MAX_DELIVERIES", "1")


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_copy_of_its_process_that_a_task_forks_ends_with_the_call(
    sqlite_place: Place, threads: str
) -> None:
    worker = sqlite_place.start("-c", "1", "-t", threads)
    ends = {"return": 0, "raise": 1, "exit": 3}
    results = [
        sqlite_place.app.send_task(f"drill_tasks.{task}", [end])
        for task in ("fork_and", "async_fork_and")
        for end in ends
    ]
    wait_for(results, timeout=PATIENCE)
    assert [result.get() for result in results] == [*ends.values()] * 2
    assert "ValueError: in the copy" in worker.log()
    assert worker.stop() == 0


@pytest.mark.parametrize("threads", ["1", "2"])
def test_an_exception_that_comes_while_no_task_runs_costs_no_task(
    sqlite_place: Place, threads: str
) -> None:
    worker = sqlite_place.start("-c", "1", "-t", threads)
    run = sqlite_place.app.send_task
    run("drill_tasks.raise_later_here", [0.2]).get(timeout=PATIENCE)
    until(lambda: "raised" in sqlite_place.entries(), what="it is raised at the next call")
    # They take a while, so that no thread runs all of them.
    later = [run("drill_tasks.work", [number, 0.2]) for number in range(4)]
    wait_for(later, timeout=PATIENCE)
    assert [result.get() for result in later] == [0, 2, 4, 6]
    assert "interrupted between two of them" in worker.log()
    assert worker.stop() == 0


@pytest.mark.parametrize(("task", "args"), [("close_files", []), ("raise_in", ["report"])])
def test_a_process_that_can_hand_in_no_outcome_any_more_ends(
    sqlite_place: Place, task: str, args: list[str]
) -> None:
    worker = sqlite_place.start("-c", "1", "-t", "2")
    culprit = sqlite_place.app.send_task(f"drill_tasks.{task}", args)
    assert isinstance(culprit.get(timeout=PATIENCE, propagate=False), WorkerLost)
    assert sqlite_place.app.send_task("drill_tasks.work", [1, 0.0]).get(timeout=PATIENCE) == 2
    assert worker.stop() == 0


def test_greenlets_do_not_go_on_in_a_process_that_one_of_them_has_forked(
    sqlite_place: Place,
) -> None:
    pytest.importorskip("gevent")
    worker = sqlite_place.start("-P", "gevent")
    neighbours = [
        sqlite_place.app.send_task("drill_tasks.pause_and_note", [f"n{n}"]) for n in range(3)
    ]
    forks = sqlite_place.app.send_task("drill_tasks.fork_and_pause")
    wait_for([*neighbours, forks], timeout=PATIENCE)
    assert forks.get() == 7
    assert sorted(sqlite_place.entries()) == ["n0", "n1", "n2"]
    assert worker.stop() == 0


@pytest.mark.slow
def test_a_process_that_a_task_has_stopped_is_as_a_dead_one(sqlite_place: Place) -> None:
    worker = sqlite_place.start("-c", "1", "-t", "4", "--lease", "1")
    innocent = [sqlite_place.app.send_task("drill_tasks.hold", [f"i{n}"]) for n in range(2)]
    until(lambda: len(sqlite_place.entries()) == 2, what="the innocent have begun")
    culprit = sqlite_place.app.send_task("drill_tasks.stop_itself", ["culprit"])
    assert isinstance(culprit.get(timeout=PATIENCE, propagate=False), WorkerLost)
    sqlite_place.let_go()
    records = wait_for(innocent, timeout=PATIENCE)
    assert [record.state for record in records] == [State.SUCCESS] * 2
    assert "was stopped by a signal" in worker.log()
    assert worker.stop() == 0


def test_only_a_process_that_stays_stopped_is_found() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            seen = psutil.Process(process.pid)
            frozen = Frozen(after=5.0)
            assert not frozen.look([process.pid], 0.0)
            process.send_signal(signal.SIGSTOP)
            until(lambda: seen.status() == psutil.STATUS_STOPPED, what="it is stopped")
            assert not frozen.look([process.pid, os.getpid()], 2.0)
            assert not frozen.look([process.pid], 6.9)
            process.send_signal(signal.SIGCONT)
            until(lambda: seen.status() != psutil.STATUS_STOPPED, what="it goes on")
            assert not frozen.look([process.pid], 8.0)
            process.send_signal(signal.SIGSTOP)
            until(lambda: seen.status() == psutil.STATUS_STOPPED, what="it is stopped again")
            assert not frozen.look([process.pid], 9.0)
            assert frozen.look([process.pid], 14.0) == {process.pid}
            assert not frozen.look([process.pid], 14.5)
        finally:
            process.kill()
    assert not frozen.look([process.pid], 30.0)
