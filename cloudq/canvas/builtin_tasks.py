"""The tasks that every app has for workflows: collect, map and starmap."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cloudq.errors import UnknownTask
from cloudq.tasks.arguments import Arguments, EachResult
from cloudq.tasks.options import Policy
from cloudq.tasks.steps import COLLECT
from cloudq.tasks.task import Task, is_awaited
from cloudq.tasks.task_app import TaskApp

MAP, STARMAP = "cloudq.map", "cloudq.starmap"


def builtin_tasks(app: TaskApp, tasks: Mapping[str, Task[..., Any]]) -> dict[str, Task[..., Any]]:
    """Make the built-in tasks of an app, whose own tasks are `tasks`."""

    def collect(values: list[Any]) -> list[Any]:
        return values

    def map_(task: str, items: list[Any]) -> Any:
        run = _found(tasks, task)
        return _values([_run(run, (item,)) for item in items])

    def starmap(task: str, items: list[Sequence[Any]]) -> Any:
        run = _found(tasks, task)
        return _values([_run(run, item) for item in items])

    functions: dict[str, tuple[Callable[..., Any], Arguments]] = {
        COLLECT: (collect, Arguments(COLLECT, collect, bound=False, everything=False)),
        MAP: (map_, _OfMany(MAP, map_, tasks)),
        STARMAP: (starmap, _OfMany(STARMAP, starmap, tasks)),
    }
    return {
        name: Task(function, name=name, app=app, policy=Policy(), arguments=arguments)
        for name, (function, arguments) in functions.items()
    }


class _OfMany(Arguments):
    """The arguments of a task that runs another one, whose values are of that one's type."""

    def __init__(
        self, name: str, function: Callable[..., Any], tasks: Mapping[str, Task[..., Any]]
    ) -> None:
        super().__init__(name, function, bound=False, everything=False)
        self._tasks = tasks

    def results(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments | EachResult:
        name = args[0] if args else kwargs.get("task")
        task = self._tasks.get(name) if isinstance(name, str) else None
        return self if task is None else EachResult(task.arguments)


def _run(task: Task[..., Any], given: Sequence[Any]) -> Any:
    """Run a task on one item, whose values its hints make whole."""
    args, kwargs = task.arguments.read(given, {})
    return task(*args, **kwargs)


def _values(returned: list[Any]) -> Any:
    """Return the values, or a coroutine that awaits them in turn: those of `async def` tasks."""
    return _awaited(returned) if any(map(is_awaited, returned)) else returned


async def _awaited(returned: list[Any]) -> list[Any]:
    values: list[Any] = []
    try:
        for each in returned:
            values.append(await each if is_awaited(each) else each)  # noqa: PERF401 (see below)
    finally:
        for each in returned[len(values) :]:
            if inspect.iscoroutine(each):
                each.close()  # one before it failed
    return values


def _found(tasks: Mapping[str, Task[..., Any]], name: str) -> Task[..., Any]:
    if name not in tasks:
        raise UnknownTask(
            f"no task {name!r} is registered, so it cannot be mapped: add its module to include"
        )
    return tasks[name]
