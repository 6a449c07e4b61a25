"""The result of a task that ran at its call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record, State
from cloudq.results.result import AsyncResult
from cloudq.results.terminate import Signal, Termination

R = TypeVar("R")


def _as_is(value: Any) -> Any:
    return value


class EagerResult(AsyncResult[R]):
    """The result of an eager task; it never reads a result store.

    `because` is the end that what follows the call gets, where that is not the call's own: of one
    whose task raised `Ignore`, and of one that never ran since an earlier one failed.
    """

    def __init__(
        self,
        record: Record,
        *,
        restore: Callable[[Any], R] = _as_is,
        error: BaseException | None = None,
        because: Record | None = None,
        message: TaskMessage | None = None,
    ) -> None:
        super().__init__(record.id, None, restore=restore, task=record.task)
        self.final = record
        self.message = message
        self._error = error
        self._because = because
        self.ignored = because is not None and record.state is State.SUCCESS

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        own = {"restore", "_backend", "actions", "message", "loads"}
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.restore, self._backend, self.actions, self.message = _as_is, None, None, None

    @property
    def error(self) -> BaseException | None:
        """The exception that the task raised; None for none."""
        return self._error

    @property
    def unsuccessful(self) -> Record | None:
        """The end that what follows gets; None where it may start, after a success."""
        return self._because or (None if self.record.state is State.SUCCESS else self.record)

    def unstarted(self, id: str, task: str) -> EagerResult[Any]:
        """Make the result of a later call, which never runs since this one did not succeed."""
        end = self.unsuccessful or self.record
        return EagerResult(
            replace(end, id=id, task=task, started_at=None), error=self._error, because=end
        )

    def _given(self, record: Record, propagate: bool) -> R:
        if self._error is None:
            return super()._given(record, propagate)
        if propagate:
            raise self._error
        return cast("R", self._error)

    def revoke(
        self,
        *,
        terminate: bool = False,
        signal: Signal = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Return False: it has ended. Raises `ConfigurationError` for a wrong signal."""
        Termination.of(signal, wait=wait, timeout=timeout)
        return False

    def revoke_own(self, marked: Record | None = None) -> None:
        """Do nothing: it has ended."""

    def forget(self) -> None:
        """Do nothing: no record is stored."""
