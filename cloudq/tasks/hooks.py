"""What a task's class may override to take part in the life of its calls: Celery's hooks."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """An exception as hooks and signals get it; `str()` is its traceback."""

    exception: BaseException

    @property
    def type(self) -> type[BaseException]:
        """Its class."""
        return type(self.exception)

    @property
    def tb(self) -> TracebackType | None:
        """The traceback object, where it was raised in this process."""
        return self.exception.__traceback__

    @property
    def traceback(self) -> str:
        """The traceback as text."""
        return "".join(traceback.format_exception(self.exception))

    def __str__(self) -> str:
        return self.traceback


class Hooks:
    """The hooks, none of which does anything unless it is overridden.

    They run where the task runs, after its function and before its outcome is recorded, so a
    crash may repeat them. `self.request` is there. What `before_start` raises is the task's
    own error; what the others raise is logged and changes nothing.
    """

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Called before the function."""

    def on_success(
        self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Called when the task has returned."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """Called when the task has failed for good."""

    def on_retry(
        self,
        exc: BaseException | None,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """Called when the task is to be tried again."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo | None,
    ) -> None:
        """Called after success and after failure, last; `retval` is the value or the exception."""
