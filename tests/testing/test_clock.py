"""Virtual time: delays, retries, expiry and leases, without a test that sleeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, State, Task, TaskRevoked
from cloudq.testing import FaultPlan, VirtualClock, Worker, in_memory, run_until_idle, worker

START = 2_000_000_000.0


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START)


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ("timed", broker="sqs://eu-west-1", backend="none") as made:
        made.configure(backend="dynamodb://t")
        yield made


def test_a_countdown_runs_when_its_time_has_come_and_not_before(
    app: CloudQ, clock: VirtualClock
) -> None:
    task: Any = app.task(name="t")(lambda: app.runtime.clock())
    with worker(app, clock=clock):
        result = task.apply_async(countdown=3600)
        clock.advance(3599.5)
        assert result.state is State.PENDING
        clock.advance(0.5)
        assert result.get(timeout=0) == START + 3600


def test_an_eta_is_by_the_clock(app: CloudQ, clock: VirtualClock) -> None:
    task: Any = app.task(name="t")(lambda: app.runtime.clock())
    with worker(app, clock=clock):
        result = task.apply_async(eta=clock.now() + timedelta(days=30))
        clock.advance(30 * 86_400)
        assert result.get(timeout=0) == START + 30 * 86_400


def test_retries_back_off_and_each_comes_at_its_own_time(app: CloudQ, clock: VirtualClock) -> None:
    times: list[float] = []

    @app.task(autoretry_for=[OSError], retry_backoff=10, retry_jitter=False, max_retries=3)
    def fetch() -> None:
        times.append(clock() - START)
        raise OSError("x")

    with worker(app, clock=clock) as running:
        result = fetch.delay()
        clock.advance(3600)
        assert times == [0, 10, 30, 70]
        assert result.state is State.FAILURE
        assert clock() == START + 3600
        assert len(running.failures) == 1
        assert result.record.finished_at == START + 70


def test_a_retry_by_eta_is_by_the_clock(app: CloudQ, clock: VirtualClock) -> None:
    times: list[float] = []

    @app.task(bind=True, name="again")
    def again(self: Task[..., None]) -> None:
        times.append(clock() - START)
        if len(times) < 2:
            self.retry(eta=clock.now() + timedelta(minutes=5))

    with worker(app, clock=clock):
        again.delay()
        clock.advance(299)
        assert times == [0]
        clock.advance(1)
    assert times == [0, 300]


def test_an_expired_call_is_revoked(app: CloudQ, clock: VirtualClock) -> None:
    task: Any = app.task(name="t")(lambda: 1)
    with in_memory(app, clock=clock):
        result = task.apply_async(expires=60)
        clock.advance(61)
        run_until_idle(app)
        with pytest.raises(TaskRevoked, match="expired"):
            result.get(timeout=0)


def test_results_expire(app: CloudQ, clock: VirtualClock) -> None:
    task: Any = app.task(name="t")(lambda: 1)
    with in_memory(app, clock=clock, result_expires=100):
        result = task.delay()
        run_until_idle(app)
        clock.advance(99)
        assert app.AsyncResult(result.id).state is State.SUCCESS
        clock.advance(1)
        assert app.AsyncResult(result.id).state is State.PENDING


def test_equal_calls_run_again_when_the_first_is_forgotten(
    app: CloudQ, clock: VirtualClock
) -> None:
    runs: list[int] = []
    task: Any = app.task(name="once", idempotent=True)(lambda: runs.append(1))
    with worker(app, clock=clock) as running:
        for after in (0, 100, 86_400):
            clock.advance(after)
            task.delay()
            running.run_until_idle()
    assert len(runs) == 2


def test_the_lease_of_a_worker_that_died_ends(app: CloudQ, clock: VirtualClock) -> None:
    times: list[float] = []
    task: Any = app.task(name="t")(lambda: times.append(clock() - START))
    plan = FaultPlan().die("start", task="t")
    with worker(app, clock=clock, faults=plan):
        result = task.delay()
        clock.advance(59)
        assert times == []
        clock.advance(1)
        assert times == [60]
        assert result.state is State.SUCCESS
    plan.assert_all_happened()


def test_advance_to_end_runs_all_that_waits(app: CloudQ, clock: VirtualClock) -> None:
    seen: list[float] = []
    task: Any = app.task(name="t")(lambda: seen.append(clock() - START))
    with worker(app, clock=clock):
        for countdown in (7200, 0, 60):
            task.apply_async(countdown=countdown)
        assert clock.advance_to_end() == 7200
        assert seen == [0, 60, 7200]
        assert clock.next_due == math.inf
        task.apply_async(countdown=100)
        with pytest.raises(TimeoutError, match="something is due in 100 s"):
            clock.advance_to_end(most=99)


def test_time_goes_forward_only(clock: VirtualClock) -> None:
    for seconds in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="time goes forward"):
            clock.advance(seconds)


def test_what_a_task_raises_into_a_worker_does_not_stop_the_clock(
    app: CloudQ, clock: VirtualClock
) -> None:
    @app.task(name="exits")
    def exits() -> None:
        raise SystemExit(1)

    with worker(app, clock=clock) as running:
        exits.apply_async(countdown=5)
        clock.advance(5)
        assert [s.state for s in running.settlements] == [State.FAILURE]


def test_a_clock_drives_several_apps(app: CloudQ, clock: VirtualClock) -> None:
    seen: list[str] = []
    with CloudQ("other", broker="memory://other") as other:
        here: Any = app.task(name="here")(lambda: seen.append("here"))
        there: Any = other.task(name="there")(lambda: seen.append("there"))
        with worker(app, clock=clock), in_memory(other, clock=clock), Worker(other):
            there.apply_async(countdown=20)
            here.apply_async(countdown=10)
            clock.advance(30)
    assert seen == ["here", "there"]


def test_a_broker_with_a_clock_of_its_own_is_refused(app: CloudQ, tmp_path: Any) -> None:
    task: Any = app.task(name="t")(lambda: 1)
    url = f"sqlite:///{tmp_path}/q.db"
    with (
        in_memory(app, clock=VirtualClock(), broker=url, backend=url),
        pytest.raises(ConfigurationError, match="cannot go by virtual time: use memory://"),
    ):
        task.delay()
