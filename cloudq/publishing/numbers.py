"""Gives the calls of one publish their places in bundles."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from cloudq.messages.ids import BundleIds
from cloudq.messages.message import TaskMessage
from cloudq.tasks.call_options import NO_OPTIONS, Options
from cloudq.tasks.signature import Signature
from cloudq.tasks.task import Task

# Built-in tasks that run another one, whose name is their first argument.
_OF_ANOTHER = frozenset({"cloudq.map", "cloudq.starmap"})


class Numbers:
    """Numbers calls within their bundles: of `size` calls, or of as many as their task says."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], size: int | None) -> None:
        self._tasks = tasks
        self.size = size
        self._ids: dict[int, BundleIds] = {}

    def id_of(self, task: str, key: Hashable = None) -> str | None:
        """Return an id in a bundle for a call of a task; None if it goes alone.

        Calls with the same `key` share bundles.
        """
        size = self.size
        if size is None:
            known = self._tasks.get(task)
            size = known.policy.bundle if known is not None else None
        if size is None or size < 2:
            return None
        ids = self._ids.get(size)
        if ids is None:
            ids = self._ids[size] = BundleIds(size)
        return ids.next(key)

    def numbered(self, message: TaskMessage, options: Options = NO_OPTIONS) -> TaskMessage:
        """Give a call an id in a bundle, unless it has one of the caller's or goes alone."""
        if options.task_id is not None:
            return message
        id = self.id_of(message.task, (message.queue, message.group_key))
        return message if id is None else message.model_copy(update={"id": id})

    def number(self, call: Signature[Any]) -> None:
        """Give a member of a group an id in a bundle, unless it has an id or goes alone."""
        if call.id is not None or call.options.get("task_id") is not None:
            return
        name: Any = call.args[0] if call.task in _OF_ANOTHER and call.args else call.task
        call.id = self.id_of(str(name))
