"""The worker of the test kit: threads in the test's process, over memory."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, State, chord
from cloudq.testing import Worker, in_memory, run_until_idle, worker
from cloudq.testing.waiting import PATIENCE


@pytest.fixture
def app() -> Iterator[CloudQ]:
    """An app that is configured for a cloud, as a user's is."""
    with CloudQ("shop", broker="sqs://eu-west-1", backend="dynamodb://t") as made:
        yield made


def test_a_worker_runs_what_is_sent_and_the_app_is_as_it_was_afterwards(app: CloudQ) -> None:
    task: Any = app.task(name="double")(lambda n: 2 * n)
    services, conf = app.runtime.services, app.conf
    with worker(app):
        assert app.conf.broker.startswith("memory://")
        assert task.delay(4).get(timeout=PATIENCE) == 8
    assert (app.runtime.services, app.conf) == (services, conf)
    assert app.conf.broker == "sqs://eu-west-1"


def test_nothing_of_one_block_is_there_in_the_next(app: CloudQ) -> None:
    task: Any = app.task(name="t")(lambda: 1)
    with in_memory(app):
        left = task.delay()
    with worker(app) as running:
        assert running.run_until_idle() == []
        assert app.AsyncResult(left.id).state is State.PENDING


def test_run_until_idle_waits_for_all_that_comes_of_a_task(app: CloudQ) -> None:
    seen: list[int] = []

    @app.task(name="count", queue="other")
    def count(n: int) -> None:
        seen.append(n)
        if n:
            count.delay(n - 1)

    with worker(app) as running:
        count.delay(20)
        assert len(running.run_until_idle()) == 21
        assert seen == list(range(20, -1, -1))
        assert running.run_until_idle() == []


def test_idle_is_not_the_moment_between_two_tasks(app: CloudQ) -> None:
    """However often a single thread puts one down before it takes up the next."""
    task: Any = app.task(name="t")(lambda n: n)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with worker(app, threads=1) as running:
            for _ in range(20):
                app.publish(task.prepare(n) for n in range(20))
                assert len(running.run_until_idle()) == 20
    finally:
        sys.setswitchinterval(before)


def test_a_worker_runs_as_many_tasks_at_a_time_as_it_has_threads(app: CloudQ) -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE)
    task: Any = app.task(name="meet")(lambda: meeting.wait() >= 0)
    with worker(app, threads=3):
        results = [task.delay() for _ in range(3)]
        assert all(result.get(timeout=PATIENCE) for result in results)


def test_coroutines_share_one_event_loop(app: CloudQ) -> None:
    loops: list[Any] = []

    @app.task(name="note")
    async def note() -> None:
        loops.append(asyncio.get_running_loop())

    with worker(app) as running:
        for _ in range(3):
            note.delay()
        running.run_until_idle()
    assert len(loops) == 3
    assert len({id(loop) for loop in loops}) == 1


def test_what_tasks_raise_is_logged_and_listed(
    app: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="fails")
    def fails() -> None:
        raise ZeroDivisionError("by nothing")

    with worker(app) as running:
        result = fails.delay()
        running.run_until_idle()
        with pytest.raises(ZeroDivisionError, match="by nothing"):
            result.get(timeout=0)
    assert [type(failed.error) for failed in running.failures] == [ZeroDivisionError]
    (record,) = (r for r in caplog.records if r.levelno == logging.ERROR)
    assert record.exc_info
    assert result.id in record.getMessage()


def test_chords_are_joined(app: CloudQ) -> None:
    double: Any = app.task(name="double")(lambda n: 2 * n)
    total: Any = app.task(name="total")(lambda ns: sum(ns))
    with worker(app):
        result = chord([double.s(n) for n in range(5)], total.s()).delay()
        assert result.get(timeout=PATIENCE) == 20
    with in_memory(app):
        result = chord([double.s(n) for n in range(5)], total.s()).delay()
        run_until_idle(app)
        assert result.get(timeout=0) == 20


def test_run_until_idle_says_what_keeps_it(app: CloudQ) -> None:
    release = threading.Event()
    task: Any = app.task(name="wait")(lambda: release.wait(PATIENCE))
    with worker(app) as running:
        task.delay()
        with pytest.raises(TimeoutError, match="1 tasks still run"):
            running.run_until_idle(timeout=0.1)
        release.set()
        assert len(running.run_until_idle()) == 1


def test_a_stopped_worker_says_so(app: CloudQ) -> None:
    with in_memory(app), Worker(app) as running:
        running.stop()
        with pytest.raises(RuntimeError, match="not running"):
            running.run_until_idle()
    with pytest.raises(ValueError, match="at least 1"):
        Worker(app, threads=0)


def test_settings_of_a_block_are_checked(app: CloudQ) -> None:
    with pytest.raises(ConfigurationError, match="did you mean lease"), in_memory(app, leese=5):
        raise AssertionError("a setting that is none was taken")
    with in_memory(app, lease=5):
        assert app.conf.lease == 5
    assert app.conf.lease == 60


def test_an_app_without_results_stays_without(app: CloudQ) -> None:
    app.configure(backend="none")
    with in_memory(app):
        assert app.backend is None


def test_run_until_idle_in_the_tests_own_thread(app: CloudQ) -> None:
    threads: list[str] = []
    task: Any = app.task(name="t")(lambda: threads.append(threading.current_thread().name))
    with in_memory(app):
        task.delay()
        later = task.apply_async(countdown=60)
        assert [s.state for s in run_until_idle(app)] == [State.SUCCESS]
        assert later.state is State.PENDING
    assert threads == [threading.current_thread().name]
