"""Each kind of pool in a real worker, its growth, and what it says of itself."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest

from cloudq import ConfigurationError, TimeLimitExceeded, wait_for
from cloudq.cli.commands.worker import limits
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from cloudq.worker import WorkerOptions
from cloudq.worker.pool.autoscale import Autoscale
from cloudq.worker.pool_kinds import PoolKind, check, sizes
from tests.worker.harness import Place, until

needs_gevent = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
)


@pytest.fixture(autouse=True)
def life_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_POLL_WAIT", "1")


@pytest.fixture
def life(sqlite_place: Place) -> Place:
    sqlite_place.tasks = "life_tasks:app"
    return sqlite_place


def pids(place: Place, task: str, count: int, *args: object) -> list[int]:
    results = [place.app.send_task(f"life_tasks.{task}", args) for _ in range(count)]
    wait_for(results, timeout=PATIENCE)
    return [result.get() for result in results]


def test_threads_is_one_process_with_tasks_side_by_side(life: Place) -> None:
    worker = life.start("--pool", "threads", "-c", "4")
    assert len(set(pids(life, "meet", 4, 4))) == 1
    assert len(worker.children()) == 1
    assert "1 process x 4 threads, threads" in worker.log()


def test_a_second_worker_of_one_name_is_told(life: Place) -> None:
    first = life.start("--pool", "solo", "-n", "same")
    until(lambda: life.app.control.heartbeats.of("same") is not None, what="it is seen")
    second = life.start("--pool", "solo", "-n", "same")
    until(lambda: "a worker named same was seen" in second.log(), what="it is warned")
    assert "1 process x 1 thread, solo" in second.log()
    assert "a worker named" not in first.log()


def test_solo_runs_one_after_the_other(life: Place) -> None:
    life.start("--pool", "solo")
    assert len(set(pids(life, "nap", 3, "x", 0.1))) == 1
    entries = [entry.split()[0] for entry in life.entries() if " x" in entry]
    assert entries == ["start", "end"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [("--pool", "solo"), ("--pool", "threads", "-c", "1"), ("-c", "1", "-t", "1")]
)
def test_a_task_that_has_its_process_to_itself_runs_in_the_main_thread(
    life: Place, options: tuple[str, ...]
) -> None:
    worker = life.start(*options)
    run = life.app.send_task
    assert run("life_tasks.set_alarm").get(timeout=PATIENCE) is True
    assert run("life_tasks.restless").get(timeout=PATIENCE) == "interrupted"
    pid = run("life_tasks.async_nap", [0.1]).get(timeout=PATIENCE)
    run("life_tasks.late_alarm").get(timeout=PATIENCE)
    until(lambda: "interrupted between two of them" in worker.log(), what="it rings")
    assert run("life_tasks.nap", ["a", 0.0]).get(timeout=PATIENCE) == pid
    error = run("life_tasks.endless").get(timeout=PATIENCE, propagate=False)
    assert isinstance(error, TimeLimitExceeded)
    last = run("life_tasks.nap", ["last", 1.0])
    until(lambda: "start last" in life.entries(), what="the last has begun")
    os.kill(worker.children()[0].pid, signal.SIGINT)  # as Ctrl-C does; it is the supervisor's
    assert worker.stop() == 0
    assert last.get(timeout=PATIENCE) != pid


def test_asyncio_runs_a_hundred_coroutines_in_one_process(life: Place) -> None:
    worker = life.start("--pool", "asyncio")
    assert len(set(pids(life, "async_meet", 100, 100))) == 1, worker.log()


@needs_gevent
def test_gevent_runs_tasks_as_greenlets_with_soft_limits_and_coroutines(life: Place) -> None:
    worker = life.start("--pool", "gevent", "-c", "30")
    pid, _, green = life.app.send_task("life_tasks.place").get(timeout=PATIENCE)
    assert green
    assert set(pids(life, "meet", 30, 30)) == {pid}
    assert life.app.send_task("life_tasks.patient").get(timeout=PATIENCE) == "interrupted"
    assert life.app.send_task("life_tasks.patient").get(timeout=PATIENCE) == "interrupted"
    assert life.app.send_task("life_tasks.async_nap", [0.1]).get(timeout=PATIENCE) == pid
    assert worker.stop() == 0


def test_a_pool_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudq.worker.pool_kinds.find_spec", lambda name: None)
    check(PoolKind.THREADS)
    with pytest.raises(ConfigurationError, match=r'pip install "cloudq-tasks\[gevent\]"'):
        check(PoolKind.GEVENT)


@pytest.mark.parametrize(
    ("kind", "processes", "threads", "found"),
    [
        ("processes", 3, 2, (3, 2)),
        ("processes", None, None, (5, 16)),
        ("threads", None, None, (1, 16)),
        ("threads", 8, None, (1, 8)),
        ("threads", 1, 8, (1, 8)),
        ("asyncio", None, None, (1, 100)),
        ("gevent", None, 7, (1, 7)),
        ("solo", None, None, (1, 1)),
        ("solo", 1, None, (1, 1)),
    ],
)
def test_sizes(
    kind: str, processes: int | None, threads: int | None, found: tuple[int, int]
) -> None:
    assert sizes(PoolKind(kind), processes, threads, default_processes=5) == found


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="solo runs one task at a time, not 4"):
        sizes(PoolKind.SOLO, 4, None)
    with pytest.raises(ConfigurationError, match="has one process"):
        sizes(PoolKind.THREADS, 4, 2)


# ---- signals, state of a process, the log


def test_signals_of_a_worker_and_its_processes(life: Place) -> None:
    worker = life.start("--processes", "1", "--threads", "1")
    (pid,) = pids(life, "nap", 1, "x", 0.0)
    assert worker.stop() == 0
    told = [entry.split()[1:] for entry in life.entries() if entry.startswith("signal")]
    ours = str(worker.process.pid)
    [hostname] = [entry for entry in life.entries() if entry.startswith("hostname")]
    assert hostname.split()[2:] == ["of", "life"]
    assert hostname.split()[1].endswith(ours)
    assert [name for name, process in told if process == ours] == [
        "worker_init",
        "worker_ready",
        "task_received",
        "worker_shutting_down",
        "worker_shutdown",
    ]
    assert [name for name, process in told if process == str(pid)] == [
        "worker_process_init",
        "task_prerun",
        "task_postrun",
        "worker_process_shutdown",
    ]


def test_a_class_keeps_its_state_in_each_process_and_the_log_names_the_task(life: Place) -> None:
    worker = life.start("--processes", "1", "--threads", "1")
    found = [life.app.send_task("life_tasks.connected").get(timeout=PATIENCE) for _ in range(2)]
    pid = found[0].split()[0]
    assert found == [f"{pid} 1", f"{pid} 2"]
    sent = life.app.send_task("life_tasks.place")
    sent.get(timeout=PATIENCE)
    until(
        lambda: f"here I am [life_tasks.place {sent.id}]" in worker.log(),
        what="the record names its task",
    )


def test_garbage_is_collected_but_not_sought_in_what_was_loaded(life: Place) -> None:
    life.start("--processes", "1")
    is_on, passed_over = life.app.send_task("life_tasks.collector").get(timeout=PATIENCE)
    assert is_on
    assert passed_over > 10_000


def test_progress_crosses_processes(life: Place) -> None:
    life.start("--processes", "1")
    result = life.app.send_task("life_tasks.progress")
    eventually(lambda: result.state == "PROGRESS")
    assert result.info == {"done": 1}
    life.let_go()
    assert result.get(timeout=PATIENCE) == "done"


# ---- growth


def test_a_worker_grows_while_all_are_busy_and_shrinks_when_some_are_idle(
    life: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_AUTOSCALE_IDLE", "1")
    worker = life.start("--autoscale", "3,1", "--threads", "1")
    assert len(worker.children()) == 1
    results = [life.app.send_task("life_tasks.hold") for _ in range(6)]
    until(lambda: len(worker.children()) == 3, what="three processes")
    life.let_go()
    wait_for(results, timeout=PATIENCE)
    assert len({result.get() for result in results}) >= 2
    until(lambda: len(worker.children()) == 1, what="one process again")
    assert pids(life, "nap", 1, "last", 0.0)
    assert worker.stop() == 0


def test_autoscale_decides_by_who_is_busy() -> None:
    scale = Autoscale(most=3, least=1, threads=2, idle=10.0)
    assert scale.decide(0.5, 2, 1) == 1
    assert scale.decide(1.4, 2, 1) == 1
    assert scale.decide(1.5, 2, 1) == 2
    assert scale.decide(1.6, 4, 2) == 2
    assert scale.decide(2.0, 3, 2) == 2  # there was a free place meanwhile
    assert scale.decide(2.7, 4, 2) == 2
    assert scale.decide(3.7, 4, 2) == 3
    assert scale.decide(9.9, 6, 3) == 3
    assert scale.decide(99.0, 6, 3) == 3  # no more than that
    assert scale.decide(100.0, 4, 3) == 3
    assert scale.decide(109.9, 4, 3) == 3
    assert scale.decide(110.0, 4, 3) == 2
    assert scale.decide(120.0, 0, 2) == 2
    assert scale.decide(130.0, 0, 2) == 1
    assert scale.decide(140.0, 0, 1) == 1
    assert scale.decide(150.0, 0, 1) == 1


def test_autoscale_that_cannot_be() -> None:
    assert limits("10,3") == (10, 3)
    assert limits("10") == (10, 1)
    with pytest.raises(ConfigurationError, match="give the maximum and the minimum"):
        limits("many")
    queues = (("default", 1),)
    with pytest.raises(ConfigurationError, match="10,3"):
        WorkerOptions(app_path="x", queues=queues, processes=1, threads=1, autoscale=(1, 3))
    with pytest.raises(ConfigurationError, match="--pool threads has one"):
        WorkerOptions(
            app_path="x",
            queues=queues,
            processes=1,
            threads=1,
            pool=PoolKind.THREADS,
            autoscale=(3, 1),
        )


def test_a_process_that_has_grown_too_large_is_replaced_after_its_tasks(life: Place) -> None:
    worker = life.start("--processes", "1", "--max-memory-per-child", str(250 << 10))
    (small,) = pids(life, "grow", 1, 1)
    assert pids(life, "grow", 1, 1) == [small]
    assert pids(life, "grow", 1, 300) == [small]
    until(lambda: "more than 256000: it is replaced" in worker.log(), what="it is noticed")
    eventually(lambda: pids(life, "grow", 1, 1) != [small])
