"""A workflow in its simplest form, in which every task and group has its id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from cloudq.messages.ids import new_id
from cloudq.tasks.signature import Node, Signature, chain, chord, from_dict, group, joined

COLLECT = "cloudq.collect"
"""The task that gives the list of a join's values, where a group's end is one value of others."""

Outline = tuple[tuple[str, Any], "list[Any] | None"]
"""The ids of a node and of what goes before it: `((id, before), members)`, as `as_tuple` has."""


def frozen(node: Node[Any], *, in_slot: bool = False) -> Node[Any]:
    """A copy in its simplest form in which every task and group has an id.

    `in_slot`: its value is for others, so a group at its end is collected into one value.
    """
    return _frozen(node.clone(), in_slot=in_slot)


def _frozen(node: Node[Any], *, in_slot: bool) -> Node[Any]:
    if isinstance(node, Signature):
        node.id = node.options.pop("task_id", None) or node.id or new_id()
        node.links = [frozen(callback) for callback in node.links]
        return node
    if isinstance(node, chain):
        return _frozen_chain(node, in_slot=in_slot)
    if isinstance(node, chord):
        return _frozen_chord(node, in_slot=in_slot)
    members = cast("group[Any]", node)
    if in_slot:
        return _frozen_chord(chord(members, Signature(COLLECT, app=members.app)), in_slot=True)
    flat = group([_frozen(member, in_slot=False) for member in flattened(members.tasks)])
    flat.id = node.id or new_id()
    flat.app = node.app
    return flat


def _frozen_chain(node: chain[Any], *, in_slot: bool) -> Node[Any]:
    simple = joined(node.tasks) if node.tasks else node
    steps: list[Node[Any]] = simple.tasks if isinstance(simple, chain) else [simple]
    last = steps[-1]
    for callback in node.links:
        last.link(callback)
    for step in steps:
        for errback in node.link_errors:
            step.link_error(errback)
    if len(steps) == 1:
        return _frozen(last, in_slot=in_slot)
    made: chain[Any] = chain(
        [_frozen(step, in_slot=in_slot and step is last) for step in steps],
    )
    made.app = node.app
    return made


def _frozen_chord(node: chord[Any], *, in_slot: bool) -> Node[Any]:
    members = [_frozen(member, in_slot=True) for member in flattened(node.header.tasks)]
    made: chord[Any] = chord(group(members), _frozen(node.body, in_slot=in_slot))
    made.id = node.id or new_id()
    made.app = node.app
    return made


def flattened(members: Iterable[Node[Any]]) -> Iterator[Node[Any]]:
    """The members of a group; those of a group directly in it are its own."""
    for member in members:
        if isinstance(member, group):
            yield from flattened(cast("group[Any]", member).stream())
        else:
            yield member


def end_of(node: Node[Any]) -> Node[Any]:
    """The signature whose value is that of a node frozen for a slot."""
    if isinstance(node, chain):
        return end_of(node.tasks[-1])
    return end_of(node.body) if isinstance(node, chord) else node


def final_id(node: Node[Any]) -> str:
    """The id of the task whose value is the value of a frozen node (of a group: its own)."""
    if isinstance(node, chain):
        return final_id(node.tasks[-1])
    if isinstance(node, chord):
        return final_id(node.body)
    return str(node.id)


def last(node: Node[Any]) -> list[Signature[Any]]:
    """The calls whose values are those of a node, of a group all its members'."""
    if isinstance(node, chain):
        return last(node.tasks[-1])
    if isinstance(node, chord):
        return last(node.body)
    if isinstance(node, group):
        return [call for member in cast("group[Any]", node).tasks for call in last(member)]
    return [cast("Signature[Any]", node)]


def ends(node: Node[Any]) -> list[str]:
    """The ids of the tasks whose values are those of a frozen node, of a group all its members'."""
    return [str(call.id) for call in last(node)]


def ends_of(rest: Iterable[Mapping[str, Any]]) -> list[str]:
    """The same of all the steps that are still to come in a chain."""
    return [id for step in rest for id in ends(from_dict(step))]


def outline(node: Node[Any], before: Any = None) -> Outline:
    """The ids of a frozen node, as those of its result."""
    if isinstance(node, chain):
        for step in node.tasks:
            before = outline(step, before)
        return cast("Outline", before)
    if isinstance(node, chord):
        header = ((str(node.id), before), [outline(member) for member in node.header.tasks])
        return outline(node.body, header)
    if isinstance(node, group):
        members = cast("group[Any]", node).tasks
        return (str(node.id), before), [outline(member) for member in members]
    return (str(node.id), before), None


# So many ids of what a task has started are kept in its record, which each reader pays for.
_KEPT = 100


def brief(started: Sequence[Any]) -> list[Any]:
    """Outlines with no more ids than a record keeps: members beyond that are left out."""
    left = _KEPT

    def cut(outline: Any) -> Any:
        nonlocal left
        left -= 1
        (id, before), members = outline
        above = cut(before) if before is not None else None
        return (id, above), members if members is None else kept(members)

    def kept(outlines: Sequence[Any]) -> list[Any]:
        return [cut(outline) for outline in outlines if left > 0]

    return kept(started)
