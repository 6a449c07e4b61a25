"""Calls that run at once, and their results, as Celery has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cloudq.app.eager import Eager
from cloudq.canvas.eager import EagerWorkflows
from cloudq.contrib.celery.states import IGNORED
from cloudq.errors import Ignore, Reject
from cloudq.messages.message import TaskMessage
from cloudq.results import eager
from cloudq.results.groups import AnyResult, GroupResult
from cloudq.results.record import Record, State
from cloudq.tasks.call_options import Options
from cloudq.tasks.signature import Node, chain
from cloudq.tasks.task import Task

R = TypeVar("R")


class EagerResult(eager.EagerResult[R]):
    """The result of an eager call; `get()` of one that was ignored or rejected gives None."""

    @property
    def state(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A `State`, or IGNORED."""
        return IGNORED if self.ignored else super().state

    @property
    def status(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The same as `state`."""
        return self.state

    @property
    def result(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The value, or the exception: also `Ignore` and `Reject`, which `get()` does not raise."""
        if self.ignored:
            return Ignore()
        return Reject(self.record.error or "") if self._is_rejected() else super().result

    def successful(self) -> bool:
        """Say if the task has returned."""
        return not self.ignored and super().successful()

    def _is_rejected(self) -> bool:
        return self.record.state == State.REJECTED

    def _given(self, record: Record, propagate: bool) -> R:
        nothing: Any = None
        return nothing if self._is_rejected() else super()._given(record, propagate)


class Workflows(EagerWorkflows):
    """Runs workflows to the ends that they have in Celery."""

    def ends_chain(self, result: AnyResult) -> bool:
        """Say if a step was ignored or rejected, whose result is that of its chain then."""
        ended: Any = result
        return isinstance(result, EagerResult) and (
            ended.ignored or ended.record.state == State.REJECTED
        )


class CeleryEager(Eager):
    """Runs calls at once; with `raises` an exception of a task is raised, and a retry too.

    The first call counts `retries` tries before it. A task that exits ends the program.
    """

    result_type = EagerResult
    workflows_type = Workflows
    raises = False
    retries = 0

    def message(
        self, task: Task[..., Any], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskMessage:
        """Make the message of a call."""
        made = super().message(task, options, args, kwargs)
        retries, self.retries = self.retries, 0
        return made.model_copy(update={"retries": retries}) if retries else made

    def apply(
        self, task: Task[..., R], options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> eager.EagerResult[R]:
        """Run a call and its callbacks. Raises `SystemExit` of a task."""
        made = super().apply(task, options, args, kwargs)
        if isinstance(made, EagerResult) and isinstance(made.error, SystemExit):
            raise made.error
        return made

    def start(self, node: Node[Any]) -> Any:
        """Run a workflow. A chain whose middle has failed raises that, others if they are to."""
        made = super().start(node)
        if self.raises or isinstance(node, chain):
            raise_first(made, whole=self.raises)
        return made


def raise_first(made: Any, *, whole: bool) -> None:
    """Raise the first exception of what has ended; without `whole` that of the steps before it."""
    before: list[Any] = []
    step = made
    while step is not None:
        before.append(step)
        step = step.parent
    for each in reversed(before if whole else before[1:]):
        members: list[Any] = getattr(each, "results", [each])
        for member in members:
            if isinstance(member, GroupResult):
                raise_first(member, whole=True)
            elif member.state == State.FAILURE:
                member.get()
