"""States that running tasks give themselves, as Celery's `update_state` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloudq.errors import TaskFailure
from cloudq.messages.values import dump_value
from cloudq.results.record import Record, State, failure


def failure_of(meta: Any, task_id: str) -> BaseException:
    """Make the exception of a failure as Celery stores it: `exc_type`, `exc_message`, `exc_module`.

    An exception is returned as it is. Of anything else the text is that of an `Exception`.
    """
    if isinstance(meta, BaseException):
        return meta
    if not issubclass(type(meta), Mapping) or "exc_type" not in meta:
        return Exception(meta)
    said: Any = meta.get("exc_message", ())
    args: list[Any] = [*said] if issubclass(type(said), list | tuple) else [said]
    kind = f"{meta.get('exc_module') or 'builtins'}.{meta['exc_type']}"
    text = str(args[0] if len(args) == 1 else tuple(args))
    record = Record(id=task_id, state=State.FAILURE, error_type=kind, error_args=dump_value(args))
    made = failure(record)
    return failure(replace(record, error=text)) if isinstance(made, TaskFailure) else made


class OwnStates:
    """`update_state` as Celery's: a failure that a running task sets is what it ends with."""

    request: Any

    def update_state(
        self,
        task_id: str | None = None,
        state: str | None = None,
        meta: Any = None,
        request: Any = None,
        **more: Any,
    ) -> None:
        """Record a state of one's own, or progress; see `cloudq.tasks.bound.BoundTask`.

        With the state FAILURE the running call fails with what `meta` says, once it ends, in
        whatever way: mostly by `raise Ignore()`. Other states that end a task are refused.
        """
        running = self.request
        if state == State.FAILURE and task_id in (None, running.id) and not running.called_directly:
            running.asked[:] = [failure_of(meta, running.id)]
            return
        core: Any = super()
        core.update_state(task_id, state, meta)
