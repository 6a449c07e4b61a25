"""The attributes that Celery's tasks have: read from a task's policy, and set into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from cloudq.contrib.celery.current import the_app
from cloudq.contrib.celery.options_table import TASK_OPTIONS
from cloudq.errors import ConfigurationError
from cloudq.tasks.options import TaskOptions

Read = Callable[[Any], Any]

NOT_SET = frozenset({"name", "base", "aliases", "pydantic", "bind"})
"""The options that are settled when a task is made."""

OPTIONS = (TaskOptions.__annotations__.keys() | set(TASK_OPTIONS.names())) - NOT_SET
"""The options that may be attributes of a task and of its class."""

# Methods and attributes of Celery's tasks that have no counterpart, and why.
REFUSED = {
    "Request": "a worker's parts cannot be exchanged: use middleware, CloudQ(middleware=[...])",
    "Strategy": "a worker's parts cannot be exchanged: use middleware, CloudQ(middleware=[...])",
    "start_strategy": "a worker's parts cannot be exchanged: use middleware",
    "from_config": "a task reads the app's settings when it is used: give options to @app.task",
    "request_stack": "the running call is self.request; tests use push_request and pop_request",
    "send_event": "events are the worker's own: record a state with self.update_state",
    "add_trail": "a result knows the tasks before it, whoever made them",
    "on_replace": "a task is replaced by raising: override `replace` of the class",
    "annotate": "the setting task_annotations is applied when the task is made",
    "add_around": "write a middleware, CloudQ(middleware=[...]), or a base class's __call__",
}


class Attribute:
    """Reads an attribute of a task, unless its class or the task itself has one of this name."""

    def __init__(self, default: Any, read: Read) -> None:
        self._default = default
        self._read = read

    def __get__(self, task: Any, kind: type[Any]) -> Any:
        """Return the value of a task; of a class or a task without an app Celery's default."""
        return self._default if task is None or "_app" not in vars(task) else self._read(task)


class AppOf:
    """The app that a task belongs to; of a class the one whose `app.Task` it is or derives from.

    Of a task that is not registered, and of any other class, it is the current app.
    """

    def __get__(self, task: Any, kind: Any) -> Any:
        held: dict[str, Any] = {} if task is None else task.__dict__
        return held.get("_app") or kind.of_app or the_app()


def _policy(name: str) -> Read:
    def read(task: Any) -> Any:
        return getattr(task.policy, name)

    return read


def _or_setting(name: str, setting: str) -> Read:
    def read(task: Any) -> Any:
        own = getattr(task.policy, name)
        return getattr(task.app.runtime.conf, setting) if own is None else own

    return read


def _always(value: Any) -> Attribute:
    def read(task: Any) -> Any:
        return value

    return Attribute(value, read)


def _declared(name: str, default: Any) -> Attribute:
    def read(task: Any) -> Any:
        return {**task.declared, **task.annotated, **task.changed}.get(name, default)

    return Attribute(default, read)


def _max_retries(task: Any) -> int | None:
    return task.policy.retries(task.app.runtime.conf.max_retries)


def _backend(task: Any) -> Any:
    return task.app.backend


# The attributes and methods that cloudq's own tasks are made of.
_OURS = frozenset(
    {"adopt", "annotated", "annotation_options", "arguments", "bind", "changed", "class_options"}
    | {"declared", "find_hooks", "function", "hooked", "is_coroutine", "linked", "made", "policy"}
    | {"send_call", "wrapped", "_app", "_call_options"}
)


class Attributes:
    """The attributes of a task; `acks_late` and the like tell what cloudq does anyway."""

    def __init_subclass__(cls, **given: Any) -> None:
        """Check the names of a program's own class. Raises `ConfigurationError`."""
        super().__init_subclass__(**given)
        if Attributes not in cls.__bases__:
            _check_names(cls)

    abstract: Any = _always(True)
    acks_late: Any = _always(True)
    acks_on_failure: Any = _always(True)
    acks_on_failure_or_timeout: Any = _always(True)
    acks_on_timeout: Any = _always(True)
    autoretry_for: Any = Attribute((), _policy("autoretry_for"))
    backend: Any = Attribute(None, _backend)
    compression: Any = Attribute(None, _or_setting("compression", "task_compression"))
    default_retry_delay: Any = Attribute(
        180, _or_setting("default_retry_delay", "default_retry_delay")
    )
    dont_autoretry_for: Any = Attribute((), _policy("dont_autoretry_for"))
    exchange: Any = _always(None)
    expires: Any = Attribute(None, _policy("expires"))
    ignore_result: Any = Attribute(None, _or_setting("ignore_result", "task_ignore_result"))
    name: Any = None
    max_retries: Any = Attribute(3, _max_retries)
    priority: Any = Attribute(None, _policy("priority"))
    queue: Any = Attribute(None, _policy("queue"))
    rate_limit: Any = _declared("rate_limit", None)
    reject_on_worker_lost: Any = _always(True)
    resultrepr_maxsize: Any = _always(1024)
    retry_backoff: Any = _declared("retry_backoff", False)
    retry_backoff_max: Any = Attribute(600, _policy("retry_backoff_max"))
    retry_jitter: Any = Attribute(True, _policy("retry_jitter"))
    retry_kwargs: Any = Attribute({}, _policy("retry_kwargs"))
    retry_on_worker_lost: Any = _always(True)
    routing_key: Any = _always(None)
    send_events: Any = _always(True)
    serializer: Any = Attribute("json", _or_setting("serializer", "task_serializer"))
    soft_time_limit: Any = Attribute(None, _or_setting("soft_time_limit", "task_soft_time_limit"))
    store_eager_result: Any = _always(False)
    store_errors_even_if_ignored: Any = _always(False)
    throws: Any = _always(())
    time_limit: Any = Attribute(None, _or_setting("time_limit", "task_time_limit"))
    track_started: Any = Attribute(None, _or_setting("track_started", "task_track_started"))
    trail: Any = _always(True)
    typing: Any = _declared("typing", True)


def refuse(name: str, kind: type[Any]) -> NoReturn:
    """Raise `AttributeError` for an attribute that there is not; it has the reason, if any."""
    if name in REFUSED:
        raise AttributeError(f"a cloudq task has no {name}: {REFUSED[name]}")
    raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")


def check_class(kind: type[Any]) -> None:
    """Raise `ConfigurationError` for a class that overrides what nothing here would call."""
    for each in kind.__mro__:
        if not each.__module__.startswith("cloudq."):
            _check_names(each)
    for name, why in REFUSED.items():
        if any(name in vars(each) for each in kind.__mro__):
            raise ConfigurationError(f"class {kind.__name__}: {name} has no effect here: {why}")


def check_free(name: str, of: str, *, is_ours: bool = False) -> None:
    """Raise `ConfigurationError` for an attribute of one's own with a name of cloudq's tasks."""
    if is_ours or name in _OURS:
        raise ConfigurationError(f"{of}: cloudq's own tasks have the name {name}: choose another")


def _check_names(kind: type[Any]) -> None:
    ours = [each for each in kind.__mro__[1:] if each.__module__.startswith("cloudq.")]
    for name in vars(kind):
        is_private = name.startswith("_") and not name.startswith("__")
        is_ours = is_private and any(name in vars(each) for each in ours)
        check_free(name, f"class {kind.__name__}", is_ours=is_ours)


def check_settable(name: str, task: str) -> None:
    """Raise `ConfigurationError` for an option that is settled when a task is made."""
    if name in NOT_SET - {"name", "bind"}:
        raise ConfigurationError(
            f"task {task}: {name} is settled when the task is made: give it to @app.task"
        )
