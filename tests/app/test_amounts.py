"""A number that cannot be used is refused where it is given, by one error that names it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, Retry, State, every, group, solar
from cloudq.errors import CloudQError, InvalidArguments, ResultTimeout
from cloudq.execution.deadline import Deadline
from cloudq.settings.model import model
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.options import TaskOptions
from cloudq.testing import drain, worker
from cloudq.testing.waiting import eventually
from cloudq.worker.options import WorkerOptions
from tests.support.bench import Bench

NEVER = [nan, 10**400, 10**5000, True, "3", [1], Decimal(3), timedelta(seconds=3)]
"""Values that are no number of seconds and no count, wherever they are given."""
BAD = [*NEVER, inf, -inf, -1, 1e300]
CALL = ("countdown", "expires", "time_limit", "soft_time_limit")
TASK = (
    *("default_retry_delay", "retry_backoff_max", "time_limit", "soft_time_limit", "expires"),
    *("max_retries", "unique_for", "priority", "memory", "timeout", "batch_size"),
)


def shown(value: object) -> str:
    return "a huge integer" if isinstance(value, int) and value > 10**300 else repr(value)[:30]


@pytest.mark.parametrize("bad", BAD, ids=shown)
@pytest.mark.parametrize("option", CALL)
def test_a_call_s_option_is_refused_at_the_call(app: Bench, option: Any, bad: Any):
    task = app.task(name="t")(lambda: None)
    options: CallOptions = {option: bad}
    with pytest.raises(InvalidArguments, match=option):
        task.apply_async(**options)
    with pytest.raises(InvalidArguments, match=option):
        group([task.s(), task.s()]).apply_async(**options)


@pytest.mark.parametrize("bad", [*BAD, "x"], ids=shown)
@pytest.mark.parametrize("option", TASK)
def test_a_task_s_option_is_refused_at_its_declaration(app: Bench, option: Any, bad: Any):
    options: TaskOptions = {option: bad}
    # A cloud's own limits are for its deployment, which knows them.
    if option in ("memory", "timeout", "batch_size") and isinstance(bad, int) and bad > 1:
        pytest.skip("checked by each cloud")
    with pytest.raises(ConfigurationError, match=option):
        app.task(name="t", **options)(lambda: None)


@pytest.mark.parametrize("bad", [each for each in BAD if each is not True], ids=shown)
def test_a_back_off_is_seconds_or_true(app: Bench, bad: Any):
    with pytest.raises(ConfigurationError, match="retry_backoff"):
        app.task(name="t", retry_backoff=bad)(lambda: None)
    assert app.task(name="one", retry_backoff=True)(lambda: None).policy.retry_backoff == 1.0


@pytest.mark.parametrize("bad", [*NEVER[:4], *NEVER[5:], inf, -1], ids=shown)
@pytest.mark.parametrize("option", ["rate_limit", "global_rate_limit"])
def test_a_rate_is_a_rate(app: Bench, option: Any, bad: Any):
    if bad == Decimal(3):
        pytest.skip("three a second")
    options: TaskOptions = {option: bad}
    with pytest.raises(ConfigurationError, match=option):
        app.task(name="t", **options)(lambda: None)
    if option == "rate_limit":
        with pytest.raises(ConfigurationError, match=option):
            app.control.rate_limit("t", bad)


@pytest.mark.parametrize("rate", ["0.00000001/d", "9" * 60 + "/s", "9" * 400, "1/1/s", "nan/s"])
def test_a_rate_that_never_comes_or_never_waits_is_refused(app: Bench, rate: str):
    with pytest.raises(ConfigurationError, match="rate_limit"):
        app.task(name="t", rate_limit=rate)(lambda: None)


@pytest.mark.parametrize("bad", [*BAD, "3", ("a", True), ("a", "3"), ("a", 0), 10**400], ids=shown)
def test_a_concurrency_is_a_number_or_a_key(app: Bench, bad: Any):
    with pytest.raises(ConfigurationError, match="concurrency"):
        app.task(name="t", concurrency=bad)(lambda: None)


@pytest.mark.parametrize("bad", BAD, ids=shown)
@pytest.mark.parametrize("what", ["max_retries", "countdown"])
def test_a_retry_s_number_is_refused_when_it_is_declared(app: Bench, what: str, bad: Any):
    if what == "countdown" and bad == -1:
        pytest.skip("one that has passed is at once")
    with pytest.raises(ConfigurationError, match=what):
        app.task(name="t", retry_kwargs={what: bad})(lambda: None)


@pytest.mark.parametrize("bad", [nan, inf, "3", True, -1, 1.5], ids=shown)
@pytest.mark.parametrize("by", ["method", "raised"])
def test_a_retry_with_a_bad_number_ends_its_call(app: Bench, by: str, bad: Any):
    runs: list[int] = []

    @app.task(bind=True, max_retries=2)
    def again(self: Any) -> None:
        runs.append(1)
        assert len(runs) < 10, "it is retried without end"
        raise self.retry(max_retries=bad) if by == "method" else Retry(max_retries=bad)

    result = again.delay()
    drain(app)
    assert (result.state, len(runs)) == (State.FAILURE, 1)
    with pytest.raises(InvalidArguments, match="max_retries"):
        result.get(timeout=1)


@pytest.mark.parametrize("bad", [nan, True, False, "3", "nan", [1], Decimal(3)], ids=shown)
def test_get_refuses_what_is_no_time(app: Bench, bad: Any):
    task = app.task(name="t")(lambda: None)
    one = task.delay()
    many = group([task.s(), task.s()]).apply_async()
    for result in (one, many):
        with pytest.raises(InvalidArguments, match="timeout"):
            result.get(timeout=bad)
        with pytest.raises(InvalidArguments, match="interval"):
            result.get(timeout=0.1, interval=bad)


@pytest.mark.parametrize("bad", [nan, True, "3", [1], Decimal(3)], ids=shown)
def test_draining_refuses_what_is_no_time(app: Bench, bad: Any):
    with pytest.raises(InvalidArguments, match="timeout"):
        drain(app, timeout=bad)


def test_get_looks_once_where_the_time_has_passed(app: Bench):
    result = app.task(name="t")(lambda: 5).delay()
    for timeout in (0, -1, -inf, -(10**400)):
        with pytest.raises(ResultTimeout):
            result.get(timeout=timeout)
    drain(app)
    assert result.get(timeout=-1) == 5


@pytest.mark.parametrize("timeout", [inf, 1e300, 10**400, sys.maxsize, sys.float_info.max])
def test_a_timeout_beyond_all_times_has_no_end(app: Bench, timeout: float):
    task = app.task(name="t")(lambda: 5)
    result = task.delay()
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(result.get(timeout=timeout)), daemon=True)
    waiting.start()
    drain(app)
    waiting.join(10)
    assert eventually(lambda: got == [5])


@pytest.mark.parametrize("bad", BAD, ids=shown)
def test_the_timeout_of_a_command_is_refused_at_the_call(app: Bench, bad: Any):
    result = app.task(name="t")(lambda: None).delay()
    asked: list[Callable[[], object]] = [
        lambda: app.control.ping(timeout=bad),
        lambda: app.control.inspect(timeout=bad).active(),
        lambda: app.control.pool_grow(bad),
        lambda: app.control.autoscale(bad, 1),
        lambda: result.revoke(timeout=bad),
    ]
    if not isinstance(bad, Decimal):  # whose seconds are known
        asked.append(lambda: app.control.time_limit("t", hard=bad))
    for ask in asked:
        with pytest.raises(ConfigurationError):
            ask()


@pytest.mark.parametrize("bad", BAD, ids=shown)
def test_the_numbers_of_schedules_are_refused(app: Bench, bad: Any):
    task = app.task(name="t")(lambda: None)
    if not isinstance(bad, timedelta):  # which a period may be
        with pytest.raises(ConfigurationError, match="every"):
            every(bad)
        with pytest.raises(ConfigurationError):
            app.add_periodic_task(bad, task.s())
    for option in ("expires", "jitter"):
        if option == "expires" and isinstance(bad, timedelta):
            continue
        with pytest.raises(ConfigurationError, match=option):
            app.add_periodic_task(60.0, task.s(), **{option: bad})
    if bad != -1:
        for place in ((bad, 0), (0, bad)):
            with pytest.raises(ConfigurationError, match="solar"):
                solar("sunset", *place)
    app.add_periodic_task(60.0, task.s(), name="p")
    with pytest.raises(ConfigurationError, match="count"):
        app.schedules.next("p", bad)


@pytest.mark.parametrize("bad", [True, False, nan, inf, -inf, -1, 1e300, "nan", "inf", 10**400])
@pytest.mark.parametrize(
    "name",
    [
        name
        for name, field in model().model_fields.items()
        if field.annotation in (int, float, int | None, float | None)
    ],
)
def test_a_setting_that_is_a_number_is_one(name: str, bad: Any, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigurationError, match=name):
        CloudQ(broker="memory://", **{name: bad})
    if bad is not True and bad is not False and bad != 10**400:
        monkeypatch.setenv(f"CLOUDQ_{name.upper()}", str(bad))
        with pytest.raises(ConfigurationError, match=name):
            CloudQ(broker="memory://").conf  # noqa: B018 (settings are read when used)


@pytest.mark.parametrize("bad", BAD, ids=shown)
@pytest.mark.parametrize("name", ["processes", "threads", "lease", "grace", "poll_wait"])
def test_a_worker_s_numbers_are_checked(name: str, bad: Any):
    given: dict[str, Any] = {"processes": 1, "threads": 1, name: bad}
    with pytest.raises(ConfigurationError, match=name):
        WorkerOptions(app_path="a:b", queues=(("q", 1),), **given)


@pytest.mark.parametrize("bad", BAD, ids=shown)
@pytest.mark.parametrize("name", ["max_retries", "interval_start", "interval_step", "interval_max"])
def test_a_policy_of_publishing_is_checked(app: Bench, name: str, bad: Any):
    task = app.task(name="t")(lambda: None)
    with pytest.raises(InvalidArguments, match=name):
        task.apply_async(retry_policy={name: bad})


def test_chunks_of_no_size_are_refused(app: Bench):
    task = app.task(name="t")(lambda n: None)
    for bad in (*BAD, 0):
        with pytest.raises(CloudQError, match="chunks"):
            task.chunks([(1,)], bad)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("bad", BAD, ids=shown)
def test_the_testing_kit_and_functions_refuse_a_time_that_never_ends(app: Bench, bad: Any):
    with worker(app) as running, pytest.raises(InvalidArguments, match="timeout"):
        running.run_until_idle(timeout=bad)
    with pytest.raises(ConfigurationError, match="timeout"):
        Deadline.after(bad, reserve=1.0)
    with pytest.raises(ConfigurationError, match="reserve"):
        Deadline.after(1.0, reserve=bad)
