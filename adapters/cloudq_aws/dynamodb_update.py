"""Translates a `Change` to DynamoDB's expressions, and applies one to an absent item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cloudq.driver import Change, Check, Item, Key, Op, Value
from cloudq_aws.dynamodb_items import (
    EXPIRES,
    attribute_name,
    expiry,
    mark_name,
    needs_mark,
    to_attribute,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

_COMPARISONS = frozenset({Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE})


@dataclass(slots=True, kw_only=True)
class Expressions:
    """Expressions under construction: every name is a placeholder, so none can be reserved."""

    names: dict[str, str] = field(default_factory=dict[str, str])
    values: dict[str, AttributeValueTypeDef] = field(
        default_factory=dict[str, "AttributeValueTypeDef"]
    )
    _known: dict[str, str] = field(default_factory=dict[str, str])

    def name(self, attribute: str) -> str:
        """The placeholder of an attribute's name."""
        if attribute not in self._known:
            placeholder = self._known[attribute] = f"#{len(self.names)}"
            self.names[placeholder] = attribute
        return self._known[attribute]

    def value(self, attribute: AttributeValueTypeDef) -> str:
        """A placeholder for a value."""
        placeholder = f":{len(self.values)}"
        self.values[placeholder] = attribute
        return placeholder

    def alive(self, now: float) -> str:
        """The condition that an item is absent or has not expired."""
        expires = self.name(EXPIRES)
        return f"(attribute_not_exists({expires}) OR {expires} > {self._time(now)})"

    def expired(self, now: float) -> str:
        """The condition that there is an item, which has expired."""
        return f"{self.name(EXPIRES)} <= {self._time(now)}"

    def _time(self, now: float) -> str:
        return self.value({"N": repr(now)})

    def check(self, check: Check) -> str:
        """The condition of one check."""
        path = self.name(attribute_name(check.field))
        absent = f"attribute_not_exists({path})"
        if check.op is Op.ABSENT or (check.op is Op.EQ and check.value == frozenset()):
            return absent
        condition = self._present(check, path)
        return f"({absent} OR {condition})" if check.or_absent else condition

    def _present(self, check: Check, path: str) -> str:
        exists = f"attribute_exists({path})"
        if check.op is Op.EXISTS or (check.op is Op.NE and check.value == frozenset()):
            return exists
        operand = self.value(to_attribute(check.value))
        if check.op is Op.CONTAINS:
            return f"contains({path}, {operand})"
        # An absent attribute is unequal to everything for DynamoDB; a check means a field.
        prefix = f"{exists} AND " if check.op is Op.NE else ""
        return f"({prefix}{path} {check.op.value} {operand})"

    def update(self, change: Change) -> str:
        """The update expression of a change."""
        clauses: dict[str, list[str]] = {"SET": [], "REMOVE": [], "ADD": [], "DELETE": []}
        for name, value in change.set.items():
            self._set(clauses, name, value)
        for name in change.remove:
            clauses["REMOVE"] += [self.name(attribute_name(name)), self.name(mark_name(name))]
        for name, amount in change.increment.items():
            clauses["ADD"].append(f"{self.name(attribute_name(name))} {self._operand(amount)}")
            if isinstance(amount, float):  # an int plus a float is a float
                clauses["SET"].append(self._mark(name))
        for clause, sets in (("ADD", change.add), ("DELETE", change.discard)):
            for name, members in sets.items():
                if members:
                    path = self.name(attribute_name(name))
                    clauses[clause].append(f"{path} {self._operand(members)}")
        if change.expires is not None:
            clauses["SET"].append(f"{self.name(EXPIRES)} = {self.value(expiry(change.expires))}")
        elif not change.keep_expires:
            clauses["REMOVE"].append(self.name(EXPIRES))
        return " ".join(f"{word} {', '.join(parts)}" for word, parts in clauses.items() if parts)

    def _set(self, clauses: Mapping[str, list[str]], name: str, value: Value) -> None:
        path = self.name(attribute_name(name))
        if value == frozenset():
            clauses["REMOVE"].append(path)
            return
        clauses["SET"].append(f"{path} = {self._operand(value)}")
        if needs_mark(value):
            clauses["SET"].append(self._mark(name))
        elif isinstance(value, int) and not isinstance(value, bool):
            # Only a number minds a mark, so nothing else needs to take it away.
            clauses["REMOVE"].append(self.name(mark_name(name)))

    def _operand(self, value: Value) -> str:
        return self.value(to_attribute(value))

    def _mark(self, name: str) -> str:
        return f"{self.name(mark_name(name))} = {self.value({'BOOL': True})}"


def holds_on_nothing(check: Check) -> bool:
    """Tell whether a check holds where there is no item."""
    if check.op is Op.ABSENT or check.or_absent:
        return True
    return check.op is Op.EQ and check.value == frozenset()


def made_of_nothing(key: Key, change: Change) -> Item:
    """Return the item that a change creates where there was none."""
    fields = {**change.set, **change.increment, **change.add}
    return Item(key=key, fields=fields, expires=change.expires)
