"""Functions, and whatever is called like one, as tasks: each under a name of its own."""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, InvalidArguments, State, chain, group, shared_task
from cloudq.contrib.celery import Celery
from tests.support.bench import Bench

TAKEN = "two tasks are named"


def scaled(factor: Any) -> Callable[..., Any]:
    def scale(x: int) -> Any:
        return x, factor

    return scale


def by_default(factor: int) -> Callable[..., Any]:
    def scale(x: int, factor: int = factor) -> int:
        return x * factor

    return scale


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


def twice(factor: int, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args) * factor

    return inner


def one() -> int:
    return 1


def two() -> int:
    return 2


def add(x: int, y: int = 1) -> int:
    return x + y


async def add_async(x: int, y: int = 1) -> int:
    await asyncio.sleep(0)
    return x + y


@dataclass(eq=False)
class Adder:
    n: int = 1

    def __call__(self, x: int) -> int:
        return x + self.n

    def add(self, x: int) -> int:
        return x + self.n


class AsyncAdder:
    async def __call__(self, x: int) -> int:
        await asyncio.sleep(0)
        return x + 1


# ---- names

DIFFERENT: list[tuple[Any, Any]] = [
    (scaled(2), scaled(3)),
    (scaled([1]), scaled([2])),
    (scaled(one), scaled(two)),
    (scaled(threading.Lock()), scaled(threading.Lock())),
    (scaled(functools.partial(add, 1)), scaled(functools.partial(add, 2))),
    (scaled({"f": one}), scaled({"f": two})),
    (scaled(1), scaled(True)),
    (by_default(2), by_default(3)),
    (logged(one), logged(two)),
    (bare(one), bare(two)),
    (logged(logged(one)), logged(logged(two))),
    (twice(2, one), twice(3, one)),
    (functools.partial(add, 1), functools.partial(add, 2)),
    (functools.partial(add, y=1), functools.partial(add, y=2)),
    (functools.partial(one), functools.partial(two)),
    (functools.lru_cache(one), functools.lru_cache(two)),
    (Adder(1), Adder(2)),
    (Adder(1).add, Adder(2).add),
    (one, logged(one)),
    (len, sum),
]


@pytest.mark.parametrize("kind", [CloudQ, Celery])
@pytest.mark.parametrize("pair", DIFFERENT, ids=range(len(DIFFERENT)))
def test_two_functions_of_one_name_are_refused(pair: Any, kind: type[CloudQ]) -> None:
    with kind("names", broker="memory://names") as app:
        app.task(name="job")(pair[0])
        app.task(name="job")(pair[0])  # again the same
        with pytest.raises(ConfigurationError, match=TAKEN):
            app.task(name="job")(pair[1])
        with pytest.raises(ConfigurationError, match="its alias 'job' is another task's name"):
            app.task(name="other", aliases=["job"])(pair[1])


def test_closures_of_no_given_name_are_refused_too(app: Bench) -> None:
    app.task(scaled(2))
    with pytest.raises(ConfigurationError, match=r"scaled\.scale'.*one function makes"):
        app.task(scaled(3))


def test_a_closure_over_equal_values_is_the_same_function(app: Bench) -> None:
    for pair in ((scaled([1, one]), scaled([1, one])), (logged(one), logged(one))):
        app.task(name=f"t{len(app.tasks)}")(pair[0])
        app.task(name=f"t{len(app.tasks) - 1}")(pair[1])


def test_a_closure_that_calls_itself_is_compared_to_its_end(app: Bench) -> None:
    def countdown(by: int) -> Callable[..., Any]:
        def down(n: int) -> int:
            return n if n <= 0 else down(n - by)

        return down

    app.task(name="down")(countdown(1))
    app.task(name="down")(countdown(1))
    with pytest.raises(ConfigurationError, match=TAKEN):
        app.task(name="down")(countdown(2))


def test_shared_tasks_of_one_name_are_refused() -> None:
    with CloudQ("shared", broker="memory://shared-names"):
        shared_task(name="shared.closure")(scaled(2))
        with pytest.raises(ConfigurationError, match=TAKEN):
            shared_task(name="shared.closure")(scaled(3))


MODULE = """
import functools, threading
from cloudq import crontab
from shop_app import app
from shop_wrappers import logged, locked

def scaled(factor):
    def scale(x): return x * factor
    return scale

class Rate:
    def __call__(self, x): return x

@app.periodic(crontab(hour=7), args=(1, 2))
@app.task
def add(x, y): return x + y

@app.task
@logged
def wrapped(x): return x

@app.task
@locked(threading.Lock())
def guarded(x): return x

app.task(name="double")(scaled(2))
app.task(name="rate")(Rate())
app.task(name="lambda")(lambda x: x)
app.task(name="part")(functools.partial(scaled, Rate()))
"""
WRAPPERS = """
import functools

def logged(function):
    @functools.wraps(function)
    def inner(*args): return function(*args)
    return inner

def locked(lock):
    def wrap(function):
        @functools.wraps(function)
        def inner(*args):
            with lock: return function(*args)
        return inner
    return wrap
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(tmp_path))
    texts = {
        "shop_app": "from cloudq import CloudQ\napp = CloudQ('s', broker='memory://reload')\n",
        "shop_wrappers": WRAPPERS,
        "shop_tasks": MODULE,
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    yield importlib.import_module("shop_tasks")
    for name in texts:
        del sys.modules[name]


def test_a_module_may_be_reloaded(shop: ModuleType) -> None:
    before = shop.app.tasks["shop_tasks.add"]
    importlib.reload(shop)
    assert shop.app.tasks["shop_tasks.add"] is shop.add is not before


def test_a_module_may_be_imported_anew_and_under_a_second_name(shop: ModuleType) -> None:
    first = sys.modules.pop("shop_tasks")
    again = importlib.import_module("shop_tasks")
    assert again is not first
    # As a program that is run, and imported by a worker's include.
    text = Path(str(shop.__file__)).read_text()
    exec(compile(text, str(shop.__file__), "exec", dont_inherit=True), {"__name__": "shop_tasks"})


# ---- partials and objects

CALLABLES: list[tuple[Any, list[Any], Any]] = [
    (functools.partial(add, 1), [2], 3),
    (functools.partial(add, y=5), [2], 7),
    (functools.partial(functools.partial(add, 1), 2), [], 3),
    (functools.partial(add_async, 1), [2], 3),
    (functools.partial(Adder(5)), [2], 7),
    (functools.partial(AsyncAdder()), [2], 3),
    (Adder(3), [2], 5),
    (Adder(3).add, [2], 5),
    (AsyncAdder(), [2], 3),
    (functools.lru_cache(add), [2], 3),
    (len, [[1, 2]], 2),
    (staticmethod(add), [2], 3),
    (staticmethod(add_async), [2], 3),
]


@pytest.mark.parametrize(("called", "args", "value"), CALLABLES, ids=range(len(CALLABLES)))
@pytest.mark.parametrize("eager", [False, True])
def test_whatever_is_called_like_a_function_works(
    app: Bench, called: Any, args: list[Any], value: Any, eager: bool
) -> None:
    task = app.task(name="t")(called)
    if eager:
        assert task.apply(args).get() == value
        return
    result = task.apply_async(args)
    app.work()
    assert result.get(timeout=0) == value
    with pytest.raises(InvalidArguments, match=r"^t\("):
        task.delay(1, 2, 3, 4)


def test_their_hints_count(app: Bench) -> None:
    class Doubler:
        def __call__(self, x: int) -> int:
            return x * 2

    for called in (Doubler(), functools.partial(Doubler().__call__), functools.partial(add, y=2)):
        task = app.task(name=f"t{len(app.tasks)}", pydantic=True)(called)
        result = task.delay("2")
        app.work()
        assert result.get(timeout=0) == 4
        with pytest.raises(InvalidArguments, match="x: Input should be a valid integer"):
            task.delay("two")


def test_a_partial_may_be_bound_if_it_gives_no_first_argument(app: Bench) -> None:
    def work(self: Any, x: int, *, y: int) -> tuple[str, int]:
        return self.name, x + y

    result = app.task(name="t", bind=True)(functools.partial(work, y=1)).delay(2)
    app.work()
    assert result.get(timeout=0) == ["t", 3]
    with pytest.raises(ConfigurationError, match="bind=True passes the task as the first"):
        app.task(name="u", bind=True)(functools.partial(work, 1, y=1))


@pytest.mark.parametrize("called", [functools.partial(add, 1), Adder()])
def test_what_has_no_name_needs_one(app: Bench, called: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"has no name of its own: .* name=\.\.\."):
        app.task(called)


@pytest.mark.parametrize("given", ["name", 5, None, Adder, int, classmethod(add), [add]])
def test_what_cannot_be_called_or_is_a_class_is_refused(app: Bench, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be a task: @app\.task takes"):
        app.task(name="t")(given)


def test_a_builtin_whose_parameters_are_unknown_is_refused(app: Bench) -> None:
    with pytest.raises(ConfigurationError, match="its parameters are unknown"):
        app.task(name="t")(max)


# ---- what is awaited


class Later:
    """An awaitable that is no coroutine."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self._value


def lazily(x: int) -> Awaitable[int]:
    return Later(x + 1)


def coroutine_of(x: int) -> Coroutine[Any, Any, int]:
    return add_async(x)


@pytest.mark.parametrize(
    "function", [logged(add_async), logged(logged(add_async)), lazily, coroutine_of]
)
@pytest.mark.parametrize("limit", [None, 30.0])
def test_an_awaitable_that_a_function_returns_is_awaited(
    app: Bench, function: Any, limit: float | None
) -> None:
    task = app.task(name="t", soft_time_limit=limit)(function)
    result = task.delay(1)
    app.work()
    assert result.get(timeout=0) == 2
    assert task.apply([1]).get() == 2


def test_its_time_limit_holds_while_it_is_awaited(app: Bench) -> None:
    async def forever() -> None:
        await asyncio.sleep(60)

    task = app.task(name="t", soft_time_limit=0.05, max_retries=0)(logged(forever))
    result = task.delay()
    app.work()
    assert "SoftTimeLimitExceeded" in repr(result.get(timeout=0, propagate=False))


def test_what_it_raises_is_the_tasks_failure(app: Bench) -> None:
    async def bad() -> None:
        raise ValueError("bad")

    result = app.task(name="t", max_retries=0)(logged(bad)).delay()
    app.work()
    assert result.state == State.FAILURE
    with pytest.raises(ValueError, match="bad"):
        result.get(timeout=0)


def test_it_is_awaited_within_workflows_and_maps(app: Bench) -> None:
    wrapped = app.task(name="wrapped")(logged(add_async))
    plain = app.task(name="plain")(add_async)
    results = [
        chain(wrapped.s(1), wrapped.s(2)).delay(),
        wrapped.map([1, 2]).delay(),
        plain.map([1, 2]).delay(),
        plain.starmap([(1, 2), (3, 4)]).delay(),
    ]
    both = group([wrapped.s(1), plain.s(2)]).delay()
    app.work()
    assert [each.get(timeout=0) for each in results] == [4, [2, 3], [2, 3], [3, 7]]
    assert both.get(timeout=0) == [2, 3]


def test_a_map_of_which_one_fails_awaits_no_more(app: Bench) -> None:
    seen: list[int] = []

    async def picky(x: int) -> int:
        seen.append(x)
        return 1 // x

    result = app.task(name="t")(picky).map([1, 0, 2]).delay()
    app.work()
    assert (result.state, seen) == (State.FAILURE, [1, 0])


def test_the_result_of_a_call_is_not_awaited(app: Bench) -> None:
    inner = app.task(name="inner")(one)
    outer = app.task(name="outer", max_retries=0)(lambda: inner.delay())
    result = outer.delay()
    app.work()
    ids: Any = result.get(timeout=0)
    assert app.AsyncResult(ids[0][0]).name == "inner"


def test_a_decorated_coroutine_called_here_is_as_without_a_task(app: Bench) -> None:
    task = app.task(name="t")(logged(add_async))
    assert asyncio.run(task(1)) == 2
