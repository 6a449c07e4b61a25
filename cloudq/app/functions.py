"""The functions that tasks are made of: whatever can be called, and when two of them are one."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any

from cloudq.errors import ConfigurationError
from cloudq.tasks.task import Task


def main_module() -> str:
    """Return the importable name of the program that was started, where workers find its tasks."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return file.rpartition("/")[2].removesuffix(".py") if file else "__main__"


def module_of(function: Callable[..., Any]) -> str:
    """Return the name of a function's module, also of the program that was started."""
    module = str(function.__module__)
    return main_module() if module == "__main__" else module


def _is(value: Any, kind: Any) -> bool:
    """Do as `isinstance` without telling the type checker, which knows less of these than Any."""
    return isinstance(value, kind)


# ---- whatever can be called


def as_function(given: Any, name: str | None, *, bind: bool) -> Callable[..., Any]:
    """Return a function for what is made a task; a partial or a callable object is wrapped in one.

    These need a `name` for the task. Raises `ConfigurationError` for what cannot be a task.
    """
    if _is(given, type) or not callable(given):
        raise ConfigurationError(
            f"{given!r} cannot be a task: @app.task takes a function, a partial, or an object with "
            "__call__; a class of tasks is given as base="
        )
    try:
        signature = inspect.signature(given)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{given!r} cannot be a task, since its parameters are unknown: call it in a function "
            "of your own"
        ) from error
    if hasattr(given, "__qualname__") and hasattr(given, "__module__"):
        return given
    if not name:
        raise ConfigurationError(f"{given!r} has no name of its own: give its task one, name=...")
    if bind and _is(given, functools.partial) and getattr(given, "args", ()):
        raise ConfigurationError(
            f"task {name}: bind=True passes the task as the first argument, and this partial has "
            "that already: give the partial keywords only"
        )
    return _wrapped(given, signature)


def _wrapped(given: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """Make a function that calls a partial or an object, with its signature and its hints."""
    inner: Any = given
    while _is(inner, functools.partial):
        inner = inner.func
    if not hasattr(inner, "__qualname__"):
        inner = type(inner).__call__

    def call(*args: Any, **kwargs: Any) -> Any:
        return given(*args, **kwargs)

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        return await given(*args, **kwargs)

    is_async = inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(inner)
    made: Any = functools.update_wrapper(call_async if is_async else call, inner)
    made.__signature__ = signature
    return made


# ---- two functions of one name


def same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Say if two functions are one, defined again, say by a reload of its module.

    Two closures of one code are not, unless what they close over is equal too.
    """
    return _same(one, other, set())


def _same(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    seen.add((id(one), id(other)))  # a closure may refer to itself
    if _is(one, Task) and _is(other, Task):
        one, other = one.function, other.function
    if _is(one, FunctionType) and _is(other, FunctionType):
        return _same_function(one, other, seen)
    parts: tuple[str, ...] = ()
    if _is(one, MethodType) and _is(other, MethodType):
        parts = ("__func__", "__self__")
    elif _is(one, functools.partial) and _is(other, functools.partial):
        parts = ("func", "args", "keywords")
    elif hasattr(one, "__wrapped__") and hasattr(other, "__wrapped__"):
        parts = ("__wrapped__",)
    if not parts:
        return _equal(one, other, seen)
    return all(_same(getattr(one, part), getattr(other, part), seen) for part in parts)


def _same_function(one: FunctionType, other: FunctionType, seen: set[tuple[int, int]]) -> bool:
    named = one.__qualname__ == other.__qualname__
    if one.__code__ != other.__code__ or not named or not _of_one_place(one, other):
        return False
    return _is_reloaded(one, other) or all(
        _same(mine, its, seen)
        for mine, its in (
            (one.__defaults__, other.__defaults__),
            (one.__kwdefaults__, other.__kwdefaults__),
            (_closed_over(one), _closed_over(other)),
        )
    )


def _of_one_place(one: FunctionType, other: FunctionType) -> bool:
    """Say if two functions are of one module, also if it was imported under two names."""
    if module_of(one) == module_of(other):
        return True
    return os.path.abspath(one.__code__.co_filename) == os.path.abspath(other.__code__.co_filename)


def _is_reloaded(one: FunctionType, other: FunctionType) -> bool:
    """Say if the module of two functions was run twice, so that all it made is there twice."""
    # importlib notes the modules that it reloads just now, and nothing else tells of them.
    reloading: Mapping[str, object] = getattr(importlib, "_RELOADING", {})
    mine, its = inspect.unwrap(one), inspect.unwrap(other)
    return other.__module__ in reloading or (
        isinstance(mine, FunctionType)
        and isinstance(its, FunctionType)
        and mine.__globals__ is not its.__globals__
        and mine.__code__ == its.__code__
        and _of_one_place(mine, its)
    )


_EMPTY = object()


def _closed_over(function: FunctionType) -> list[Any]:
    values: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            values.append(_EMPTY)
    return values


def _equal(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    """Compare what closures hold: values, and containers of functions."""
    if type(one) is not type(other):
        return False
    if _is(one, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_same(a, b, seen) for a, b in pairs)
    if _is(one, dict):
        mine, its = one, other
        return mine.keys() == its.keys() and all(_same(mine[key], its[key], seen) for key in mine)
    try:
        return bool(one == other)
    except Exception:  # an object's own comparison, of an array say
        return False
