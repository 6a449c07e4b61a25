"""Bad input of calls and options is one clear error of ours, which says what to give."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from cloudq import CloudQ, ConfigurationError, InvalidArguments, at, every, wait_for
from tests.support.bench import Bench

Try = Callable[[Any, Any], Any]
BAD: list[Any] = [None, 5, b"x", ["a"], {}]


@pytest.fixture(name="t")
def _task(app: Bench) -> Any:
    @app.task(name="t")
    def t(x: int = 1) -> int:
        return x

    return t


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_what_is_no_id_is_refused(app: Bench, t: Any, bad: Any) -> None:
    for use in (app.AsyncResult, t.AsyncResult, app.restore_group):
        with pytest.raises(InvalidArguments, match="the id of a task is"):
            use(bad)


@pytest.mark.parametrize("bad", [None, 5, b"x", [5]], ids=repr)
def test_only_ids_are_revoked(app: Bench, bad: Any) -> None:
    with pytest.raises(InvalidArguments, match="the id of a task"):
        app.control.revoke(bad)


def test_a_uuid_is_an_id(app: Bench, t: Any) -> None:
    sent, id = t.delay(), uuid4()
    assert app.AsyncResult(id).id == t.AsyncResult(id).id == str(id)  # type: ignore[arg-type]
    assert app.restore_group(id) is None  # type: ignore[arg-type]
    app.control.revoke(id)  # type: ignore[arg-type]
    app.control.revoke([sent.id, id])  # type: ignore[list-item]
    app.work()
    assert sent.state == "REVOKED"


@pytest.mark.parametrize("bad", [None, 5, ["id"], [None]], ids=repr)
def test_only_results_are_waited_for(bad: Any) -> None:
    with pytest.raises(InvalidArguments, match=r"wait_for was given .*: give results"):
        wait_for(bad)


OF_CALLS: dict[str, tuple[Try, str]] = {
    "send_task": (lambda app, t: app.send_task(["a"]), "send_task was given"),
    "send_task of none": (lambda app, t: app.send_task(None), "send_task was given"),
    "publish": (lambda app, t: app.publish(None), "publish takes a list of calls"),
    "map": (lambda app, t: t.map(None), "take a list of items"),
    "starmap": (lambda app, t: t.starmap(5), "take a list of items"),
    "chunks": (lambda app, t: t.chunks(None, 2), "take a list of items"),
    "queue": (lambda app, t: t.apply_async(queue=["a"]), "queue is .*: give a text"),
    "countdown": (
        lambda app, t: t.apply_async(countdown=datetime(2030, 1, 1, tzinfo=UTC)),
        "countdown is .*: it must be a number of seconds",
    ),
    "countdown of a signature": (
        lambda app, t: t.s().set(countdown=datetime(2030, 1, 1, tzinfo=UTC)).delay(),
        "countdown is .*: it must be a number of seconds",
    ),
    "time_limit": (
        lambda app, t: t.apply_async(time_limit=datetime(2030, 1, 1, tzinfo=UTC)),
        "time_limit is",
    ),
}


@pytest.mark.parametrize("name", OF_CALLS)
def test_bad_input_of_a_call_is_refused(app: Bench, t: Any, name: str) -> None:
    use, said = OF_CALLS[name]
    with pytest.raises(InvalidArguments, match=said):
        use(app, t)
    assert app.left() == 0


OF_TASKS: dict[str, dict[str, Any]] = {
    "autoretry_for is None": {"autoretry_for": None},
    "autoretry_for is 5": {"autoretry_for": 5},
    "autoretry_for is <class 'OSError'>": {"autoretry_for": OSError},
    "dont_autoretry_for is ": {"dont_autoretry_for": ["OSError"]},
    "aliases is 5": {"aliases": 5},
    "aliases is 'ab'": {"aliases": "ab"},
    "an alias is 5": {"aliases": [5]},
    "queue is ": {"queue": ["a"]},
    "the name of a task is ": {"name": ["a"]},
}


@pytest.mark.parametrize("said", OF_TASKS)
def test_bad_options_of_a_task_are_refused(app: Bench, said: str) -> None:
    def f() -> None: ...

    with pytest.raises(ConfigurationError, match=said + ".*: give a "):
        app.task(**OF_TASKS[said])(f)


@pytest.mark.parametrize("bad", [None, 5, ["a"], "ab"], ids=repr)
def test_middleware_is_a_list_of_functions(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"middleware is .*: give a list of functions"):
        CloudQ("bad", broker="memory://bad", middleware=bad)


FIRST, LAST = datetime.min, datetime.max  # noqa: DTZ901
OF_SCHEDULES: dict[str, tuple[Try, str]] = {
    "name": (lambda app, t: app.schedules.add(5, t, every(5)), "the name of a schedule is 5"),
    "task": (lambda app, t: app.schedules.add("a", 5, every(5)), "give a task, or the name of one"),
    "next": (lambda app, t: app.schedules.next(5), "the name of a schedule is 5"),
    "pause": (lambda app, t: app.schedules.pause(["a"]), "the name of a schedule is"),
    "delete": (lambda app, t: app.schedules.delete(["a"]), "the name of a schedule is"),
    "periodic": (lambda app, t: app.periodic(5, name=7)(t), "the name of a schedule is 7"),
    "start": (lambda app, t: app.schedules.add("a", t, every(5), start=FIRST), "start is 0001"),
    "start at last": (lambda app, t: app.schedules.add("a", t, 5, start=LAST), "start is 9999"),
    "end": (lambda app, t: app.schedules.add("a", t, every(5), end=FIRST), "end is 0001"),
    "at": (lambda app, t: at(FIRST), "at is 0001.*: give a time"),
    "a time": (lambda app, t: app.schedules.add("a", t, LAST), "at is 9999.*: give a time"),
}


@pytest.mark.parametrize("name", OF_SCHEDULES)
def test_bad_input_of_a_schedule_is_refused(app: Bench, t: Any, name: str) -> None:
    use, said = OF_SCHEDULES[name]
    with pytest.raises(ConfigurationError, match=said):
        use(app, t)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna", "America/New_York"])
def test_the_last_time_of_all_is_an_end(zone: str) -> None:
    with Bench(timezone=zone) as app:
        app.task(name="t")(lambda: None)
        for end in (LAST, LAST.replace(tzinfo=UTC)):
            app.schedules.add("a", "t", every(5), end=end, replace=True)
            assert app.schedules.next("a")[0].tzinfo == ZoneInfo(zone)


def test_a_bound_task_takes_itself(app: Bench) -> None:
    def nothing() -> None: ...
    def keyword(*, a: int = 1) -> None: ...

    for function in (nothing, keyword):
        with pytest.raises(ConfigurationError, match=r"write def f\(self, \.\.\.\)"):
            app.task(bind=True)(function)

    @app.task(name="star", bind=True)
    def star(*args: Any) -> int:
        return len(args)

    sent = star.delay(1)
    app.work()
    assert sent.get(timeout=0) == star(1) == 2


def test_a_decorator_may_take_the_task_for_a_function_without_it(app: Bench) -> None:
    def zero() -> int:
        return 1

    @wraps(zero)
    def with_task(self: Any, *args: Any) -> tuple[bool, int]:
        return self.request.id is not None, zero(*args)

    assert app.task(name="zero", bind=True)(with_task).apply().get() == [True, 1]


def test_a_default_that_cannot_be_looked_at_hinders_no_task(app: Bench) -> None:
    class Broken(list[int]):
        def __iter__(self) -> Any:
            raise RuntimeError("the apps are not loaded")

    def task(n: int, rows: list[int] = Broken()) -> int:  # noqa: B008
        return n

    made: Any = app.task(name="lazy", rate_limit="100/s", idempotent=True)(task)
    result = made.delay(3, [1])
    app.work()
    assert result.get(timeout=0) == 3


def test_a_schedule_may_start_long_ago(app: Bench, t: Any) -> None:
    app.schedules.add("a", "t", every(5), start=datetime(2, 1, 1, tzinfo=UTC))
    assert app.schedules.next("a")
