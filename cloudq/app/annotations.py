"""Options given to tasks from outside of their code: the setting `task_annotations`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any, cast

from cloudq.errors import ConfigurationError
from cloudq.tasks.hooks import HOOKS
from cloudq.tasks.limits.keys import check_keys
from cloudq.tasks.limits.rules import check_templates
from cloudq.tasks.options import TaskOptions, policy
from cloudq.tasks.task import Task

# What is settled when the task is made.
_FIXED = frozenset({"name", "base", "aliases", "pydantic"})


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
    options: dict[str, Any] = {}
    for name, value in found.items():
        if name in HOOKS:
            setattr(task, name, MethodType(value, task))
        elif name in TaskOptions.__annotations__ and name not in _FIXED:
            options[name] = value
        else:
            raise ConfigurationError(
                f"task_annotations: {name!r} of {task.name} is no option that can be given so"
            )
    task.find_hooks()
    made = policy(task.name, cast("TaskOptions", {**task.declared, **options}))
    parameters, is_open = task.arguments.parameters
    check_templates(task.name, made.throttle, parameters, open=is_open)
    check_keys(task.name, made.keys, parameters, open=is_open)
    task.policy = made


def _first(source: object, task: Task[..., Any] | None) -> Mapping[str, Any]:
    """What the first of the annotations has for a task, or for any with None."""
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
