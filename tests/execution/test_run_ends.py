"""A run's outcome where its process dies, its limits change, or who looks on is told of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from cloudq import CloudQ, Reject, State, signals
from cloudq.driver import Outgoing
from cloudq.driver.ends import Died
from cloudq.errors import UnknownTask
from cloudq.results.waiting import RUNNING_IN
from cloudq.tasks.limits.unique import unique_key
from tests.support.bench import Bench


def dying(*_: object, **__: object) -> Any:
    raise Died


# ---- a process that dies


def test_who_dies_before_a_task_starts_leaves_no_outcome(app: Bench) -> None:
    app.task(name="t", track_started=True)(lambda: None).delay()
    job = app.job(app.one())
    app.store.update = dying  # type: ignore[method-assign]
    with pytest.raises(Died):
        app.runner.run(job)


def test_who_dies_as_a_value_is_put_away_leaves_no_outcome(
    app: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.task(name="t")(lambda: "x" * 20_000).delay()
    job = app.job(app.one())
    monkeypatch.setattr(type(app.results.large), "put_away", dying)
    with pytest.raises(Died):
        app.runner.run(job)


def test_who_dies_as_a_stopped_call_frees_its_place_leaves_no_outcome(app: Bench) -> None:
    app.task(name="t", concurrency=1)(lambda: None).delay()
    job = app.job(app.one())
    app.store.get = dying  # type: ignore[method-assign]
    with pytest.raises(Died):
        app.runner.stopped(job, ValueError("stopped"))
    with pytest.raises(Died):
        app.runner.revoked(job, "terminated")


# ---- payloads that are gone


def sized(text: str) -> int:
    return len(text)


@pytest.mark.parametrize("setting", ["fail", "wait"])
def test_a_call_whose_payload_is_gone_fails_or_waits_as_the_app_says(
    tmp_path: Path, setting: Literal["fail", "wait"]
) -> None:
    with CloudQ(
        "payloads",
        broker=f"memory://{tmp_path.name}",
        payload_store=f"file:///{tmp_path}/payloads",
        payload_store_over=2000,
        payload_gone=setting,
    ) as app:
        app.task(name="sized", max_retries=0)(sized).delay("x" * 3000)
        for each in (tmp_path / "payloads").rglob("*"):
            if each.is_file():
                each.unlink()
        odd = b'{"v":1,"id":"odd","task":"sized","args":["x","y"]}'
        app.broker.driver.send("default", [Outgoing(id="odd", body=odd)])
        runner = app.executor()
        jobs, _ = runner.open(app.broker.receive("default", count=2, wait=0.0, lease=60.0))
        first, other = (runner.run(job) for job in jobs)
        if setting == "fail":
            assert (first.state, first.resend) == (State.FAILURE, None)
        else:
            assert (first.state, first.resend is not None) == (None, True)
            assert first.resend is not None
            assert (first.resend.not_before or 0.0) > time.time() + 30.0
        assert other.state is State.FAILURE


# ---- limits of a worker


def test_limits_are_changed_of_tasks_that_there_are(app: Bench) -> None:
    app.task(name="t", rate_limit="5/s")(lambda: None)
    runner = app.runner
    for change in (
        lambda: runner.change_rate_limit("other", "1/s"),
        lambda: runner.change_time_limit("other", 1.0, 2.0),
    ):
        with pytest.raises(UnknownTask, match="there is no task 'other' in this app"):
            change()
    changed = runner.change_rate_limit("t", "10/m")
    assert changed is not None
    assert runner.task_limits("t") == (changed, None, None)
    runner.change_time_limit("t", 1.0, 2.0)
    assert runner.task_limits("t")[1:] == (1.0, 2.0)
    assert runner.change_rate_limit("t", None) is None
    assert runner.task_limits("t")[0] is None


# ---- who looks on


@pytest.fixture
def times() -> Iterator[list[float]]:
    """The run times that receivers were told of."""
    told: list[float] = []

    def hear(*_: object, runtime: float, **__: object) -> None:
        told.append(runtime)

    signals.task_success.connect(hear)
    yield told
    signals.task_success.disconnect(hear)


def test_receivers_are_told_how_long_a_call_ran(app: Bench, times: list[float]) -> None:
    def work() -> None:
        app.clock.ahead += 3.0

    app.task(name="t")(work).delay()
    app.step()
    [took] = times
    assert 3.0 <= took < 60.0


def test_the_record_of_a_call_names_the_call_that_made_it(app: Bench) -> None:
    inner = app.task(name="inner")(lambda: None)
    made: list[Any] = []
    outer = app.task(name="outer")(lambda: made.append(inner.delay())).delay()
    app.work()
    assert app.record(made[0]).parent == outer.id
    assert app.record(outer).parent is None


def test_a_call_in_its_caller_s_thread_takes_no_place(plain: CloudQ) -> None:
    seen: list[object] = []
    task = plain.task(name="t")(lambda: seen.append(RUNNING_IN.get()))
    task.apply()
    assert seen == [None]


def test_a_call_that_goes_back_holds_its_key_as_one_that_waits(app: Bench) -> None:
    @app.task(name="t", unique="k")
    def work() -> None:
        raise Reject("not yet", requeue=True)

    work.delay()
    delivery = app.one()
    held = unique_key(app.job(delivery).message)
    assert held is not None
    app.finish(delivery, app.settle(delivery))
    claim = app.results.get([held])[held]
    assert "owner" in claim.fields
    assert "started" not in claim.fields


def test_many_error_callbacks_cost_as_much_each_as_few(app: Bench) -> None:
    @app.task(name="fails")
    def fails() -> None:
        raise ValueError

    app.task(name="told")(print)

    def calls_for(count: int) -> int:
        told = app.signature("told", immutable=True)
        fails.apply_async(link_error=[told] * count)
        delivery, counted = app.one(), 0

        def count_one(frame: object, event: str, argument: object) -> None:
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count_one)
        try:
            outcome = app.settle(delivery)
        finally:
            sys.setprofile(None)
        assert len(outcome.starts.messages) == count if outcome.starts is not None else not count
        app.finish(delivery, outcome)
        app.work()
        return counted

    calls_for(1)
    few, many = calls_for(10), calls_for(80)
    assert many < 10 * few
