"""The life of a task, compared with Celery: hooks, classes, requests, own states, retries."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cloudq import (
    CloudQ,
    ConfigurationError,
    Context,
    Ignore,
    InvalidArguments,
    Reject,
    Retry,
    State,
    Task,
)
from cloudq.messages.body import decode
from cloudq.monitoring.task_logger import get_task_logger
from cloudq.results.record import TERMINAL, Record, fence
from cloudq.tasks.bound import record_state
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE
from tests.support.bench import Bench

Told = list[tuple[Any, ...]]
told: Told = []


class Telling(Task[..., Any]):
    """Notes every hook."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        told.append(("before_start", self.request.id == task_id, list(args), dict(kwargs)))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        told.append(("on_success", retval, self.request.id == task_id))

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        told.append(("on_failure", repr(exc), type(exc).__name__ in str(einfo)))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        told.append(("on_retry", repr(exc)))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        told.append(("after_return", status, repr(retval)))


@pytest.fixture(autouse=True)
def _untold() -> None:
    told.clear()


def test_hooks_of_a_success(plain: CloudQ) -> None:
    task: Any = plain.task(base=Telling)(lambda x, y=2: x + y)
    assert task.delay(1, y=3).state == State.PENDING
    drain(plain)
    assert told == [
        ("before_start", True, [1], {"y": 3}),
        ("on_success", 4, True),
        ("after_return", "SUCCESS", "4"),
    ]


def test_hooks_of_retries_and_the_failure_at_their_end(plain: CloudQ) -> None:
    @plain.task(base=Telling, autoretry_for=[OSError], max_retries=1, name="fails")
    def fails() -> None:
        raise OSError("o")

    fails.delay()
    drain(plain)
    assert told == [
        ("before_start", True, [], {}),
        ("on_retry", "OSError('o')"),
        ("before_start", True, [], {}),
        ("on_failure", "OSError('o')", True),
        ("after_return", "FAILURE", "OSError('o')"),
    ]


@pytest.mark.parametrize("error", [Ignore(), Reject("no"), Reject(requeue=True)])
def test_ignored_and_rejected_calls_have_no_hook_at_their_end(app: Bench, error: Exception) -> None:
    @app.task(base=Telling, name="odd")
    def odd() -> None:
        raise error

    odd.apply()
    assert told == [("before_start", True, [], {})]


def test_arguments_that_do_not_fit_at_the_worker_are_a_failure_with_its_hook(app: CloudQ) -> None:
    task: Any = app.task(base=Telling, name="narrow")(lambda x: x)
    app.send_task("other", (1, 2))  # known under this name there, and here
    app.tasks["other"] = task
    drain(app)
    assert [entry[0] for entry in told] == ["on_failure", "after_return"]


def test_what_before_start_raises_is_the_tasks_own_error(plain: CloudQ) -> None:
    class Closed(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise PermissionError("closed")

    task: Any = plain.task(base=Closed, name="closed")(lambda: 1)
    result = task.delay()
    drain(plain)
    assert isinstance(result.get(propagate=False), PermissionError)


def test_what_other_hooks_raise_changes_nothing(
    plain: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Task[..., Any]):
        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            raise ZeroDivisionError("hook")

    task: Any = plain.task(base=Broken, name="broken")(lambda: 1)
    result = task.delay()
    drain(plain)
    assert result.get() == 1
    assert "a hook raised" in caplog.text


# ---- classes


def test_a_class_has_state_that_its_tasks_calls_share(plain: CloudQ) -> None:
    class Counting(Task[..., Any]):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            assert self.name == "counting"

    @plain.task(base=Counting, bind=True, name="counting")
    def counting(self: Counting) -> int:
        self.calls += 1
        return self.calls

    results = [counting.delay() for _ in range(3)]
    drain(plain)
    assert [result.get() for result in results] == [1, 2, 3]
    assert isinstance(counting, Counting)
    assert isinstance(counting.options(countdown=1), Counting)


def test_attributes_of_a_class_are_options_of_its_tasks(plain: CloudQ) -> None:
    class Patient(Task[..., Any]):
        autoretry_for = (OSError,)
        queue = "slow"
        max_retries = 7  # type: ignore[assignment]

    class MorePatient(Patient):
        max_retries = 9  # type: ignore[assignment]

    assert plain.task(base=Patient, name="a")(print).policy.max_retries == 7
    task = plain.task(base=MorePatient, name="b", queue="own")(print)
    assert (task.policy.max_retries, task.policy.queue) == (9, "own")
    assert task.policy.autoretry_for == (OSError,)


def test_a_call_of_a_class_is_around_the_function(plain: CloudQ) -> None:
    class Doubling(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().__call__(*args, **kwargs)

    @plain.task(base=Doubling, bind=True, name="doubled")
    def doubled(self: Task[..., Any], x: int) -> int:
        return x if self.name == "doubled" else 0

    result = doubled.delay(4)
    drain(plain)
    assert result.get() == 8
    assert (doubled(5), doubled.run(5)) == (10, 5)


def test_an_app_can_have_a_class_for_all_its_tasks() -> None:
    app = CloudQ("classy", broker="memory://classy", task_cls=Telling)
    app.task(name="any")(lambda: 1)
    app.tasks["any"].apply()
    assert [entry[0] for entry in told] == ["before_start", "on_success", "after_return"]


# ---- the request


def test_every_field_of_the_request(plain: CloudQ) -> None:
    seen: dict[str, Any] = {}

    @plain.task(bind=True, name="looks", time_limit=50, soft_time_limit=9)
    def looks(self: Task[..., Any], a: int, b: int) -> None:
        request = self.request
        seen.update({name: getattr(request, name) for name in dir(request) if name[0] != "_"})

    looks.apply_async((1,), {"b": 2}, task_id="t1", headers={"h": "x"}, shadow="dark")
    drain(plain)
    assert seen["delivery_info"] == {
        "exchange": "",
        "routing_key": "default",
        "redelivered": False,
        "is_eager": False,
    }
    # The order that Celery's messages have: the hard limit comes first.
    assert seen["timelimit"] == (50, 9)
    expected = {
        "id": "t1",
        "root_id": "t1",
        "correlation_id": "t1",
        "parent_id": None,
        "group": None,
        "args": [1],
        "kwargs": {"b": 2},
        "retries": 0,
        "eta": None,
        "expires": None,
        "hostname": "drain",
        "is_eager": False,
        "called_directly": False,
        "headers": {"h": "x"},
        "reply_to": None,
        "shadow": "dark",
        "utc": True,
    }
    assert {name: seen[name] for name in expected} == expected


def test_a_task_called_as_a_function_knows_it_also_within_another(plain: CloudQ) -> None:
    @plain.task(bind=True, name="inner")
    def inner(self: Task[..., Any]) -> bool:
        return self.request.called_directly

    @plain.task(bind=True, name="outer")
    def outer(self: Task[..., Any]) -> list[bool]:
        return [self.request.called_directly, inner()]

    result = outer.delay()
    drain(plain)
    assert result.get() == [False, True]
    assert inner() is True


def test_an_alias_runs_the_renamed_task(plain: CloudQ) -> None:
    @plain.task(name="shop.new", aliases=["shop.old", "shop.older"], bind=True)
    def new(self: Task[..., Any]) -> tuple[str, bool]:
        return self.request.task, self.request.called_directly

    with CloudQ("old", broker=plain.conf.broker, backend=plain.conf.backend_url) as old:
        result = old.send_task("shop.old")
        drain(plain)
        assert result.get() == ["shop.new", False]
    with pytest.raises(ConfigurationError, match=r"alias 'shop.older' is another task's name"):
        plain.task(name="shop.third", aliases=["shop.older"])(lambda: 1)


# ---- states of its own


def test_progress_is_seen_while_the_task_runs(plain: CloudQ) -> None:
    going, on = threading.Event(), threading.Event()

    @plain.task(bind=True, name="works")
    def works(self: Task[..., Any]) -> str:
        self.update_state(state="PROGRESS", meta={"done": 3, "of": 10})
        going.set()
        on.wait(PATIENCE)
        return "done"

    result = works.delay()
    worker = threading.Thread(target=lambda: drain(plain))
    worker.start()
    assert going.wait(PATIENCE)
    assert (result.state, result.info) == ("PROGRESS", {"done": 3, "of": 10})
    assert not result.ready()
    on.set()
    worker.join(PATIENCE)
    assert (result.state, result.info) == (State.SUCCESS, "done")


def test_a_try_that_is_over_leaves_no_progress_behind(app: Bench) -> None:
    @app.task(bind=True, name="tries", track_started=True)
    def tries(self: Task[..., Any]) -> None:
        self.update_state(state="PROGRESS", meta=1)
        raise self.retry(countdown=50)

    result = tries.delay()
    drain(app)
    assert (result.state, result.info) == (State.RETRY, None)


def test_a_state_of_a_later_delivery_is_not_overwritten(
    app: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="t")(lambda: 1)
    record_state(app.runtime, "x", 5, "LATER", None)
    record_state(app.runtime, "x", 4, "EARLIER", None)
    assert app.AsyncResult("x").state == "LATER"
    assert "EARLIER is not recorded" in caplog.text


def test_a_later_record_of_a_try_takes_the_place_of_its_progress(app: Bench) -> None:
    record_state(app.runtime, "x", 1, "PROGRESS", {"done": 1})
    assert app.backend is not None
    assert app.backend.advance(Record(id="x", state=State.RETRY, fence=2)) is None
    assert (app.AsyncResult("x").state, app.AsyncResult("x").info) == (State.RETRY, None)


def test_progress_has_the_token_of_its_delivery(app: Bench) -> None:
    seen: list[Record | None] = []

    @app.task(bind=True, name="t", default_retry_delay=0)
    def t(self: Task[..., Any]) -> None:
        self.update_state(state="PROGRESS")
        seen.append(app.backend.record(self.request.id) if app.backend else None)
        if self.request.retries == 0:
            raise self.retry()

    t.delay()
    drain(app)
    assert [record.fence if record else 0 for record in seen] == [fence(0, 1), fence(1, 1)]


def test_another_tasks_state_can_be_set_by_its_id(app: Bench) -> None:
    task = app.task(name="t")(print)
    record_state(app.runtime, "x", 5, "LATER", None)
    task.update_state(task_id="x", state="HELPED", meta="by hand")
    assert (app.AsyncResult("x").state, app.AsyncResult("x").info) == ("HELPED", "by hand")


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_state_that_ends_a_task_cannot_be_given_to_it(app: Bench, state: str) -> None:
    with pytest.raises(InvalidArguments, match="is final"):
        app.task(name="t")(print).update_state(state=state, task_id="x")


def test_update_state_outside_of_a_call_must_name_one(app: Bench) -> None:
    with pytest.raises(InvalidArguments, match="give task_id="):
        app.task(name="t")(print).update_state(state="P")


def test_progress_of_an_eager_call_is_passed_over() -> None:
    app = CloudQ("eager", broker="nowhere://", task_always_eager=True)

    @app.task(bind=True, name="e")
    def e(self: Task[..., Any]) -> int:
        self.update_state(state="PROGRESS", meta=1)
        return 1

    assert e.delay().get() == 1


# ---- retry


def test_a_retry_can_have_other_arguments_and_options(plain: CloudQ) -> None:
    seen: Told = []

    @plain.task(bind=True, name="asks", default_retry_delay=0)
    def asks(self: Task[..., Any], n: int, to: str = "a") -> None:
        seen.append((n, to, self.request.queue, self.request.headers))
        if n < 2:
            raise self.retry(args=(n + 1,), kwargs={"to": "b"}, queue="other", headers={"h": "1"})

    asks.delay(1)
    drain(plain, ["default", "other"])
    assert seen == [(1, "a", "default", {}), (2, "b", "other", {"h": "1"})]


def test_a_retry_that_does_not_throw_happens_when_the_function_ends(plain: CloudQ) -> None:
    seen: list[int] = []

    @plain.task(bind=True, name="soft", default_retry_delay=0)
    def soft(self: Task[..., Any], fails: bool) -> str:
        seen.append(self.request.retries)
        if self.request.retries == 0:
            assert isinstance(self.retry(throw=False), Retry)
            seen.append(-1)
            if fails:
                raise ValueError("after all")
        return "done"

    results = [soft.delay(fails) for fails in (False, True)]
    drain(plain)
    assert [result.get() for result in results] == ["done", "done"]
    assert sorted(seen) == [-1, -1, 0, 0, 1, 1]


def test_a_retry_of_a_direct_call_raises_its_cause(plain: CloudQ) -> None:
    @plain.task(bind=True, name="direct")
    def direct(self: Task[..., Any], error: Exception | None) -> None:
        raise self.retry(exc=error)

    with pytest.raises(OSError, match="cause"):
        direct(OSError("cause"))
    with pytest.raises(Retry, match="called as a function"):
        direct(None)


def test_a_retry_at_a_naive_time_is_in_the_apps_zone(plain: CloudQ) -> None:
    app = plain
    app.conf.timezone = "Asia/Tokyo"
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    local = due.astimezone(ZoneInfo("Asia/Tokyo")).replace(tzinfo=None)

    @app.task(bind=True, name="tokyo")
    def tokyo(self: Task[..., Any]) -> None:
        raise self.retry(eta=local)

    tokyo.delay()
    drain(app)
    (waiting,) = app.broker.scheduled("default", count=1)
    assert waiting.due == pytest.approx(due.timestamp(), abs=60)


def test_retry_kwargs_are_for_automatic_retries(plain: CloudQ) -> None:
    seen: list[int] = []

    @plain.task(
        bind=True,
        name="auto",
        autoretry_for=[OSError],
        retry_kwargs={"max_retries": 1, "countdown": 0},
        default_retry_delay=1000,
        max_retries=9,
    )
    def auto(self: Task[..., Any]) -> None:
        seen.append(self.request.retries)
        raise OSError

    result = auto.delay()
    drain(plain)
    assert (seen, result.state) == ([0, 1], State.FAILURE)
    with pytest.raises(ConfigurationError, match="retry_kwargs takes max_retries and countdown"):
        plain.task(retry_kwargs={"tries": 1}, name="x")(print)


def test_an_option_that_a_retry_cannot_have_is_an_error_of_the_task(plain: CloudQ) -> None:
    @plain.task(bind=True, name="odd")
    def odd(self: Task[..., Any]) -> None:
        raise self.retry(task_id="other")

    result = odd.delay()
    drain(plain)
    assert isinstance(result.get(propagate=False), InvalidArguments)


def test_an_ordered_retry_cannot_change_its_message(plain: CloudQ) -> None:
    @plain.task(bind=True, name="in_order", default_retry_delay=0)
    def in_order(self: Task[..., Any], n: int) -> None:
        raise self.retry(args=(n + 1,))

    result = in_order.options(group_key="g").delay(1)
    drain(plain)
    error = result.get(propagate=False)
    assert isinstance(error, ConfigurationError)
    assert "is the same message: it cannot change args" in str(error)


def test_a_middleware_knows_whether_a_call_is_tried_again(plain: CloudQ) -> None:
    seen: list[bool] = []

    def looks(call: Any) -> Any:
        def run(context: Context) -> object:
            try:
                return call(context)
            except Exception as error:
                seen.append(context.retried(error))
                raise

        return run

    plain.middleware.append(looks)

    @plain.task(bind=True, name="x", autoretry_for=[OSError], max_retries=1)
    def x(self: Task[..., Any], kind: str) -> None:
        if kind == "asks":
            raise self.retry(exc=ValueError())
        raise OSError if kind == "auto" else Ignore() if kind == "ignored" else ValueError

    for kind, expected in {
        "asks": [True, False],
        "auto": [True, False],
        "ignored": [False],
        "fails": [False],
    }.items():
        seen.clear()
        x.delay(kind)
        drain(plain)
        assert seen == expected, kind


def test_apply_with_throw_raises(plain: CloudQ) -> None:
    @plain.task(name="fails")
    def fails() -> None:
        raise OSError("at once")

    assert fails.apply().failed()
    with pytest.raises(OSError, match="at once"):
        fails.apply(throw=True)


def test_a_task_gives_the_result_of_its_call_by_id(plain: CloudQ) -> None:
    task: Any = plain.task(name="t")(lambda: 5)
    sent = task.delay()
    drain(plain)
    assert task.AsyncResult(sent.id).get() == 5


def test_a_call_has_callbacks_of_its_end(plain: CloudQ) -> None:
    seen: list[Any] = []
    half: Any = plain.task(name="half")(lambda n: 10 // n)
    noted: Any = plain.task(name="noted")(lambda value: seen.append(value))
    again: Any = plain.task(name="again")(lambda value: seen.append(-value))
    half.apply_async((5,), link=noted.s(), task_id="five")
    half.apply_async((2,), link=[noted.s(), again.s()])
    failed = half.apply_async((0,), link=noted.s(), link_error=noted.s())
    drain(plain)
    assert sorted(map(str, seen)) == sorted(["2", "5", "-5", failed.id])
    assert plain.AsyncResult("five").get() == 2


# ---- logging


def test_records_of_a_task_logger_carry_the_task(
    plain: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    logger = get_task_logger("shop.tasks")
    assert get_task_logger("shop.tasks") is logger
    assert len(logger.filters) == 1

    @plain.task(name="says")
    def says() -> None:
        logger.warning("inside")

    says.apply_async(task_id="t7")
    drain(plain)
    logger.warning("outside")
    found = {
        r.getMessage(): (r.task_name, r.task_id) for r in caplog.records if r.name == "shop.tasks"
    }  # type: ignore[attr-defined]
    assert found == {"inside": ("says", "t7"), "outside": ("", "")}


def test_a_shadow_is_the_name_in_the_log(plain: CloudQ) -> None:
    task: Any = plain.task(name="import")(lambda: 1)
    task.apply_async(shadow="import of May")
    (settlement,) = drain(plain)
    assert settlement.task == "import of May"


# ---- times


def test_naive_times_are_in_the_apps_zone(plain: CloudQ) -> None:
    app = plain
    app.conf.timezone = "America/New_York"
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    local = due.astimezone(ZoneInfo("America/New_York")).replace(tzinfo=None)
    task = app.task(name="t")(print)
    task.apply_async(eta=local, expires=local + timedelta(hours=1))
    (waiting,) = app.broker.scheduled("default", count=1)
    assert waiting.due == pytest.approx(due.timestamp(), abs=60)
    assert decode(waiting.body, limit=10_000).expires == due.timestamp() + 3600


def test_a_zone_that_there_is_not_is_an_error_of_the_settings() -> None:
    with pytest.raises(ConfigurationError, match="there is no time zone 'Mars/Olympus'"):
        CloudQ("x", timezone="Mars/Olympus")
