"""Evaluates checks and applies changes, for stores that can only replace a whole item.

A store whose service decides conditions by itself, as DynamoDB does, needs none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from cloudq.driver import Change, Check, Code, ConditionFailed, Item, Key, Op, Value

Fields = dict[str, Value]

# The signs of `left - right` for which the comparison holds.
_SIGNS = {Op.LT: (-1,), Op.LE: (-1, 0), Op.GT: (1,), Op.GE: (0, 1)}


class Refusal(Exception):
    """A request that a driver refuses without asking its service; `code` says of which kind."""

    def __init__(self, reason: str, *, code: Code) -> None:
        super().__init__(reason)
        self.code = code


def apply(change: Change, key: Key, current: Item | None) -> Item:
    """Return the item after a change; `current` is None if it is absent or has expired.

    Raises `ConditionFailed`, and `Refusal` where a field's value has the wrong type for it.
    """
    fields: Mapping[str, Value] = current.fields if current else {}
    if not all(holds(check, fields) for check in change.when):
        raise ConditionFailed(current)
    kept = current.expires if current else None
    return Item(
        key=key,
        fields=changed(fields, change),
        expires=kept if change.keep_expires else change.expires,
    )


def stored(fields: Mapping[str, Value]) -> Fields:
    """Return the fields as they are kept: an empty set is an absent field."""
    return {name: value for name, value in fields.items() if value != frozenset()}


def holds(check: Check, fields: Mapping[str, Value]) -> bool:
    """Tell whether the check holds on an item's fields (none for a missing item)."""
    if check.field not in fields:
        return check.or_absent or check.op is Op.ABSENT
    return _compare(check.op, fields[check.field], check.value)


def changed(fields: Mapping[str, Value], change: Change) -> Fields:
    """Return the fields after the change, whose conditions hold. Raises `Refusal`."""
    after = {**fields, **change.set}
    for name, step in change.increment.items():
        number = fields.get(name, 0)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise Refusal(f"field {name!r} holds no number to increment", code=Code.INVALID)
        after[name] = number + step
    for name, members in change.add.items():
        after[name] = _members(fields, name) | members
    for name, members in change.discard.items():
        after[name] = _members(fields, name) - members
    for name in change.remove:
        after.pop(name, None)
    return stored(after)


def _compare(op: Op, left: Value, right: Value) -> bool:
    if op is Op.EXISTS or op is Op.ABSENT:
        return op is Op.EXISTS
    if op is Op.CONTAINS:
        return isinstance(left, frozenset) and right in left
    alike = _kind(left) is _kind(right)
    if op is Op.EQ or op is Op.NE:
        return (alike and left == right) is (op is Op.EQ)
    if not alike or _kind(left) not in (float, str, bytes):
        return False
    # Both are of one kind that has an order, which the type checker cannot know.
    a, b = cast("float", left), cast("float", right)
    return (a > b) - (a < b) in _SIGNS[op]


def _kind(value: Value) -> type:
    """Return the kind of a value for comparisons: int and float are one, bool is another."""
    return float if type(value) is int else type(value)


def _members(fields: Mapping[str, Value], name: str) -> frozenset[str]:
    value = fields.get(name, frozenset[str]())
    if not isinstance(value, frozenset):
        raise Refusal(f"field {name!r} holds no set", code=Code.INVALID)
    return value
