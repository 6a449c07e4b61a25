"""Children are forks of a process that has loaded the app, unless its import forbids that."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloudq import wait_for
from cloudq.testing.waiting import PATIENCE
from tests.worker.harness import Place, Worker, until

ONE = ("--processes", "1", "--threads", "2", "--lease", "3")


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_POLL_WAIT", "1")


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    sqlite_place.tasks = "forking_tasks:app"
    return sqlite_place


def _run(place: Place, task: str) -> Any:
    return place.app.send_task(f"forking_tasks.{task}").get(timeout=PATIENCE)


def _where(place: Place) -> list[int]:
    return _run(place, "where")


def _server(worker: Worker) -> psutil.Process:
    server = worker.fork_server()
    assert server is not None, worker.log()
    return server


@pytest.mark.parametrize(
    "leaves",
    ["", "a log file", "a default timeout", "children to nobody", "a thread that has ended"],
)
def test_children_are_forked_from_a_process_that_has_loaded_the_app(
    place: Place, leaves: str
) -> None:
    place.environment["LEAVES"] = leaves
    worker = place.start(*ONE, "--max-tasks-per-child", "1")
    seen = [_where(place) for _ in range(3)]
    server = _server(worker).pid
    assert {(parent, loaded) for _, parent, loaded in seen} == {(server, worker.process.pid)}
    assert len({process for process, _, _ in seen}) == 3
    assert "died" not in worker.log()
    assert worker.stop() == 0
    assert not psutil.pid_exists(server)


def test_a_child_opens_no_store_and_loads_no_pydantic_before_it_needs_them(place: Place) -> None:
    worker = place.start(*ONE)
    assert _run(place, "loaded") == []
    assert _server(worker)


def test_what_tasks_with_models_need_is_loaded_once_before_children_are_forked(
    place: Place,
) -> None:
    place.environment["LEAVES"] = "a model"
    worker = place.start(*ONE)
    assert {"pydantic", "cloudq.tasks.validation"} <= set(_run(place, "loaded"))
    assert _server(worker)


@pytest.mark.parametrize(
    "leaves",
    ["a thread", "a connection", "a database", "a file to read", "a lock of processes", "grpc"],
)
def test_an_app_that_cannot_be_forked_is_imported_by_each_child(place: Place, leaves: str) -> None:
    place.environment["LEAVES"] = leaves
    worker = place.start(*ONE)
    process, parent, loaded = _where(place)
    assert (parent, loaded) == (worker.process.pid, process)
    assert worker.fork_server() is None
    assert "started anew, not forked" in worker.log()
    assert worker.stop() == 0


def test_forks_can_be_switched_off(place: Place) -> None:
    place.environment["CLOUDQ_WORKER_FORK"] = "false"
    worker = place.start(*ONE)
    process, parent, loaded = _where(place)
    assert (parent, loaded) == (worker.process.pid, process)
    assert worker.stop() == 0


def test_when_the_process_they_come_from_is_killed_all_work_comes_back(place: Place) -> None:
    """From then on children are programs: the supervisor has threads by now."""
    worker = place.start(*ONE)
    held = place.app.send_task("forking_tasks.hold", ["one"])
    until(lambda: "start one" in place.entries(), what="it runs")
    server = _server(worker)
    server.kill()
    until(lambda: place.counts()["start one"] == 2, what="it runs again")
    place.let_go()
    assert held.get(timeout=PATIENCE) == "one"
    process, parent, loaded = _where(place)
    assert (parent, loaded) == (worker.process.pid, process)
    assert "has died, and they with it" in worker.log()
    assert worker.stop() == 0


def test_signals_to_the_group_leave_it_alone(place: Place) -> None:
    worker = place.start(*ONE)
    server = _server(worker)
    for number in (signal.SIGINT, signal.SIGTERM):
        server.send_signal(number)
    first = _where(place)
    place.app.send_task("forking_tasks.end_with_process")
    until(lambda: "died (exit code 3)" in worker.log(), what="the child ends")
    again = _where(place)
    assert (again[1], again[2]) == (first[1], first[2]) == (server.pid, worker.process.pid)
    assert worker.stop() == 0


def test_children_draw_numbers_of_their_own(place: Place) -> None:
    worker = place.start("--processes", "3", "--threads", "1")
    draws = [place.app.send_task("forking_tasks.draw") for _ in range(30)]
    wait_for(draws, timeout=PATIENCE)
    assert len({draw.get() for draw in draws}) == 30
    assert worker.stop() == 0


def test_what_is_to_happen_at_the_end_happens_once_and_not_with_a_child(place: Place) -> None:
    place.environment["LEAVES"] = "an end"
    worker = place.start(*ONE, "--max-tasks-per-child", "1")
    seen = {_where(place)[0] for _ in range(3)}
    until(lambda: not any(map(psutil.pid_exists, seen)), what="they leave")
    gone = place.ledger.with_suffix(".gone")
    assert not gone.exists()
    assert worker.stop() == 0
    assert gone.exists()


def test_killed_with_the_supervisor(place: Place) -> None:
    worker = place.start(*ONE)
    server = _server(worker)
    worker.kill()
    psutil.wait_procs([server], timeout=PATIENCE)
    assert not server.is_running()


def test_when_no_child_can_be_made_the_worker_says_why_and_ends(place: Place) -> None:
    worker = place.start(*ONE)
    server = _server(worker)
    open_now = max(int(name) for name in os.listdir(f"/proc/{server.pid}/fd"))
    server.rlimit(psutil.RLIMIT_NOFILE, (open_now, open_now))
    place.app.send_task("forking_tasks.end_with_process")
    assert worker.process.wait(PATIENCE) == 2
    assert "a child process cannot be started: " in worker.log()
    assert "Too many open files" in worker.log()


def test_what_a_task_wants_done_at_the_end_of_its_process_is_done(place: Place) -> None:
    worker = place.start(*ONE, "--max-tasks-per-child", "1")
    made = [Path(_run(place, "make_folder")) for _ in range(2)]
    until(lambda: not any(folder.exists() for folder in made), what="the folders are deleted")
    assert worker.stop() == 0


def test_a_child_whose_end_nobody_tells_is_replaced(place: Place) -> None:
    worker = place.start(*ONE)
    server = _server(worker)
    [child] = worker.children()
    server.suspend()
    child.kill()
    until(lambda: "does not answer" in worker.log(), what="the stopped server is given up")
    assert _where(place)[1] == worker.process.pid
    assert worker.stop() == 0
