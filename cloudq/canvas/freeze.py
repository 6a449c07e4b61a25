"""Freezes workflows: the simplest form of each, in which every task and group has its id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from cloudq.errors import InvalidArguments
from cloudq.messages.message import new_id
from cloudq.publishing.numbers import Numbers
from cloudq.results.groups import AnyResult, GroupResult
from cloudq.results.outline import Outline, add_row
from cloudq.results.result import AsyncResult
from cloudq.tasks.signature import (
    Node,
    Signature,
    chain,
    chord,
    group,
    is_empty,
    is_group,
    joined,
)
from cloudq.tasks.steps import COLLECT
from cloudq.tasks.stored_steps import StoredSteps

EMPTY = "the chain is empty: give it a task"
"""Said of a chain without tasks where a task must be."""


def frozen(
    node: Node[Any],
    *,
    in_slot: bool = False,
    numbers: Numbers | None = None,
    is_member: bool = False,
) -> Node[Any]:
    """Copy a node in its simplest form, and give every task and group an id.

    With `in_slot` the value goes to a join, so a group at the end is collected into one value.
    `numbers` gives the members of groups, and with `is_member` the node itself, ids in bundles.
    """
    node = passed_on(node.clone())
    return _frozen(
        _numbered(node, numbers) if is_member else node, in_slot=in_slot, numbers=numbers
    )


def passed_on(node: Node[Any]) -> Node[Any]:
    """Give the options of composed nodes, those inside them too, to the calls that start them.

    For copies alone: a program may use one signature at several places.
    """
    for each in walk(node):
        if not isinstance(each, Signature):
            each.pass_on()
    return node


def _numbered(member: Node[Any], numbers: Numbers | None) -> Node[Any]:
    if numbers is not None and isinstance(member, Signature):
        numbers.number(member)
    return member


def _frozen(node: Node[Any], *, in_slot: bool, numbers: Numbers | None) -> Node[Any]:
    if isinstance(node, Signature):
        node.id = node.options.pop("task_id", None) or node.id or new_id()
        node.links = [frozen(callback) for callback in node.links]
        return node
    if isinstance(node, chain):
        return _frozen_chain(node, in_slot=in_slot, numbers=numbers)
    if isinstance(node, chord):
        return _frozen_chord(node, in_slot=in_slot, numbers=numbers)
    if isinstance(node, StoredSteps):
        raise InvalidArguments(f"{node!r} is part of a message: start the whole workflow anew")
    if in_slot:
        collected: chord[Any] = chord(node, Signature[Any](COLLECT, app=node.app))
        return _frozen_chord(collected, in_slot=True, numbers=numbers)
    members = [_numbered(member, numbers) for member in flattened(node.parts())]
    flat = group([_frozen(member, in_slot=False, numbers=numbers) for member in members])
    flat.id = node.id or new_id()
    flat.app = node.app
    return flat


def _frozen_chain(node: chain[Any], *, in_slot: bool, numbers: Numbers | None) -> Node[Any]:
    steps = trimmed(joined_steps(node))
    if not steps:
        raise InvalidArguments(EMPTY)
    last = steps[-1]
    if len(steps) == 1:
        return _frozen(last, in_slot=in_slot, numbers=numbers)
    made: chain[Any] = chain(
        [_frozen(step, in_slot=in_slot and step is last, numbers=numbers) for step in steps],
    )
    made.app = node.app
    return made


def joined_steps(node: chain[Any]) -> list[Node[Any]]:
    """Return the steps of a chain and of those in it, with its callbacks moved to its steps."""
    parts: list[Node[Any]] = []
    for step in node.tasks:
        parts += joined_steps(step) if isinstance(step, chain) else [_with_plain_body(step)]
    simple = joined(parts)
    steps: list[Node[Any]] = simple.tasks if isinstance(simple, chain) else [simple]
    if node.own and not steps:
        raise InvalidArguments(EMPTY)
    if node.links:
        trimmed(steps)[-1].call_back("links", node.links, again=True)
    for step in steps:
        step.call_back("link_errors", node.link_errors)
    return steps


def _with_plain_body(node: Node[Any]) -> Node[Any]:
    """Move the callbacks of a body that is a chain to its steps: it may end in a group."""
    if isinstance(node, chord):
        body = node.body
        node.body = chain(joined_steps(body)) if isinstance(body, chain) else _with_plain_body(body)
    return node


def trimmed(steps: list[Node[Any]]) -> list[Node[Any]]:
    """Leave out empty groups at the end of a chain, as Celery does."""
    while len(steps) > 1 and is_group(steps[-1]) and is_empty(steps[-1]):
        steps = steps[:-1]
    return steps


def _frozen_chord(node: chord[Any], *, in_slot: bool, numbers: Numbers | None) -> Node[Any]:
    header = [_numbered(member, numbers) for member in flattened(node.header.tasks)]
    members = [_frozen(member, in_slot=True, numbers=numbers) for member in header]
    body = _frozen(node.body, in_slot=in_slot, numbers=numbers)
    made: chord[Any] = chord(group(members), body)
    made.id = node.id or new_id()
    made.app = node.app
    return made


def flattened(members: Iterable[Node[Any]]) -> Iterator[Node[Any]]:
    """Yield the members of a group, with those of groups directly in it in their place."""
    for member in members:
        if is_group(member):
            yield from flattened(member.stream())
        else:
            yield member


def walk(node: Node[Any]) -> Iterator[Node[Any]]:
    """Yield a node and all nodes inside it, callbacks left out."""
    yield node
    for part in node.parts():
        yield from walk(part)


def has_given_ids(node: Node[Any]) -> bool:
    """Tell whether the caller gave an id to a task of a node that is not frozen yet."""
    return any(
        each.options.get("task_id") is not None or any(map(has_given_ids, each.links))
        for each in walk(node)
        if isinstance(each, Signature)
    )


def outside_headers(node: Node[Any]) -> Iterator[Signature[Any]]:
    """Yield the calls of a node that are in no chord's header, whose members always answer."""
    if isinstance(node, Signature):
        yield node
    for part in (node.body,) if isinstance(node, chord) else node.parts():
        yield from outside_headers(part)


def results_in(result: Any) -> Iterator[Any]:
    """Yield the results of the tasks of a workflow."""
    waiting: list[Any] = [result]
    while waiting:
        each = waiting.pop()
        if each.member_tuples() is None:
            yield each
        else:
            waiting += each.results
        if each.parent is not None:
            waiting.append(each.parent)


def end_of(node: Node[Any]) -> Node[Any]:
    """Return the signature whose value is that of a node frozen for a slot."""
    if isinstance(node, chain):
        return end_of(node.tasks[-1])
    return end_of(node.body) if isinstance(node, chord) else node


def final_id(node: Node[Any]) -> str:
    """Return the id of the task that gives the value of a frozen node; of a group its own id."""
    if isinstance(node, chain):
        return final_id(node.tasks[-1])
    if isinstance(node, chord):
        return final_id(node.body)
    return str(node.id)


def last(node: Node[Any]) -> list[Signature[Any]]:
    """Return the calls that give the value of a node; of a group those of all members."""
    if isinstance(node, chain):
        return last(node.tasks[-1])
    if isinstance(node, chord):
        return last(node.body)
    if isinstance(node, Signature):
        return [node]
    return [call for member in node.parts() for call in last(member)]


def errbacks_of(node: Node[Any]) -> list[Node[Any]]:
    """Return the error callbacks that run when a node fails before any task of it starts."""
    if isinstance(node, Signature):
        return node.link_errors
    parts = node.tasks[:1] if isinstance(node, chain) else node.parts()
    return [errback for part in parts for errback in errbacks_of(part)]


def outline(node: Node[Any]) -> Outline:
    """Return the ids of a frozen node in the shape of its result."""
    rows: Outline = []
    _add_rows(rows, node, None)
    return rows


def _add_rows(rows: Outline, node: Node[Any], before: int | None) -> int | None:
    if isinstance(node, chain):
        for step in node.tasks:
            before = _add_rows(rows, step, before)
        return before
    if isinstance(node, chord):
        header = add_row(rows, str(node.id), before, _member_rows(rows, node.header))
        return _add_rows(rows, node.body, header)
    inside = _member_rows(rows, node) if is_group(node) else None
    return add_row(rows, str(node.id), before, inside)


def _member_rows(rows: Outline, members: group[Any]) -> list[int]:
    made = [_add_rows(rows, member, None) for member in members.tasks]
    return [row for row in made if row is not None]


def result_of(node: Node[Any], make: Make, parent: AnyResult | None = None) -> AnyResult:
    """Return the result of a frozen node; results of earlier nodes become its parents."""
    if isinstance(node, chain):
        *earlier, end = node.tasks
        for step in earlier:
            parent = result_of(step, make, parent)
        return result_of(end, make, parent)
    if isinstance(node, chord):
        header = _group_result(node.id, node.header, make, parent)
        return collected(node, header, result_of(node.body, make, header))
    if is_group(node):
        return _group_result(node.id, node, make, parent)
    made = make(node)
    made.parent = parent
    return made


def collected(node: chord[Any], header: GroupResult[Any], result: AnyResult) -> AnyResult:
    """Let the one value of a group, in the place of a chord, be restored as its members' are."""
    body = node.body
    if isinstance(body, Signature) and body.task == COLLECT and isinstance(result, AsyncResult):
        result.restore = partial(_restored, header)
    return result


def _restored(header: GroupResult[Any], values: Sequence[Any]) -> list[Any]:
    """Restore stored values of a header; those of members that were added stay as they are."""
    known = [each.restore(value) for each, value in zip(header.leaves(), values, strict=False)]
    return [*known, *values[len(known) :]]


Make = Callable[[Node[Any]], AsyncResult[Any]]
"""Makes the result of a call in a workflow, which has its id."""


def _group_result(
    id: str | None, members: group[Any], make: Make, parent: AnyResult | None
) -> GroupResult[Any]:
    results = [result_of(member, make) for member in members.tasks]
    return GroupResult(str(id), results, parent=parent)
