"""The requirements of an app's tasks, for any cloud: queues, hints, payloads, schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from cloudq.app import CloudQ
from cloudq.driver import ORDERED_SUFFIX, Address
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.schedules.schedules import Schedule
from cloudq.schedules.state import ScheduleState
from cloudq.tasks.function_hints import FunctionHints
from cloudq.tasks.task import Task

AnyTask = Task[..., Any]

_TIMEOUT = 60
_AFTER_LIMIT = 10  # seconds that a function has beyond its tasks' longest time limit
_RESERVE = 5  # seconds of an invocation that the handler keeps for recording results
# Several tasks of one function get the largest of these hints, and must agree on the others.
_LARGEST = ("memory", "timeout", "batch_window")
_AGREED = ("max_concurrency", "reserved_concurrency", "provisioned", "batch_size")


def tasks_of(app: CloudQ) -> list[AnyTask]:
    """List the app's own tasks, sorted by name. Raises `ConfigurationError` if it has none."""
    found = {task.name: task for task in app.tasks.values() if not task.name.startswith("cloudq.")}
    if not found:
        raise ConfigurationError(
            f"the app {app.name!r} has no tasks: name the module that defines them "
            "(-A shop.tasks:app), or list it in include"
        )
    return [found[name] for name in sorted(found)]


def queue_names(app: CloudQ) -> list[str]:
    """List the queues of the app, the default queue first.

    Raises `ConfigurationError` for a queue that is named by its URL.
    """
    names = app.queues()
    for name in names:
        if name.startswith(("https://", "http://")):
            raise ConfigurationError(
                f"queue {name} is named by its URL, so somebody else made it: give the queue a "
                "plain name, or run its tasks with `cloudq worker`"
            )
    return names


def reads(app: CloudQ, task: AnyTask, group: Sequence[str]) -> bool:
    """Tell whether calls of the task, also by its schedules, go to one of these queues."""
    return any(queue in group for queue in app.queues(task.name))


def plain(queue: str) -> str:
    """Turn a queue's name into a part of other names."""
    return queue.removesuffix(ORDERED_SUFFIX).replace(".", "-")


def merged(tasks: Iterable[AnyTask], ignore: Iterable[str] = ()) -> FunctionHints:
    """Merge the hints of the tasks that share a function, without those to `ignore`.

    Raises `ConfigurationError` where the tasks disagree.
    """
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
    hints = FunctionHints(**values, env={name: value for name, (_, value) in env.items()})
    return replace(hints, **dict.fromkeys(ignore))


def _disagree(name: str, first: str, one: object, second: str, other: object) -> str:
    return (
        f"{name} is {one!r} for {first} and {other!r} for {second}, and one function runs both: "
        "give both tasks the same value, or different queues"
    )


def time_limit(app: CloudQ, task: AnyTask) -> float:
    """The task's hard time limit in seconds; 0 for none."""
    return task.policy.time_limit or app.conf.task_time_limit or 0.0


def timeout_of(app: CloudQ, tasks: Sequence[AnyTask], stated: int | None) -> int:
    """The timeout of the function that runs these tasks, in seconds.

    Raises `ConfigurationError` for a `stated` timeout that is too short for a task's time limit.
    """
    limit = max((time_limit(app, task) for task in tasks), default=0.0)
    timeout = stated or (math.ceil(limit) + _AFTER_LIMIT if limit else _TIMEOUT)
    longest = next((task for task in tasks if time_limit(app, task) == limit), None)
    if limit + _RESERVE > timeout and longest is not None and limit:
        raise ConfigurationError(
            f"task {longest.name} has a time limit of {limit:g} s, and its function a timeout of "
            f"{timeout} s: make the timeout {_RESERVE} s longer than the limit, so that results "
            "can be recorded"
        )
    return timeout


def declared_schedules(app: CloudQ) -> list[Schedule]:
    """List the schedules that the code declares; reads no store.

    Schedules that were made at run time are not among them, and pauses are ignored. Raises
    `ConfigurationError`.
    """
    return [
        Schedule(name=name, entry=entry, state=ScheduleState())
        for name, entry in app.schedules.declared().items()
    ]


def payload_place(app: CloudQ, scheme: str) -> tuple[Address, str, int] | None:
    """Return the app's payload store if its URL has this scheme.

    That is its address, what all keys in it begin with, and the days that payloads are kept.
    """
    url, expires = app.conf.payload_url, app.conf.payload_expires
    address = parse(url) if url is not None else None
    if address is None or address.scheme != scheme:
        return None
    prefix = address.path.strip("/")
    return address, prefix and f"{prefix}/", max(1, math.ceil(expires / 86_400))


def service_keys(app: CloudQ, scheme: str) -> list[Address]:
    """List the addresses of the app's encryption keys that a key service of this scheme keeps."""
    keys = [key.get_secret_value() for key in app.conf.encryption_keys.values()]
    found = [parse(key) for key in keys if "://" in key]
    return [address for address in found if address.scheme == scheme]


def extras_of(app: CloudQ) -> tuple[str, ...]:
    """List the extras of cloudq that the app's settings ask for, beside its cloud's."""
    return ("crypto",) if app.conf.encryption_keys else ()
