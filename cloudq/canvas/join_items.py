"""The items of joins in the store: what is written before the members, and who they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cloudq.canvas.slots import SHARD, join_key, shard_key
from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.errors import BackendError, ChordError
from cloudq.messages.json_text import is_object
from cloudq.messages.values import load_value
from cloudq.results.backend import Backend
from cloudq.results.call_marks import is_before
from cloudq.results.events import sort_of
from cloudq.results.record import Record, State
from cloudq.results.stored import OddItem, is_list, json_in

ADDED = 5_000_000
"""The shards of members that other members add have numbers above this, and above a header's."""
EXPIRED = "the join {} has expired: raise the setting result_expires"
"""The error of a join that is not in the store."""


JOINS = "joins"
"""The partition that lists joins, the newest first, in stores whose requests are free."""


def store_joins(items: Sequence[Item], backend: Backend) -> None:
    """Store the items of joins, before any member is sent. Raises `BackendError`."""
    if items and not backend.driver.limits.billed:
        items = [*items, *_listed(items, backend.clock())]
    failures = backend.put(items) if items else {}
    if failures:
        first = next(iter(failures.values()))
        raise BackendError(
            f"a part of the workflow was not stored: {first.reason}", code=first.code
        )


def _listed(items: Sequence[Item], now: float) -> list[Item]:
    """Return the items that list the joins among these."""
    roots = [item for item in items if "follows" in item.fields]
    return [
        Item(
            key=Key(JOINS, sort_of(now, root.key.partition.removeprefix("join#"))),
            fields={"at": now},
            expires=root.expires,
        )
        for root in roots
    ]


def body_in(root: Item) -> tuple[str, str]:
    """Return the id and the task of what follows a join's members, as its item has them."""
    try:
        follows: Any = json_in(root, "follows")
    except OddItem:
        return "", ""
    if not is_object(follows):
        return "", ""
    node: Any = follows.get("node")
    name = node.get("task") if is_object(node) else None
    return str(follows.get("body") or ""), str(name or "")


def members_of(join: str, backend: Backend) -> list[str] | None:
    """Return the ids of the tasks whose values a join collects; None if the join is gone."""
    root = backend.get([join_key(join)]).get(join_key(join))
    return None if root is None else members_in(join, root, backend)


def members_in(join: str, root: Item, backend: Backend) -> list[str]:
    """Return the ids in the shards of a join that are in the store."""
    added = int(number_in(root.fields.get("added")))
    shards = -(-(int(number_in(root.fields.get("count"))) - added) // SHARD)
    if max(shards, added) > ADDED:  # its number would have more digits than a key has room for
        raise OddItem(root.key, f"it counts {shards} shards and {added} added members")
    numbers = [*range(shards), *range(ADDED + 1, ADDED + 1 + added)]
    keys = [shard_key(join, number) for number in numbers]
    found = backend.get(keys)
    return [id for key in keys for id in _ids(found.get(key))]


def count_member(join: str, id: str, backend: Backend) -> int:
    """Count one more member of a join, once, also where an answer is lost; return its number.

    Raises `BackendError`, and `ChordError` when the join is gone.
    """
    added = 0
    while True:
        change = Change(
            set={"added": added + 1},
            increment={"count": 1},
            add={"adders": frozenset({id})},
            keep_expires=True,
            when=(
                Check(field="follows", op=Op.EXISTS),
                Check(field="added", op=Op.EQ, value=added, or_absent=not added),
            ),
        )
        try:
            backend.insist(join_key(join), change)
        except ConditionFailed as refused:
            fields: Mapping[str, Value] = refused.current.fields if refused.current else {}
            adders = fields.get("adders")
            if "follows" not in fields:
                raise ChordError(EXPIRED.format(join)) from refused
            if isinstance(adders, frozenset) and id in adders:
                return added + 1
            added = int(number_in(fields.get("added")))
        else:
            return added + 1


def values_in(join: str, backend: Backend) -> list[Any]:
    """Return the values of a chord's members, in order. Raises `ChordError` if one is gone."""
    root = backend.get([join_key(join)]).get(join_key(join))
    if root is None:
        raise ChordError(EXPIRED.format(join))
    ids, count = members_in(join, root, backend), int(number_in(root.fields.get("count")))
    if len(ids) != count:
        raise ChordError(
            f"the join {join} has {count} members, of which the store shows {len(ids)}: "
            "a part of it was deleted, or has expired"
        )
    records = backend.records(ids)
    missing = next((id for id in ids if _unusable(records.get(id))), None)
    if missing is not None:
        raise ChordError(
            f"the value of member {missing} has expired: raise the setting result_expires"
        )
    return [load_value(value) if (value := records[id].value) else None for id in ids]


def _unusable(record: Record | None) -> bool:
    return record is None or record.state is not State.SUCCESS


def ends_in(join: str, backend: Backend) -> dict[str, Any] | None:
    """Return who waits for a chord's body, as its first shard has it; None if that is gone too."""
    first = shard_key(join, 0)
    shard = backend.get([first]).get(first)
    if shard is None or "ends" not in shard.fields:
        return None
    ends: Any = json_in(shard, "ends")
    if not is_object(ends) or not is_list(ends.get("ids")) or not ends["ids"]:
        raise OddItem(shard.key, "its ends name no body")
    return ends


def is_gone(refused: ConditionFailed) -> bool:
    """Tell whether a change was refused since there is no root item of a join."""
    return refused.current is None or "follows" not in refused.current.fields


def number_in(value: Value) -> float:
    return value if isinstance(value, int | float) and math.isfinite(value) else 0


def _ids(shard: Item | None) -> Sequence[str]:
    if shard is None:
        return ()
    ids: Any = json_in(shard, "ids")
    if not is_list(ids):
        raise OddItem(shard.key, "its ids are no list")
    return [str(id) for id in ids]


def has_begun(body: Record, call: Any, why: str) -> bool:
    """Tell whether this record of a body is more than a mark, and not the failure for `why`."""
    if body.state is State.PENDING or (call and is_before(body, call)):
        return False
    return (body.state, body.error) != (State.FAILURE, why)
