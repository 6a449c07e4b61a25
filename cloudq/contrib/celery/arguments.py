"""The arguments of tasks, as Celery's options have them checked and restored."""

from __future__ import annotations

from typing import Any

from cloudq.tasks import task
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.unchecked import Unchecked


class PlainResult(Arguments):
    """Arguments of a task with `pydantic=True`, whose caller gets the value as it is stored."""

    def restore(self, value: Any) -> Any:
        """Return the value: of a model its dictionary."""
        return value

    def restore_each(self, values: Any) -> Any:
        """Return the values: of models their dictionaries."""
        return values


def arguments_of(task: task.Task[..., Any]) -> Arguments:
    """Make what checks the arguments of a task, by its options as they are now."""
    options = {**task.declared, **task.changed}
    checked = Arguments if options.get("typing", True) else Unchecked
    everything = bool(options.get("pydantic", False))
    return checked(task.name, task.function, bound=task.bind, everything=everything)
