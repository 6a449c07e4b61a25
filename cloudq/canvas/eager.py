"""Runs workflows in this process, one task after the other, to the ends that workers come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cloudq.canvas.errbacks import CHORD_ERROR, errback_values, member_failed
from cloudq.canvas.freeze import collected, end_of, errbacks_of, final_id, frozen, last, result_of
from cloudq.errors import ChordError
from cloudq.messages.message import TaskMessage
from cloudq.results.eager import EagerResult
from cloudq.results.groups import AnyResult, GroupResult
from cloudq.results.record import Record, State
from cloudq.tasks.signature import Node, Signature, chain, chord
from cloudq.tasks.task import Task

Run = Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any]], EagerResult[Any]]
"""Runs one task: (name, args, kwargs, options)."""


class EagerWorkflows:
    """Runs workflows by a function that runs one call. `tasks` may grow."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], run: Run) -> None:
        self._tasks = tasks
        self._run = run

    def start(self, node: Node[Any]) -> AnyResult:
        """Run a workflow; its result, which has ended."""
        return self._started(frozen(node), (), None)

    def in_place_of(self, id: str, node: Node[Any]) -> AnyResult:
        """Run a workflow that replaces a call: its last task gets the call's id."""
        made = frozen(node, in_slot=True)
        end_of(made).id = id
        return self._started(made, (), None)

    def ends_chain(self, result: AnyResult) -> bool:
        """Say if a chain ends early, with this result of one of its steps as its own: never."""
        return False

    def _started(
        self, node: Node[Any], before: Sequence[Any], parent: AnyResult | None
    ) -> AnyResult:
        """Run a frozen node with `before` as its first arguments."""
        if isinstance(node, Signature):
            return self._called(node, before, parent)
        if isinstance(node, chain):
            return self._chain(node, before, parent)
        if isinstance(node, chord):
            return self._chord(node, before, parent)
        return self._group(str(node.id), node, before, parent)

    def _called(
        self, node: Signature[Any], before: Sequence[Any], parent: AnyResult | None
    ) -> AnyResult:
        args = (() if node.immutable else tuple(before)) + node.args
        result = self._run(node.task, args, node.kwargs, {"task_id": node.id, **node.options})
        result.parent = parent
        if result.unsuccessful is None:
            for callback in node.links:
                self._started(callback, (result.get(),), None)
        elif not result.ignored:
            self._call_errbacks(node.link_errors, result.record, result.message)
        return result

    def _group(
        self, id: str, members: Node[Any], before: Sequence[Any], parent: AnyResult | None
    ) -> GroupResult[Any]:
        results = [self._started(member, before, None) for member in members.parts()]
        return GroupResult(id, results, parent=parent)

    def _chain(
        self, node: chain[Any], before: Sequence[Any], parent: AnyResult | None
    ) -> AnyResult:
        first, *later = node.tasks
        result = self._started(first, before, parent)
        for step in later:
            if self.ends_chain(result):
                return result
            ended = _unsuccessful(result)
            if ended is None:
                result = self._started(step, (result.get(),), result)
            else:
                result = result_of(step, partial(_unstarted, ended), result)
        return result

    def _chord(
        self, node: chord[Any], before: Sequence[Any], parent: AnyResult | None
    ) -> AnyResult:
        header = self._group(str(node.id), node.header, before, parent)
        ended = _unsuccessful(header)
        if ended is None or ended.unsuccessful is None:
            result = self._started(node.body, (header.get(),), header)
            return collected(node, header, result)
        error = ChordError(member_failed(ended.unsuccessful))
        id = final_id(node.body)
        record = Record(
            id=id,
            state=State.FAILURE,
            task=next((call.task for call in last(node.body) if call.id == id), ""),
            error_type=CHORD_ERROR,
            error=str(error),
        )
        self._call_errbacks(errbacks_of(node.body), record, None)
        failed = EagerResult[Any](record, error=error)
        return result_of(node.body, partial(_unstarted, failed), header)

    def _call_errbacks(
        self, errbacks: Sequence[Node[Any]], failed: Record, message: TaskMessage | None
    ) -> None:
        for errback in errbacks:
            made = frozen(errback)
            self._started(made, errback_values(made, failed, message, self._tasks), None)


def _unstarted(before: EagerResult[Any], node: Node[Any]) -> EagerResult[Any]:
    return before.unstarted(str(node.id), node.task if isinstance(node, Signature) else "")


def _unsuccessful(result: AnyResult) -> EagerResult[Any] | None:
    """Return the first call of a result after which nothing starts; None if all succeeded."""
    leaves = result.leaves() if isinstance(result, GroupResult) else [result]
    ended = (leaf for leaf in leaves if isinstance(leaf, EagerResult))
    return next((leaf for leaf in ended if leaf.unsuccessful is not None), None)
