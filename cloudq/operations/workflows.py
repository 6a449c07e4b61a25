"""Workflows under way: the joins of groups and chords, and the members that are still missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.app import CloudQ
from cloudq.canvas.graph import Graph, graph_of
from cloudq.canvas.join_items import JOINS, body_in, members_in, number_in
from cloudq.canvas.slots import SHARD, join_key, shard_key
from cloudq.driver import Item, Page, Value
from cloudq.results.backend import Backend
from cloudq.results.groups import group_outline
from cloudq.results.outline import Outline
from cloudq.results.record import TERMINAL, Record, State
from cloudq.results.stored import OddItem, is_list, json_in

MOST = 200
"""Joins that a list looks through at most."""
MOST_MISSING = 1000
"""Missing members that are named at most."""
NOT_LISTED = (
    "workflows cannot be listed in this store without reading all of it: give the id of a task, "
    "a group or a chord"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of a workflow that has not ended; its state is PENDING where nothing is known."""

    id: str
    task: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A group or chord whose members are joined.

    `state` is "under way", "done" (its body was sent) or "failed". `left` of its `count` members
    have not succeeded; `missing` names them, up to a thousand. `body` is the id and the task that
    follow. `started` is epoch seconds, None where it is not known.
    """

    id: str
    state: str
    count: int
    left: int
    body: tuple[str, str]
    failed: str | None = None
    started: float | None = None
    missing: Sequence[Member] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowList:
    """The workflows that are under way, newest first.

    `seen` is the number that was looked through; without `complete` there are more. `problem` says
    why a store cannot list them.
    """

    workflows: Sequence[Workflow]
    seen: int = 0
    complete: bool = True
    problem: str | None = None


def workflows(app: CloudQ, *, limit: int = 50, all_states: bool = False) -> WorkflowList:
    """List the groups and chords that are under way, with the number of members that are left.

    Only stores whose requests are free keep such a list. Costs two reads for each hundred.
    Raises `BackendError`, and `ConfigurationError` without a store.
    """
    backend = app.control.backend
    if backend.driver.limits.billed:
        return WorkflowList(workflows=(), complete=False, problem=NOT_LISTED)
    page = backend.query(JOINS, limit=MOST)
    started = _started(page)
    roots = backend.get([join_key(id) for id in started])
    found: list[Workflow] = []
    for id, at in started.items():
        root = roots.get(join_key(id))
        if root is None or not (all_states or _state_of(root) == "under way"):
            continue
        found.append(_workflow(id, root, backend, at, named=False))
        if len(found) == limit:
            break
    complete = page.next is None and len(found) < limit
    return WorkflowList(workflows=found, seen=len(started), complete=complete)


def workflow(app: CloudQ, id: str) -> Workflow | None:
    """Look at a chord by its id or that of the task it starts, or at a saved group.

    Names the members that are missing. Costs a read or two, and one for each hundred members.
    Returns None if it is not there: without free requests, the task that a chord starts is known
    once it has begun. Raises `BackendError`, and `ConfigurationError` without a store.
    """
    backend = app.control.backend
    join = id
    root = backend.get([join_key(id)]).get(join_key(id))
    if root is None:
        join = _join_before(id, backend) or ""
        root = backend.get([join_key(join)]).get(join_key(join)) if join else None
    if root is not None:
        return _workflow(join, root, backend, None, named=True)
    outline = group_outline(id, backend)
    return None if outline is None else _group(id, outline, backend)


def graph(app: CloudQ, id: str) -> Graph | None:
    """Return the graph around a task, a chord or a saved group; None if the store knows no such id.

    Costs one batched read for each step from the task to the farthest one. Raises `BackendError`,
    and `ConfigurationError` without a store.
    """
    backend = app.control.backend
    found = graph_of(id, backend)
    if found is not None:
        return found
    join = _join_before(id, backend)
    return None if join is None else graph_of(join, backend)


def _join_before(id: str, backend: Backend) -> str | None:
    """Return the id of the join that starts a task, by the task's record or the joins under way."""
    record = backend.record(id)
    if record is not None:
        return record.join
    if backend.driver.limits.billed:
        return None
    page = backend.query(JOINS, limit=MOST)
    joins = {join_key(join): join for join in _started(page)}
    roots = backend.get(list(joins))
    return next((joins[key] for key, root in roots.items() if body_in(root)[0] == id), None)


def _group(id: str, outline: Outline, backend: Backend) -> Workflow:
    ids = [outline[place][0] for place in outline[-1][2] or ()]
    records = backend.records(ids[:MOST_MISSING])
    ended = [record for record in records.values() if record.state in TERMINAL]
    failed = next((each for each in ended if each.state is not State.SUCCESS), None)
    done = {each.id for each in ended}
    missing = [_member(each, records.get(each)) for each in ids if each not in done]
    left = len(ids) - len(done)
    return Workflow(
        id=id,
        state="failed" if failed is not None else "under way" if left else "done",
        count=len(ids),
        left=left,
        body=("", ""),
        failed=None if failed is None else f"{failed.task} {failed.id}: {failed.state}",
        missing=missing[:MOST_MISSING],
    )


def _workflow(
    id: str, root: Item, backend: Backend, started: float | None, *, named: bool
) -> Workflow:
    left = _left(id, root, backend)
    records: Mapping[str, Record] = {}
    missing: list[Member] = []
    if named:
        ids = left[:MOST_MISSING]
        records = backend.records(ids) if ids else {}
        missing = [_member(each, records.get(each)) for each in ids]
    failed = root.fields.get("failed")
    return Workflow(
        id=id,
        state=_state_of(root),
        count=int(number_in(root.fields.get("count"))),
        left=len(left),
        body=body_in(root),
        failed=failed if isinstance(failed, str) else None,
        started=started,
        missing=missing,
    )


def _left(join: str, root: Item, backend: Backend) -> list[str]:
    """Return the ids of the members that have not succeeded, of the shards that are not done."""
    open_shards = root.fields.get("shards")
    named = open_shards if isinstance(open_shards, frozenset) else ()
    # One that is still being written has an "open" among them.
    numbers = sorted(int(each) for each in named if re.fullmatch(r"[0-9]{1,7}", each))
    keys = {number: shard_key(join, number) for number in numbers}
    items = backend.get(list(keys.values()))
    found: list[str] = []
    for number, key in keys.items():
        item = items.get(key)
        if item is None:
            continue
        ids: Any = json_in(item, "ids")
        if not is_list(ids):
            raise OddItem(key, "its ids are no list")
        left = item.fields.get("left")
        open_ones: frozenset[str] = left if isinstance(left, frozenset) else frozenset()
        found += [
            str(each) for place, each in enumerate(ids) if str(number * SHARD + place) in open_ones
        ]
    return found


def _member(id: str, record: Record | None) -> Member:
    if record is None:
        return Member(id=id, task="", state=State.PENDING)
    return Member(id=id, task=record.task, state=record.state)


def _state_of(root: Item) -> str:
    if root.fields.get("failed"):
        return "failed"
    return "done" if root.fields.get("sent") else "under way"


def _started(page: Page) -> dict[str, float | None]:
    """Return the joins of a page of their list, with the times when they were started."""
    found: dict[str, float | None] = {}
    for item in page.items:
        _, sign, join = item.key.sort.partition("#")[2].partition("#")
        at: Value = item.fields.get("at")
        if sign:  # else another program has written it
            found[join] = float(at) if isinstance(at, int | float) else None
    return found


def member_ids(app: CloudQ, join: str) -> list[str]:
    """Return the ids of all members of a join, in order; none if the join is gone."""
    backend = app.control.backend
    root = backend.get([join_key(join)]).get(join_key(join))
    return [] if root is None else members_in(join, root, backend)
