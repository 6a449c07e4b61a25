"""Runs workflows in this process, one task after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cloudq.canvas.freeze import flattened, joined_steps, trimmed
from cloudq.errors import ChordError
from cloudq.messages.ids import new_id
from cloudq.results.groups import AnyResult, GroupResult
from cloudq.results.record import Record, State
from cloudq.results.result import AsyncResult, EagerResult
from cloudq.tasks.signature import Node, Signature, chain, chord, is_group

Run = Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any]], EagerResult[Any]]
"""Runs one task: (name, args, kwargs, options)."""


def run_eagerly(
    node: Node[Any], before: Sequence[Any], run: Run, parent: AnyResult | None = None
) -> AnyResult:
    """Run a node with `before` as its first arguments, and return its finished result."""
    result: AnyResult
    if isinstance(node, Signature):
        args = (() if node.immutable else tuple(before)) + node.args
        result = run(node.task, args, node.kwargs, node.options)
        result.parent = parent
    elif isinstance(node, chain):
        return _chain(node, before, run, parent)
    elif isinstance(node, chord):
        result = _chord(node, before, run, parent)
    else:
        members = flattened(node.stream() if is_group(node) else node.parts())
        result = GroupResult(
            new_id(), [run_eagerly(member, before, run) for member in members], parent=parent
        )
    _call_back(node, result, run)
    return result


def _chain(
    node: chain[Any], before: Sequence[Any], run: Run, parent: AnyResult | None
) -> AnyResult:
    result = parent
    for step in trimmed(joined_steps(node.clone())):
        result = run_eagerly(step, before, run, result)
        if not result.successful():
            break
        before = (result.get(),)
    assert result is not None
    return result


def _chord(
    node: chord[Any], before: Sequence[Any], run: Run, parent: AnyResult | None
) -> AnyResult:
    header = run_eagerly(node.header, before, run, parent)
    assert isinstance(header, GroupResult)
    if not header.successful():
        failed = next(leaf for leaf in header.leaves() if not leaf.successful())
        error = ChordError(f"member {failed.id} failed: {failed.result!r}")
        record = Record(id=new_id(), state=State.FAILURE, error=str(error))
        result: EagerResult[Any] = EagerResult(record, error=error)
        for first in joined_steps(chain(node.body.clone()))[0].first():
            _call_back(first, result, run)
        return result
    return run_eagerly(node.body, (header.get(),), run, header)


def _call_back(node: Node[Any], result: AnyResult, run: Run) -> None:
    if result.successful():
        for callback in node.links:
            run_eagerly(callback, (result.get(),), run)
        return
    if isinstance(result, AsyncResult):
        for errback in node.link_errors:
            run_eagerly(errback, (result.id,), run)
