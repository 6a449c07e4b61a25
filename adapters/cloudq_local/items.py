"""The rules of an item's fields that both embedded backends keep: checks, changes, sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from cloudq.driver import Change, Check, Code, Op, Value

Fields = dict[str, Value]

_ORDERS: dict[Op, Callable[[int], bool]] = {
    Op.LT: lambda sign: sign < 0,
    Op.LE: lambda sign: sign <= 0,
    Op.GT: lambda sign: sign > 0,
    Op.GE: lambda sign: sign >= 0,
}


class Refusal(Exception):
    """The embedded service's own error: what cannot be done, with the code of its kind."""

    def __init__(self, reason: str, *, code: Code) -> None:
        super().__init__(reason)
        self.code = code


def stored(fields: Mapping[str, Value]) -> Fields:
    """Return the fields as they are kept: an empty set is an absent field."""
    return {name: value for name, value in fields.items() if value != frozenset()}


def holds(check: Check, fields: Mapping[str, Value]) -> bool:
    """Tell whether the check holds on an item's fields (none for a missing item)."""
    if check.field not in fields:
        return check.or_absent or check.op is Op.ABSENT
    return _compare(check.op, fields[check.field], check.value)


def changed(fields: Mapping[str, Value], change: Change) -> Fields:
    """Return the fields after the change, whose conditions hold."""
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


def size(fields: Mapping[str, Value]) -> int:
    """Return about how many bytes the fields take."""
    return sum(len(name) + _size(value) for name, value in fields.items())


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
    # The kinds are the same and have an order, which the type checker cannot know.
    a, b = cast("float", left), cast("float", right)
    return _ORDERS[op]((a > b) - (a < b))


def _kind(value: Value) -> type:
    """Return what a value can be compared with: numbers are one kind, and a bool is none."""
    return float if type(value) is int else type(value)


def _members(fields: Mapping[str, Value], name: str) -> frozenset[str]:
    value = fields.get(name, frozenset[str]())
    if not isinstance(value, frozenset):
        raise Refusal(f"field {name!r} holds no set", code=Code.INVALID)
    return value


def _size(value: Value) -> int:
    if isinstance(value, str):
        # Only text that could be over any limit is worth counting exactly.
        return len(value) if len(value) < 1024 else len(value.encode())
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, frozenset):
        return sum(map(len, value))
    return 8
