"""Converts items of cloudq to DynamoDB's attribute values and back, without any loss.

DynamoDB has one kind of number, of 38 decimal digits, and no way to tell 2 from 2.0. So that both
come back as they were, a whole number that is a float has a mark beside it: a field `x` that is
2.0 is `x` = N 2 and `float:x` = BOOL true. Numbers that DynamoDB cannot hold (infinities, -0.0,
more digits or a larger exponent) are a map of one string, `{"float": "inf"}`: they come back
exactly, and cannot be compared or incremented.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from cloudq.driver import Item, Key, Value, fitting
from cloudq.driver.log import Log
from cloudq_aws.answers import cut, told

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

log = Log("cloudq.backend")

PARTITION, SORT, EXPIRES = "pk", "sk", "expires"
_RESERVED = frozenset({PARTITION, SORT, EXPIRES})
_MARK = "float:"
_ESCAPE = "field:"
_DIGITS = 38
_TOO_LONG = 10**_DIGITS
# DynamoDB takes magnitudes from 1E-130 to 9.99E+125; a float in here has at most 17 digits.
_SMALLEST, _LARGEST = 1e-130, 9e125
# A type descriptor and an element of a set or a map, as DynamoDB counts an item's size.
_OVERHEAD = 3
# Bytes of keys: its quotas, "Partition keys and sort keys".
LONGEST_PARTITION, LONGEST_SORT = 2048, 1024


@lru_cache(maxsize=1024)
def attribute_name(field: str) -> str:
    """The attribute that holds a field: its own name, unless the table's layout needs that."""
    if field in _RESERVED or field.startswith((_ESCAPE, _MARK)):
        return _ESCAPE + field
    return field


def mark_name(field: str) -> str:
    """The attribute that marks a field's whole number as a float."""
    return _MARK + attribute_name(field)


def needs_mark(value: Value) -> bool:
    """Tell whether a float would come back as an int without a mark."""
    return isinstance(value, float) and value.is_integer() and _fits(value)


def key_attributes(key: Key) -> dict[str, AttributeValueTypeDef]:
    """The primary key of an item."""
    return {PARTITION: {"S": partition_text(key.partition)}, SORT: {"S": key.sort}}


def partition_text(partition: str) -> str:
    """Return a partition as DynamoDB takes it for a key."""
    return fitting(partition, _is_short)


def _is_short(partition: str) -> bool:
    # No text of fewer characters has more bytes, and most have fewer.
    return len(partition) <= LONGEST_PARTITION // 4 or len(partition.encode()) <= LONGEST_PARTITION


def stored_key(key: Key) -> Key:
    """Return the key under which DynamoDB knows an item."""
    return Key(partition_text(key.partition), key.sort)


def expiry(expires: float) -> AttributeValueTypeDef:
    """The expiry as DynamoDB's TTL wants it: whole seconds, rounded up."""
    return {"N": str(math.ceil(expires))}


def to_attribute(value: Value) -> AttributeValueTypeDef:
    """One value that is no empty set (which is an absent field) as an attribute."""
    match value:
        case bool():
            return {"BOOL": value}
        case None:
            return {"NULL": True}
        case str():
            return {"S": value}
        case bytes():
            return {"B": value}
        case int() | float():
            return _number(value)
        case _:
            return {"SS": sorted(value)}


def _number(value: int | float) -> AttributeValueTypeDef:
    if _fits(value):
        return {"N": repr(value)}
    return {"M": {type(value).__name__: {"S": repr(value)}}}


def _fits(value: int | float) -> bool:
    if isinstance(value, int):
        return abs(value) < _TOO_LONG
    if not value:
        return math.copysign(1.0, value) > 0
    return _SMALLEST < abs(value) < _LARGEST


def _from_attribute(attribute: Mapping[str, Any], *, marked: bool) -> Value:
    if not attribute:
        raise cut("an attribute has no value")
    kind, value = next(iter(attribute.items()))
    match kind:
        case "N":
            return _read_number(value, marked=marked)
        case "NULL":
            return None
        case "SS":
            return frozenset(cast("list[str]", value))
        case "M":
            ((name, text),) = cast("dict[str, dict[str, str]]", value).items()
            return (float if name == "float" else int)(text["S"])
        case "B":
            return bytes(value)
        case "S" | "BOOL":
            return cast("Value", value)
        case _:
            raise TypeError(f"a value of the type {kind}")


def _read_number(text: str, *, marked: bool) -> int | float:
    try:
        return float(text) if marked or not text.lstrip("-").isdigit() else int(text)
    except ValueError as error:
        raise cut(f"a number is {text[:40]!r}") from error


def to_attributes(item: Item) -> dict[str, AttributeValueTypeDef]:
    """A whole item, its key and its expiry."""
    attributes = key_attributes(item.key)
    if item.expires is not None:
        attributes[EXPIRES] = expiry(item.expires)
    for field, value in item.fields.items():
        if type(value) is str:  # as most are
            attributes[attribute_name(field)] = {"S": value}
            continue
        if value == frozenset():
            continue
        attributes[attribute_name(field)] = to_attribute(value)
        if needs_mark(value):
            attributes[mark_name(field)] = {"BOOL": True}
    return attributes


def from_attributes(attributes: Mapping[str, Any], key: Key | None = None) -> Item:
    """An item as DynamoDB answers it; `key` is its own one, where that is known."""
    fields: dict[str, Value] = {}
    for name, attribute in attributes.items():
        if name in _RESERVED or name.startswith(_MARK):
            continue
        try:
            value = _from_attribute(attribute, marked=_MARK + name in attributes)
        except (TypeError, ValueError, LookupError) as error:  # another program wrote it
            log.warning("field %r of an item is left out: %s", name, error)
        else:
            fields[name.removeprefix(_ESCAPE)] = value
    return Item(key=key or key_in(attributes), fields=fields, expires=expires_in(attributes))


def expires_in(attributes: Mapping[str, Any]) -> float | None:
    """Return when an item ends, in epoch seconds."""
    end = attributes.get(EXPIRES, {}).get("N")
    return None if end is None else _read_number(end, marked=True)


def key_in(attributes: Mapping[str, Any]) -> Key:
    """Return the key under which DynamoDB has an item."""
    return Key(*(told(told(attributes, name), "S") for name in (PARTITION, SORT)))


def size(fields: Iterable[tuple[str, Value]]) -> int:
    """Return the bytes of fields as DynamoDB counts them, rather too many than too few."""
    total = 0
    for name, value in fields:
        if type(value) is str and value.isascii():  # as most are
            total += _length(name) + len(value) + _OVERHEAD
        else:
            total += _length(name) + _size(value) + _OVERHEAD
    return total


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _size(value: Value) -> int:
    match value:
        case str():
            return _length(value)
        case bytes():
            return len(value)
        case frozenset():
            return sum(len(member.encode()) + 1 for member in value)
        case bool() | None:
            return 1
        case _:
            return len(repr(value)) // 2 + 2
