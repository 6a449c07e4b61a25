"""Makes a function a task under its name: what `@app.task` does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MethodType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeGuard, TypeVar, cast, overload

from cloudq.app.functions import as_function, module_of, same
from cloudq.errors import ConfigurationError, UnknownTask, did_you_mean
from cloudq.messages.redaction import named_by
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.hooks import HOOKS, Hooks
from cloudq.tasks.limits.keys import check_keys, check_shown
from cloudq.tasks.limits.rules import check_templates
from cloudq.tasks.options import TaskOptions, policy
from cloudq.tasks.request import Middleware
from cloudq.tasks.secrecy import check_names
from cloudq.tasks.task import Task
from cloudq.tasks.task_app import TaskApp
from cloudq.tasks.unchecked import Unchecked

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

# What can be said of many tasks at once.
_CLASS_OPTIONS = TaskOptions.__annotations__.keys() - {"name", "base", "aliases"}

# Options that other task queues have, by what to do instead.
_FOREIGN = {
    "acks_late": "leave it out, since a message is always acknowledged after its task has ended",
    "acks_on_failure_or_timeout": "leave it out; dead_letter=True keeps a failed task's message",
    "reject_on_worker_lost": "leave it out, since a dead worker's messages always come again",
    "retries": "did you mean max_retries?",
    "queue_name": "did you mean queue?",
    "actor_name": "did you mean name?",
}


class Decorator(Protocol):
    """The types of `@app.task(...)`: parameters and result of the function are kept."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any: ...


class PeriodicDecorator(Protocol):
    """The types of `@app.periodic(...)`, above `@app.task` or a bare function."""

    @overload
    def __call__(self, function: Task[P, R]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Task[P, R]: ...
    def __call__(self, function: Any) -> Any: ...


class BoundDecorator(Protocol):
    """The same with `bind=True`: the first parameter is the task and is not passed by callers."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
    ) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[S, P], R]) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any: ...


class Tasks(dict[str, Task[..., Any]]):
    """The tasks of an app by their names."""

    def __missing__(self, name: str) -> Task[..., Any]:
        raise UnknownTask(f"no task is named {name!r} in this process")


def check_task_options(options: dict[str, Any]) -> TaskOptions:
    """Return the options of a task. Raises `TypeError` for an unknown one."""
    known = TaskOptions.__annotations__
    for option in options:
        if option not in known:
            hint = _FOREIGN.get(option) or did_you_mean(option, known)
            raise TypeError(
                f"there is no task option {option!r}: {hint or 'known: ' + ', '.join(known)}"
            )
    return cast("TaskOptions", options)


def register(
    function: Callable[..., Any],
    options: TaskOptions,
    *,
    bind: bool,
    app: TaskApp,
    tasks: dict[str, Task[..., Any]],
    base: type[Task[..., Any]],
    instance: Task[..., Any] | None = None,
) -> Task[..., Any]:
    """Make the task of a function and enter it into `tasks`, under its aliases too.

    `base` is the class of a task whose options name no other; an `instance` becomes the task.

    Raises `ConfigurationError` for a name that is taken or options that cannot be.
    """
    if isinstance(function, Task):
        raise ConfigurationError(
            f"{function.name} is a task already: @app.task goes next to the function, below "
            "@app.periodic"
        )
    function = as_function(function, options.get("name"), bind=bind)
    default = f"{module_of(function)}.{function.__qualname__.replace('.<locals>', '')}"
    name = _text(options.get("name") or default, "the name of a task")
    existing = tasks.get(name)
    if existing is not None and not same(existing.function, function):
        raise ConfigurationError(
            f"two tasks are named {name!r}: give one of them name=... (functions that one function "
            "makes, or one decorator wraps, are different functions)"
        )
    base = _task_class(name, options.get("base")) or base
    options = cast("TaskOptions", {**base.class_options(_CLASS_OPTIONS), **options})
    made = policy(name, options)
    checked = Arguments if options.get("typing", True) else Unchecked
    arguments = checked(name, function, bound=bind, everything=options.get("pydantic", False))
    parameters, is_open = arguments.parameters
    check_templates(name, made.throttle, parameters, open=is_open)
    check_keys(name, made.keys, parameters, open=is_open)
    check_names(name, made.secret, parameters, is_open=is_open)
    named = named_by(app.runtime.conf.redact)
    redacted = frozenset(filter(named, parameters)) if named is not None else frozenset[str]()
    check_shown(name, made.throttle, made.keys, made.secret | redacted)
    arguments.runtime = app.runtime
    make = base.made if instance is None else instance.adopt
    parts: dict[str, Any] = {"name": name, "app": app, "policy": made, "arguments": arguments}
    task: Task[..., Any] = make(function, **parts, declared=options, bind=bind)
    _check_hooks(task)
    annotations = app.runtime.conf.task_annotations
    if annotations is not None:
        annotate(task, annotations)
    made = task.policy
    if made.idempotent or made.throttle or made.keys:
        _ = arguments.sent_defaults  # as they are now: a function may change one
    for known in (name, *_aliases(name, options.get("aliases"))):
        taken = tasks.get(known)
        if taken is not None and not same(taken.function, function):
            raise ConfigurationError(f"task {name}: its alias {known!r} is another task's name")
        tasks[known] = task
    return task


def _aliases(name: str, given: Any) -> Sequence[str]:
    if given is None:
        return ()
    if isinstance(given, str | bytes) or not hasattr(given, "__iter__"):
        raise ConfigurationError(f"task {name}: aliases is {given!r}: give a list of names")
    return [_text(each, f"task {name}: an alias") for each in given]


def _text(given: Any, what: str) -> str:
    if not isinstance(given, str):
        raise ConfigurationError(f"{what} is {given!r}: give a text")
    return given


def middleware_of(given: Any) -> list[Middleware]:
    """Return the middleware of an app. Raises `ConfigurationError` for what is no list of it."""
    found: list[Any] = list(given) if hasattr(given, "__iter__") else [None]
    if not all(map(callable, found)):
        raise ConfigurationError(f"middleware is {given!r}: give a list of functions")
    return found


def _check_hooks(task: Task[..., Any]) -> None:
    for hook in HOOKS if task.hooked else ():
        if inspect.iscoroutinefunction(getattr(task, hook)):
            raise ConfigurationError(
                f"task {task.name}: its hook {hook} is async, and nobody would await it: write it "
                "as a plain function"
            )


def _task_class(name: str, given: type[Hooks] | None) -> type[Task[..., Any]] | None:
    if given is None or _is_task_class(given):
        return given
    raise ConfigurationError(
        f"task {name}: base is {given!r}: derive it from cloudq.Task, or leave base out"
    )


def _is_task_class(given: object) -> TypeGuard[type[Task[..., Any]]]:
    return isinstance(given, type) and issubclass(given, Task)


# ---- the setting `task_annotations`

# What is settled when the task is made.
_FIXED = frozenset({"name", "base", "aliases", "pydantic", "typing", "secret"})


def annotate(task: Task[..., Any], source: object) -> None:
    """Give a task the options that the setting has for it, above those of its decorator.

    `source` is a mapping from a task's name, or `"*"` for all, to options and hooks; an object
    with `annotate(task)` and `annotate_any()`; or a list of these, of which the first that knows
    the task counts. As in Celery `"*"` stands above a task's own entry. Raises
    `ConfigurationError` for what is neither an option nor a hook.
    """
    for hook in HOOKS:
        vars(task).pop(hook, None)
    found = {**_first(source, task), **_first(source, None)}
    for name in found.keys() & set(HOOKS):
        setattr(task, name, MethodType(found[name], task))
    task.find_hooks()
    _check_hooks(task)
    _apply_options(task, _options_in(found, task))


def _options_in(found: Mapping[str, Any], task: Task[..., Any]) -> Mapping[str, Any]:
    options = task.annotation_options({n: v for n, v in found.items() if n not in HOOKS})
    for name in options:
        if name not in TaskOptions.__annotations__ or name in _FIXED:
            raise ConfigurationError(
                f"task_annotations: {name!r} of {task.name} is no option that can be given so"
            )
    return options


def apply_changes(task: Task[..., Any]) -> None:
    """Apply the options that were set on the task itself. Raises `ConfigurationError`."""
    source = task.app.runtime.conf.task_annotations
    found = {**_first(source, task), **_first(source, None)}
    _apply_options(task, _options_in(found, task))


def _apply_options(task: Task[..., Any], annotations: Mapping[str, Any]) -> None:
    """Give a task the policy of all its options: declared, annotated, and set on itself."""
    made = policy(task.name, cast("TaskOptions", {**task.declared, **annotations, **task.changed}))
    parameters, is_open = task.arguments.parameters
    check_templates(task.name, made.throttle, parameters, open=is_open)
    check_keys(task.name, made.keys, parameters, open=is_open)
    task.policy, task.annotated = made, annotations


def _first(source: object, task: Task[..., Any] | None) -> Mapping[str, Any]:
    """Return the annotations of the first source that has any for a task; None means any task."""
    if source is None:
        return {}
    if isinstance(source, list | tuple):
        for entry in cast("Sequence[object]", source):
            found = _first(entry, task)
            if found:
                return found
        return {}
    if isinstance(source, Mapping):
        entries = cast("Mapping[str, Any]", source)
        return entries.get("*" if task is None else task.name) or {}
    made: Any = source() if isinstance(source, type) else source
    method = getattr(made, "annotate_any" if task is None else "annotate", None)
    if method is None:
        if not hasattr(made, "annotate"):
            raise ConfigurationError(
                f"task_annotations: {source!r} is no mapping and has no annotate(task)"
            )
        return {}
    return (method() if task is None else method(task)) or {}
