"""Heeds an `apply_async` of a class of tasks, and a `send_task` of an app's, also in workflows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from cloudq.contrib.celery.values import read_headers
from cloudq.errors import ConfigurationError
from cloudq.messages.values import from_wire, to_wire

F = TypeVar("F", bound=Callable[..., Any])

Sent = tuple[list[Any], dict[str, Any], dict[str, Any]]
"""The arguments of a call, as they are in a message, and its options."""

_NOT_FOR_MEMBERS = ("link", "link_error")


def celerys(method: F) -> F:
    """Mark a method of Celery's, so that another one in its place is known: also a test's mock."""
    vars(method)["celerys"] = True
    return method


def is_own(owner: Any, name: str) -> bool:
    """Say if an app or a task has another method than Celery's of this name."""
    method: Any = getattr(owner, name)
    function: Any = getattr(method, "__func__", method)
    return getattr(function, "celerys", None) is not True  # of a mock it is another mock


def sends_itself(task: Any) -> bool:
    """Say if calls of a task go through its own `apply_async`, or its app's own `send_task`."""
    if is_own(task, "apply_async") or is_own(task, "shadow_name"):
        return True
    return hasattr(task.app, "strict_typing") and is_own(task.app, "send_task")


class Look:
    """Sees what a class's `apply_async` gives to that of `Task`, which then sends nothing."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.found: tuple[Sequence[Any], Mapping[str, Any], dict[str, Any]] | None = None


_LOOK: ContextVar[Look | None] = ContextVar("look", default=None)


def seen(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    """Return a result if a call is only looked at, and not to be sent."""
    look = _LOOK.get()
    if look is None or look.task is not task or look.found is not None:
        return None
    look.found = (args or (), kwargs or {}, options)
    return task.app.AsyncResult(options["task_id"])


def as_given(options: dict[str, Any]) -> dict[str, Any]:
    """Return options that are translated as they were given, which a method of one's own takes."""
    if not options.get("headers"):
        return options
    return {**options, "headers": read_headers(options["headers"])}


def as_sent(task: Any, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]) -> Sent:
    """Return a workflow's call as its task's own `apply_async` would send it.

    It is called when the call is sent: with the values of the tasks before it, but not those of
    a chord's members. Raises `ConfigurationError` if it sends nothing, or callbacks of its own.
    """
    look = Look(task)
    given = tuple(map(from_wire, args)), {key: from_wire(value) for key, value in kwargs.items()}
    token = _LOOK.set(look)
    try:
        task.apply_async(*given, **as_given(options))
    finally:
        _LOOK.reset(token)
    if look.found is None:
        raise ConfigurationError(
            f"{task.name}: its apply_async, or send_task of its app, is another than Celery's and "
            "sends nothing, but a workflow waits for each of its calls"
        )
    made_args, made_kwargs, made = look.found
    wrong = [name for name in _NOT_FOR_MEMBERS if made.get(name)]
    if wrong:
        raise ConfigurationError(
            f"{task.name}: its own apply_async gives {wrong[0]} to a call of a workflow: give it "
            "to the signature"
        )
    if tuple(made_args) != given[0]:
        args = [to_wire(arg) for arg in made_args]
    if made_kwargs != given[1]:
        kwargs = {key: to_wire(value) for key, value in made_kwargs.items()}
    return args, kwargs, {**made, "task_id": options["task_id"]}
