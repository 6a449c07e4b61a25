"""Retries: asked for, automatic, with their delays, until there are none left."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import (
    CloudQ,
    ConfigurationError,
    InvalidArguments,
    MaxRetriesExceeded,
    Retry,
    State,
    Task,
)
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import Action
from cloudq.tasks.options import policy
from tests.support.bench import Bench


def failing(app: CloudQ, times: int = 10**9, **options: Any) -> Any:
    """A task that raises ConnectionError so many times; `calls` counts its runs."""

    @app.task(name=f"failing-{len(app.tasks)}", **options)
    def failing() -> int:
        failing.calls += 1  # type: ignore[attr-defined]
        if failing.calls <= times:  # type: ignore[attr-defined]
            raise ConnectionError("no answer")
        return failing.calls  # type: ignore[attr-defined, no-any-return]

    failing.calls = 0  # type: ignore[attr-defined]
    return failing


SHARED = LookupError("one object of all calls")


def test_an_error_that_is_named_is_retried_until_it_goes_well(app: Bench) -> None:
    task = failing(app, 2, autoretry_for=[OSError])
    result = task.delay()
    states = [settlement.state for settlement in app.work()]
    assert states == [State.RETRY, State.RETRY, State.SUCCESS]
    assert result.get(timeout=0) == 3
    assert app.record(result).retries == 2


def test_the_default_is_three_retries_and_then_the_error_itself(app: Bench) -> None:
    task = failing(app, autoretry_for=[ConnectionError])
    result = task.delay()
    app.work()
    assert task.calls == 4
    with pytest.raises(ConnectionError, match="no answer"):
        result.get(timeout=0)


def test_the_app_says_how_many_retries_where_the_task_does_not() -> None:
    with Bench(max_retries=1, default_retry_delay=0.0) as app:
        for options, runs in (({}, 2), ({"max_retries": 0}, 1), ({"max_retries": 2}, 3)):
            task = failing(app, autoretry_for=[OSError], **options)
            task.delay()
            app.work()
            assert task.calls == runs


def test_max_retries_none_retries_for_ever(app: Bench) -> None:
    task = failing(app, 30, autoretry_for=[OSError], max_retries=None)
    result = task.delay()
    app.work()
    assert result.get(timeout=0) == 31


def test_other_errors_are_not_retried(app: Bench) -> None:
    task = failing(app, autoretry_for=[KeyError])
    task.delay()
    assert [s.state for s in app.work()] == [State.FAILURE]


def test_an_excepted_error_is_not_retried(app: Bench) -> None:
    task = failing(app, autoretry_for=[OSError], dont_autoretry_for=[ConnectionError])
    task.delay()
    assert [s.state for s in app.work()] == [State.FAILURE]


def test_a_task_asks_for_its_own_retry(app: Bench) -> None:
    seen: list[int] = []

    @app.task(bind=True)
    def asks(self: Task[..., Any]) -> str:
        seen.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return "done"

    result = asks.delay()
    app.work()
    assert seen == [0, 1, 2]
    assert result.get(timeout=0) == "done"


@pytest.mark.parametrize("given", [None, ValueError("the cause")])
def test_when_no_retries_are_left_the_cause_is_the_failure(
    app: Bench, given: Exception | None
) -> None:
    @app.task(bind=True, max_retries=1)
    def asks(self: Task[..., Any]) -> None:
        self.retry(exc=given)

    result = asks.delay()
    app.work()
    error = type(given) if given else MaxRetriesExceeded
    with pytest.raises(error, match="the cause" if given else "retried 1 times and may not"):
        result.get(timeout=0)


def test_the_call_to_retry_may_allow_more_than_the_task(app: Bench) -> None:
    runs: list[int] = []

    @app.task(bind=True, max_retries=0)
    def asks(self: Task[..., Any]) -> None:
        runs.append(1)
        self.retry(max_retries=4)

    asks.delay()
    app.work()
    assert len(runs) == 5


@pytest.mark.parametrize("given", [None, SHARED], ids=["no exc", "exc"])
def test_the_retries_of_the_call_to_retry_count_where_the_task_retries_by_itself(
    app: Bench, given: Exception | None
) -> None:
    tries: list[str] = []

    @app.task(name="t", bind=True, autoretry_for=[Exception], max_retries=3, default_retry_delay=0)
    def t(self: Any, how: str) -> None:
        tries.append(how)
        if how == "asks":
            raise self.retry(exc=given, max_retries=0)
        raise SHARED

    ends = [t.delay("asks"), t.delay("raises")]
    app.work()
    assert [end.state for end in ends] == [State.FAILURE] * 2
    # What one call has raised so says nothing of another's, although it is one object.
    assert (tries.count("asks"), tries.count("raises")) == (1, 4)


def test_a_raised_retry_is_a_retry_also_without_bind(app: Bench) -> None:
    runs: list[int] = []

    @app.task
    def raises() -> None:
        runs.append(1)
        raise Retry(countdown=0, max_retries=2)

    result = raises.delay()
    app.work()
    assert len(runs) == 3
    with pytest.raises(MaxRetriesExceeded):
        result.get(timeout=0)


@pytest.mark.parametrize(
    ("asked", "delay"),
    [
        ({"countdown": 30.0}, 30.0),
        ({"countdown": 0.0}, 0.0),
        ({}, 180.0),
        ({"countdown": -5.0}, 0.0),
        ({"countdown": 9 * 365.25 * 86_400}, 9 * 365.25 * 86_400),
    ],
)
def test_the_copy_is_delayed_as_asked(asked: dict[str, float], delay: float) -> None:
    with Bench() as app:

        @app.task(bind=True)
        def asks(self: Task[..., Any]) -> None:
            self.retry(**asked)

        asks.delay()
        copy = app.settle(app.one()).resend
        assert copy is not None
        assert copy.retries == 1
        due = copy.not_before or time.time()
        assert due - time.time() == pytest.approx(delay, abs=14)


@pytest.mark.parametrize("countdown", [inf, -inf, nan, 11 * 365.25 * 86_400, "soon", True], ids=str)
def test_a_countdown_that_is_no_time_is_an_error(app: Bench, countdown: Any) -> None:
    @app.task(bind=True)
    def asks(self: Task[..., Any]) -> None:
        self.retry(countdown=countdown, exc=KeyError("hidden"))

    @app.task
    def raises() -> None:
        raise Retry(countdown=countdown)

    results = [asks.delay(), raises.delay()]
    app.work()
    for result in results:
        with pytest.raises(InvalidArguments, match=r"countdown of a retry is .* ten years at most"):
            result.get(timeout=0)
        assert result.retries == 0


def test_a_time_too_far_away_is_an_error(app: Bench) -> None:
    @app.task(bind=True)
    def asks(self: Task[..., Any]) -> None:
        self.retry(eta=datetime.now(UTC) + timedelta(days=4000), throw=False)

    result = asks.delay()
    app.work()
    with pytest.raises(InvalidArguments, match="ten years at most"):
        result.get(timeout=0)


@pytest.mark.parametrize("countdown", [inf, nan, 1e12, "soon"], ids=str)
def test_the_decorator_refuses_such_a_countdown(app: Bench, countdown: Any) -> None:
    with pytest.raises(ConfigurationError, match="retry_kwargs: the countdown of a retry"):
        app.task(name="t", retry_kwargs={"countdown": countdown})(print)


def test_a_retry_may_name_the_time(app: Bench) -> None:
    at = datetime.now(UTC) + timedelta(seconds=500)

    @app.task(bind=True)
    def asks(self: Task[..., Any]) -> None:
        self.retry(eta=at)

    asks.delay()
    copy = app.settle(app.one()).resend
    assert copy is not None
    assert copy.not_before == pytest.approx(at.timestamp(), abs=1)


def test_a_retry_keeps_everything_of_the_call_but_its_dedup_key(app: Bench) -> None:
    task = failing(app, 1, autoretry_for=[OSError])
    task.apply_async(
        headers={"a": "1"}, expires=500.0, time_limit=9.0, dedup_key="once", task_id="given"
    )
    before = app.sent()[0]
    app.step()
    after = app.sent()[0]
    assert before.pop("dedup_key") == "once"
    assert after == before | {"retries": 1}


def test_the_broker_does_not_swallow_a_retry_as_a_duplicate(app: Bench) -> None:
    task = failing(app, 1, autoretry_for=[OSError])
    result = task.apply_async(dedup_key="once")
    app.work()
    assert result.get(timeout=0) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"h": 1}},
        {"headers": {1: "h"}},
        {"headers": ["h"]},
        {"link": failing(CloudQ("linked")).s()},
        {"link_error": [failing(CloudQ("linked")).s()]},
        {"protocol": "celery"},
        {"task_id": "other"},
        {"retry": True},
    ],
)
def test_an_option_that_no_retry_can_have_is_an_error_of_the_call_to_retry(
    app: Bench, options: dict[str, Any]
) -> None:
    seen: list[Exception] = []

    @app.task(bind=True)
    def wrong(self: Task[..., Any]) -> str:
        try:
            self.retry(**options)
        except InvalidArguments as error:
            seen.append(error)
        return "went on"

    result = wrong.delay()
    app.work()
    assert result.get(timeout=0) == "went on"
    assert min(options) in str(seen).replace("header 1", "headers").replace("header 'h'", "headers")


def test_a_retry_goes_to_the_queue_the_message_was_on(app: Bench) -> None:
    task = failing(app, 1, autoretry_for=[OSError])
    task.apply_async(queue="slow")
    app.step(queue="slow")
    assert len(app.sent("slow")) == 1


# ---- delays


def test_without_backoff_the_delay_is_the_tasks_or_the_apps() -> None:
    assert policy("t", {}).delay(5, 180.0) == 180.0
    assert policy("t", {"default_retry_delay": 7.0}).delay(5, 180.0) == 7.0
    assert policy("t", {"default_retry_delay": 0.0}).delay(5, 180.0) == 0.0


def test_backoff_doubles_up_to_its_cap() -> None:
    made = policy("t", {"retry_backoff": True, "retry_jitter": False, "retry_backoff_max": 60.0})
    assert [made.delay(n, 180.0) for n in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    made = policy("t", {"retry_backoff": 5.0, "retry_jitter": False})
    assert [made.delay(n, 180.0) for n in range(3)] == [5, 10, 20]
    assert made.delay(10**6, 180.0) == 600


@given(st.integers(0, 5000), st.floats(0.001, 100), st.floats(0.001, 10_000))
def test_jitter_draws_between_nothing_and_the_full_delay(
    retries: int, first: float, longest: float
) -> None:
    options: Any = {"retry_backoff": first, "retry_backoff_max": longest}
    full = policy("t", options | {"retry_jitter": False}).delay(retries, 180.0)
    assert full == pytest.approx(min(longest, first * 2.0 ** min(retries, 64)))
    assert 0 <= policy("t", options).delay(retries, 180.0) <= full


def test_jitter_spreads() -> None:
    made = policy("t", {"retry_backoff": 100.0})
    delays = [made.delay(0, 0.0) for _ in range(200)]
    assert min(delays) < 30
    assert max(delays) > 70
    assert len(set(delays)) > 190


def test_a_tracked_retry_is_recorded_with_its_reason(app: Bench) -> None:
    task = failing(app, autoretry_for=[OSError], track_started=True, default_retry_delay=100.0)
    result = task.delay()
    assert app.step().action is Action.ACK
    record = app.record(result)
    assert (record.state, record.error, record.retries) == (State.RETRY, "no answer", 1)


def test_an_untracked_retry_is_not_recorded(app: Bench) -> None:
    task = failing(app, autoretry_for=[OSError])
    result = task.delay()
    app.step()
    assert app.state(result) is State.PENDING


def test_a_redelivery_of_what_was_retried_leaves_the_payload_to_its_next_try(
    tmp_path: Path,
) -> None:
    app = CloudQ(
        "payloads",
        broker=f"memory://{tmp_path.name}",
        payload_store=f"file:///{tmp_path}/payloads",
        payload_store_over=2000,
        default_retry_delay=0.0,
    )

    @app.task(bind=True, autoretry_for=[OSError], track_started=True)
    def sized(self: Task[..., Any], text: str) -> int:
        if not self.request.retries:
            raise OSError("busy")
        return len(text)

    with app:
        result = sized.delay("x" * 3000)
        consumer = Consumer(app.executor(), log=Log("test"))
        [first] = app.broker.receive("default", count=1, wait=0.0, lease=60.0)
        jobs, _ = consumer.open([first])
        consumer.commit([(first, consumer.run_job(jobs[0]))])
        # The worker dies before it acks the message, which comes again.
        app.broker.release([first])
        again, copy = sorted(
            app.broker.receive("default", count=2, wait=0.0, lease=60.0),
            key=lambda delivery: -delivery.attempts,
        )
        assert (again.attempts, copy.attempts) == (2, 1)
        assert [settled.reason for _, settled in consumer.consume([again])] == ["already done"]
        consumer.consume([copy])
        assert result.get(timeout=0) == 3000
        assert not [each for each in (tmp_path / "payloads").rglob("*") if each.is_file()]
