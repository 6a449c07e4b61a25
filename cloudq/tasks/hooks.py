"""Celery's hooks: methods of a task's class that run before and after each call."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from cloudq.text import hidden

HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """An exception as hooks and signals get it; `str()` is its traceback, without secrets."""

    exception: BaseException

    @property
    def type(self) -> type[BaseException]:
        """The class of the exception."""
        return type(self.exception)

    @property
    def tb(self) -> TracebackType | None:
        """The traceback object, None if the exception was not raised in this process."""
        return self.exception.__traceback__

    @property
    def traceback(self) -> str:
        """The traceback as text."""
        return hidden("".join(traceback.format_exception(self.exception)))

    def __str__(self) -> str:
        return self.traceback


class Hooks:
    """The hooks, which do nothing unless overridden.

    They run in the process of the task and can use `self.request`. All but `before_start` run
    after the function and before the outcome is recorded, so a crash may repeat them. An
    exception from `before_start` fails the task; one from another hook is only logged.
    """

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Run before the function."""

    def on_success(
        self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Run after the task has returned."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """Run after the task has failed for good."""

    def on_retry(
        self,
        exc: BaseException | None,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """Run when the task is going to be retried."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo | None,
    ) -> None:
        """Run last after success and failure; `retval` is the value or the exception."""
