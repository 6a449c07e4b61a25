"""Calls of a bundle that differ in nothing but their arguments: checked once, made on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from cloudq.errors import DecodeError
from cloudq.messages.ids import bundled_id
from cloudq.messages.json_text import is_list, is_object
from cloudq.messages.message import TaskMessage, from_given_fields
from cloudq.messages.values import check_depth

PlainRow = tuple[int, list[Any] | None, dict[str, Any] | None]
"""The place of a call in its bundle, and its own arguments; None for those that all share."""

SCALARS = frozenset({str, int, float, bool, type(None)})
"""The types of values that no task can change."""


class PlainCalls(Sequence[TaskMessage]):
    """Calls of one bundle with the same fields, and arguments of their own.

    A message is made when it is first asked for, and kept.
    """

    __slots__ = ("_changeable", "_made", "bundle", "fields", "rows")

    def __init__(self, bundle: str, fields: dict[str, Any], rows: Sequence[PlainRow]) -> None:
        self.bundle = bundle
        self.fields = fields
        self.rows = rows
        self._changeable = changeable(fields)
        self._made: dict[int, TaskMessage] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> TaskMessage: ...
    @overload
    def __getitem__(self, index: slice) -> list[TaskMessage]: ...
    def __getitem__(self, index: int | slice) -> TaskMessage | list[TaskMessage]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self.rows))[index]]
        made = self._made.get(index)
        if made is None:
            made = self._made.setdefault(index, self._message(self.rows[index]))
        return made

    def id(self, index: int) -> str:
        """Return the id of a call."""
        return bundled_id(self.bundle, self.rows[index][0])

    def arguments(self, index: int) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call, of which no other has the same lists and objects."""
        _, args, kwargs = self.rows[index]
        if args is None:
            args = copied(self.fields.get("args", []))
        if kwargs is None:
            kwargs = copied(self.fields.get("kwargs", {}))
        return args, kwargs

    def headers(self) -> dict[str, str]:
        """Return the headers that all have, as a copy."""
        return dict(self.fields.get("headers", {}))

    def _message(self, row: PlainRow) -> TaskMessage:
        place, args, kwargs = row
        fields = {**self.fields, "id": bundled_id(self.bundle, place)}
        for name in self._changeable:
            fields[name] = copied(fields[name])
        if args is not None:
            fields["args"] = args
        if kwargs is not None:
            fields["kwargs"] = kwargs
        return from_given_fields(fields)


def plain_row(call: object) -> PlainRow | None:
    """Read a call that has nothing but arguments of its own, no deeper than they may be."""
    if not is_object(call):
        return None
    number, args, kwargs = call.get("n"), call.get("args"), call.get("kwargs")
    if type(number) is not int or not 0 <= number < 1 << 16:
        return None
    seen = 1
    if args is not None:
        if not is_list(args) or not (SCALARS.issuperset(map(type, args)) or _is_flat(args)):
            return None
        seen += 1
    if kwargs is not None:
        if not is_object(kwargs):
            return None
        if not (SCALARS.issuperset(map(type, kwargs.values())) or _is_flat(kwargs)):
            return None
        seen += 1
    return (number, args, kwargs) if seen == len(call) else None


def _is_flat(given: object) -> bool:
    try:
        check_depth(given)
    except DecodeError:
        return False
    return True


def changeable(fields: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of those fields that hold a list or an object."""
    return tuple(name for name, value in fields.items() if isinstance(value, dict | list))


def copied(value: Any) -> Any:
    """Copy a value of JSON, in which nothing is shared with the original that can change."""
    if is_object(value):
        if SCALARS.issuperset(map(type, value.values())):
            return value.copy()
        return {key: copied(each) for key, each in value.items()}
    if is_list(value):
        return [copied(each) for each in value]
    return value
