"""From a workflow that has its ids to what its caller holds of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from cloudq.results.groups import AnyResult, GroupResult, Make
from cloudq.tasks.signature import Node, chain, chord, group


def result_of(node: Node[Any], make: Make, parent: AnyResult | None = None) -> AnyResult:
    """The result of a frozen node, with those of what goes before as its parents."""
    if isinstance(node, chain):
        result = parent
        for step in node.tasks:
            result = result_of(step, make, result)
        assert result is not None
        return result
    if isinstance(node, chord):
        header = group_result(str(node.id), node.header.tasks, make, parent)
        return result_of(node.body, make, header)
    if isinstance(node, group):
        return group_result(str(node.id), cast("group[Any]", node).tasks, make, parent)
    made = make(str(node.id), getattr(node, "task", ""))
    made.parent = parent
    return made


def group_result(
    id: str, members: Sequence[Node[Any]], make: Make, parent: AnyResult | None
) -> GroupResult[Any]:
    """The result of a group with these frozen members."""
    return GroupResult(id, [result_of(member, make) for member in members], parent=parent)
