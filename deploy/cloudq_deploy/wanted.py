"""What an app's tasks ask of whatever cloud runs them: which queues, and which hints together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from cloudq.app import CloudQ
from cloudq.errors import ConfigurationError
from cloudq.schedules.schedules import Scheduled
from cloudq.schedules.state import ScheduleState
from cloudq.tasks.function_hints import FunctionHints
from cloudq.tasks.task import Task

AnyTask = Task[..., Any]

_FIFO = ".fifo"
_TIMEOUT = 60
_AFTER_LIMIT = 10  # seconds of a function beyond its tasks' longest time limit
_RESERVE = 5  # what the handler keeps of an invocation for recording
# Of the hints of several tasks in one function, of these the largest does for all.
_LARGEST = ("memory", "timeout", "batch_window")
_AGREED = ("max_concurrency", "reserved_concurrency", "provisioned", "batch_size")


def tasks_of(app: CloudQ) -> list[AnyTask]:
    """The app's own tasks, each once, by name."""
    found = {task.name: task for task in app.tasks.values() if not task.name.startswith("cloudq.")}
    if not found:
        raise ConfigurationError(
            f"the app {app.name!r} has no tasks: name the module that defines them "
            "(-A shop.tasks:app), or list it in include"
        )
    return [found[name] for name in sorted(found)]


def queue_names(app: CloudQ) -> list[str]:
    """The queues of the app. Raises `ConfigurationError` for one that cannot be deployed."""
    names = app.queues()
    for name in names:
        if name.startswith(("https://", "http://")):
            raise ConfigurationError(
                f"queue {name} is named by its URL: somebody else made it, so a deployment cannot; "
                "name it plainly"
            )
    return names


def reads(app: CloudQ, task: AnyTask, group: Sequence[str]) -> bool:
    """Tells whether the task's calls, or its schedules', come through one of these queues."""
    return any(queue in group for queue in app.queues(task.name))


def plain(queue: str) -> str:
    """A queue's name as a part of other names."""
    return queue.removesuffix(_FIFO).replace(".", "-")


def merged(tasks: Iterable[AnyTask]) -> FunctionHints:
    """One set of hints for the tasks of one function. Raises `ConfigurationError`."""
    given = [(task.name, task.policy.function_hints) for task in tasks]
    values: dict[str, Any] = {}
    for name in (*_LARGEST, *_AGREED):
        said = [
            (task, value)
            for task, hints in given
            if (value := getattr(hints, name, None)) is not None
        ]
        if not said:
            continue
        if name in _AGREED and len({value for _, value in said}) > 1:
            (first, one), (second, other) = said[0], next(s for s in said if s[1] != said[0][1])
            raise ConfigurationError(_disagree(name, first, one, second, other))
        values[name] = max(value for _, value in said)
    env: dict[str, tuple[str, str]] = {}
    for task, hints in given:
        for variable, value in hints.env.items() if hints else ():
            before = env.setdefault(variable, (task, value))
            if before[1] != value:
                raise ConfigurationError(_disagree(f"env {variable}", *before, task, value))
    return FunctionHints(**values, env={name: value for name, (_, value) in env.items()})


def _disagree(name: str, first: str, one: object, second: str, other: object) -> str:
    return (
        f"{name} is {one!r} for {first} and {other!r} for {second}, and one function runs both: "
        "give them the same, or queues of their own"
    )


def time_limit(app: CloudQ, task: AnyTask) -> float:
    """The task's hard time limit in seconds; 0 for none."""
    return task.policy.time_limit or app.conf.task_time_limit or 0.0


def timeout_of(app: CloudQ, tasks: Sequence[AnyTask], stated: int | None) -> int:
    """The timeout of the function that runs these, in seconds. Raises `ConfigurationError`."""
    limit = max((time_limit(app, task) for task in tasks), default=0.0)
    timeout = stated or (math.ceil(limit) + _AFTER_LIMIT if limit else _TIMEOUT)
    longest = next((task for task in tasks if time_limit(app, task) == limit), None)
    if limit + _RESERVE > timeout and longest is not None and limit:
        raise ConfigurationError(
            f"task {longest.name} has a time limit of {limit:g} s, and its function a timeout of "
            f"{timeout} s: the timeout must be {_RESERVE} s longer, for recording"
        )
    return timeout


def declared_schedules(app: CloudQ) -> list[Scheduled]:
    """The schedules of the code, as they are without any that were made or paused at run time.

    Asks no store. Raises `ConfigurationError`.
    """
    return [
        Scheduled(name=name, entry=entry, standing=ScheduleState())
        for name, entry in app.schedules.declared().items()
    ]
