"""`cloudq.testing.drain`: a worker's work in the test's own thread."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq import BackendError, BrokerError, CloudQ, State
from cloudq.driver import Code
from cloudq.testing import drain
from tests.support.bench import Bench


def test_drain_runs_everything_that_is_queued(plain: CloudQ) -> None:
    task: Any = plain.task(name="t")(lambda n: n * 2)
    results = plain.publish(task.prepare(n) for n in range(25))
    settlements = drain(plain)
    assert [s.state for s in settlements] == [State.SUCCESS] * 25
    assert [result.get(timeout=0) for result in results] == [n * 2 for n in range(25)]
    assert drain(plain) == []


def test_drain_follows_what_tasks_send_on_any_of_the_apps_queues(plain: CloudQ) -> None:
    seen: list[str] = []

    @plain.task(name="second", queue="other")
    def second() -> None:
        seen.append("second")

    @plain.task(name="first")
    def first() -> None:
        seen.append("first")
        second.delay()

    first.delay()
    drain(plain)
    assert seen == ["first", "second"]


def test_drain_looks_only_at_the_queues_it_is_given(plain: CloudQ) -> None:
    task: Any = plain.task(name="t")(lambda: 1)
    here, there = task.delay(), task.apply_async(queue="there")
    drain(plain, ["there"])
    assert (here.state, there.state) == (State.PENDING, State.SUCCESS)


def test_drain_follows_retries_that_are_due_and_leaves_delayed_ones(plain: CloudQ) -> None:
    runs: list[int] = []

    @plain.task(autoretry_for=[OSError], max_retries=2)
    def task() -> None:
        runs.append(1)
        raise OSError("x")

    failed = task.delay()
    later = task.apply_async(countdown=100)
    assert [s.state for s in drain(plain)] == [State.RETRY, State.RETRY, State.FAILURE]
    assert (failed.state, later.state, len(runs)) == (State.FAILURE, State.PENDING, 3)


def test_drain_gives_up_on_work_without_end(plain: CloudQ) -> None:
    @plain.task
    def again() -> None:
        again.delay()

    again.delay()
    with pytest.raises(TimeoutError, match=r"still some after 0\.05 s: does a task send itself"):
        drain(plain, timeout=0.05)


def test_drain_says_when_a_service_fails_and_can_go_on_after(app: Bench) -> None:
    task: Any = app.task(lambda: 1)
    result = task.delay()
    app.store.down.add("put")
    with pytest.raises(BackendError, match="no answer"):
        drain(app)
    app.store.down.clear()
    app.lose_leases()
    drain(app)
    assert result.get(timeout=0) == 1


def test_drain_says_when_a_message_cannot_be_settled(app: Bench) -> None:
    task: Any = app.task(lambda: 1)
    task.delay()
    app.wire.down.add("ack")
    with pytest.raises(BrokerError, match="1 message not settled") as error:
        drain(app)
    assert error.value.code == Code.UNREACHABLE


def test_drain_records_a_result_over_the_stores_limit_as_a_failure(app: Bench) -> None:
    task: Any = app.task(lambda: "x" * 500_000)
    result = task.delay()
    assert [s.state for s in drain(app)] == [State.FAILURE]
    assert app.state(result) is State.FAILURE
