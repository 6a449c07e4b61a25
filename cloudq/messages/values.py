"""Python values to the plain JSON of a message or a result, and back."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import orjson

from cloudq.driver.forks import imported
from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.json_text import is_list, is_object, json_bytes
from cloudq.messages.model_classes import is_model, is_root_model, is_secret
from cloudq.messages.numbers import decimal_of, decimal_text, float_of, integer_of, integer_text
from cloudq.messages.sealed_text import is_sealed, why_sealed
from cloudq.messages.size import spread, spread_pairs
from cloudq.messages.zones import read_datetime, read_time, write_datetime, write_time

if TYPE_CHECKING:
    from pydantic import RootModel

MAX_DEPTH = 100
_INT64 = 2**63
_SCALARS = frozenset({str, bool, type(None)})
_READ_AS_THEY_ARE = frozenset({str, int, float, bool, type(None)})


class TupleValue(tuple[Any, ...]):
    """The tuple that is an enum's value, which stays one when it is written again."""

    __slots__ = ()


# ---- Python to JSON


def to_wire(value: object, depth: int = 0) -> Any:
    """Turn a Python value into plain JSON. Raises `EncodeError`, naming the type at fault.

    Strings, numbers, lists and dicts stay as they are (a tuple becomes a list, but stays one in a
    dict's key and in a set). Datetimes, dates, times, timedeltas, decimals, UUIDs, bytes, sets,
    pydantic's secrets, and dicts with other keys than strings become tagged objects and come back
    as they were.
    Dataclasses and pydantic models become objects: the type hint of the parameter that receives
    them makes them whole again, for a message must not be able to name a class to build. An enum
    becomes its value in the same way. Keys and members that would not be hashable, or not be
    distinct, where they are read are refused.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if depth > MAX_DEPTH:
        raise _too_deep()
    write = _WRITERS.get(kind)
    if write is not None:
        return write(value, depth)
    if kind in _TAGGED:
        tag, encode = _TAGGED[kind]
        return {tag: encode(value)}
    return _other(value, depth)


def _too_deep() -> EncodeError:
    return EncodeError(
        f"arguments nest deeper than {MAX_DEPTH} levels: a dict with other keys than texts counts "
        "as three of them, a set, and a tuple in one or in a key, as two"
    )


def _integer(number: int, depth: int) -> object:
    if -_INT64 <= number < _INT64:
        return number
    return {"$int": integer_text(number)}


def _number(number: float, depth: int) -> object:
    return number if math.isfinite(number) else {"$float": repr(number)}


def _sequence(items: list[object] | tuple[object, ...], depth: int) -> object:
    return [item if type(item) in _SCALARS else to_wire(item, depth + 1) for item in items]


def _mapping(value: dict[object, object], depth: int) -> object:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: to_wire(item, depth + 1) for key, item in value.items()}
    # The tag, the list and the pair are levels of their own, which the reader counts.
    keys = [_hashable(key, depth + 3) for key in value]
    _check_distinct("a dict's key", value, keys)
    items = (to_wire(item, depth + 3) for item in value.values())
    return {"$dict": [[key, item] for key, item in zip(keys, items, strict=True)]}


def _members(value: set[object] | frozenset[object], depth: int) -> object:
    items = [_hashable(item, depth + 2) for item in value]
    _check_distinct("a set's member", value, items)
    # Sorted as they are written, since the order of a set differs between processes.
    return {"$set" if isinstance(value, set) else "$frozenset": sorted(items, key=repr)}


def _hashable(value: Any, depth: int) -> Any:
    """Write a dict's key or a set's member: tuples stay tuples, for a list is not hashable."""
    if type(value) in _SCALARS:
        return value
    if depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, Enum):
        return _hashable(value.value, depth + 1)
    if is_root_model(value):
        return _hashable(value.root, depth + 1)
    if issubclass(type(value), tuple):
        return {"$tuple": [_hashable(item, depth + 2) for item in value]}
    return to_wire(value, depth)


def _check_distinct(what: str, given: Collection[object], written: Sequence[Any]) -> None:
    """Refuse keys or members that could not be read, or of which two would be read as one."""
    if all(type(item) in _DISTINCT for item in given):
        return
    # Numbers that are none differ for Python, and would be one where they are read.
    is_one = len(set(map(repr, written))) < len(given)
    read: set[object] = set()
    for item, wire in zip(given, written, strict=True):
        try:
            read.add(from_wire(wire))
        except (TypeError, DecodeError) as error:
            raise EncodeError(
                f"a {type(item).__qualname__} cannot be sent as {what}, for it would arrive as "
                "plain values that are not hashable: use a text, a number or a tuple of those"
            ) from error
    if is_one or len(read) < len(given):
        raise EncodeError(f"two values cannot both be sent as {what}: they would arrive as one")


_WRITERS: Mapping[type, Callable[[Any, int], object]] = {
    int: _integer,
    float: _number,
    list: _sequence,
    tuple: _sequence,
    dict: _mapping,
    set: _members,
    frozenset: _members,
    TupleValue: _hashable,
}


def _timedelta_parts(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _base64_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


# What JSON cannot say is written as an object with one key: {"$uuid": "..."}.
_TAGGED: Mapping[type, tuple[str, Callable[[Any], object]]] = {
    datetime: ("$datetime", write_datetime),
    date: ("$date", date.isoformat),
    time: ("$time", write_time),
    timedelta: ("$timedelta", _timedelta_parts),
    Decimal: ("$decimal", decimal_text),
    UUID: ("$uuid", str),
    bytes: ("$bytes", _base64_text),
    bytearray: ("$bytes", _base64_text),
}
# Keys and members of these types come back equal and hashable; floats may be none (NaN).
_DISTINCT = _SCALARS | {int} | (_TAGGED.keys() - {bytearray, Decimal})


def _other(value: object, depth: int) -> object:
    if (own := getattr(type(value), "__wire__", None)) is not None:  # of a payload store
        return own(value)
    if isinstance(value, Enum):
        # A tuple stays one, since the members of the class are found by their values.
        return _hashable(value.value, depth + 1)
    if is_root_model(value):
        return to_wire(cast("RootModel[object]", value).root, depth + 1)
    if is_model(value):
        return to_wire(_models().fields_of(value), depth)
    if is_secret(value):
        return {"$secret": to_wire(value.get_secret_value(), depth + 1)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_wire(_dataclass_fields(value), depth)
    for base, plain in _BASES:
        if isinstance(value, base):
            return to_wire(plain(value), depth)
    if (ids := getattr(type(value), "as_tuple", None)) is not None:  # a result, by its ids
        return to_wire(ids(value), depth)
    raise EncodeError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot be sent: "
        "pass plain values, dataclasses, pydantic models or an id to look it up by"
    )


@cache
def _models() -> Any:
    return imported("cloudq.messages.models")


def _dataclass_fields(value: Any) -> dict[str, object]:
    """Return a dataclass's fields by the names that pydantic, at the reader, expects."""
    kind = cast("Any", type(value))
    known: Mapping[str, Any] = getattr(kind, "__pydantic_fields__", {})
    made: dict[str, object] = {}
    for field in dataclasses.fields(value):
        alias = getattr(known.get(field.name), "validation_alias", None)
        name = alias if isinstance(alias, str) else field.name
        made[name] = getattr(value, field.name)
    return made


def _plain_datetime(value: datetime) -> datetime:
    return datetime.combine(_plain_date(value), value.timetz())


def _plain_date(value: date) -> date:
    return date(value.year, value.month, value.day)


def _plain_time(value: time) -> time:
    return time(
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        tzinfo=value.tzinfo,
        fold=value.fold,
    )


def _plain_span(value: timedelta) -> timedelta:
    return timedelta(value.days, value.seconds, value.microseconds)


def _plain_uuid(value: UUID) -> UUID:
    return UUID(int=value.int)


# A subclass is sent as the type that it extends.
_BASES: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (list, list),
    (tuple, list),
    (dict, dict),
    (set, set),
    (frozenset, frozenset),
    (bytes, bytes),
    (datetime, _plain_datetime),
    (date, _plain_date),
    (time, _plain_time),
    (timedelta, _plain_span),
    (Decimal, Decimal),
    (UUID, _plain_uuid),
)


# ---- JSON to Python


def from_wire(value: Any) -> Any:
    """Turn plain JSON back into Python values. Raises `DecodeError` for a malformed tag."""
    if type(value) in _READ_AS_THEY_ARE:
        return value
    if is_list(value):
        return [each if type(each) in _READ_AS_THEY_ARE else from_wire(each) for each in value]
    if not is_object(value):
        return value
    if len(value) == 1:
        tag, content = next(iter(value.items()))
        decode = _DECODERS.get(tag)
        if decode is not None:
            try:
                return decode(content)
            except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
                raise DecodeError(f"malformed {tag} value: {error}") from error
    return {key: from_wire(item) for key, item in value.items()}


def _timedelta_of(parts: Any) -> timedelta:
    days, seconds, microseconds = parts
    return timedelta(days, seconds, microseconds)


def _bytes_of(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)


def _items_of(items: Any) -> list[Any]:
    if not is_list(items):
        raise TypeError("it has no list")
    return [from_wire(item) for item in items]


def _members_of(items: Any) -> list[Any]:
    return spread(list(map(_member_of, _items_of(items))))


def _member_of(value: Any) -> Any:
    return tuple(map(_member_of, value)) if type(value) is TupleValue else value


def _set_of(items: Any) -> set[Any]:
    return set(_members_of(items))


def _frozenset_of(items: Any) -> frozenset[Any]:
    return frozenset(_members_of(items))


def _tuple_of(items: Any) -> TupleValue:
    return TupleValue(_items_of(items))


def _dict_of(pairs: Any) -> dict[Any, Any]:
    return dict(
        spread_pairs([(_member_of(from_wire(key)), from_wire(item)) for key, item in pairs])
    )


def _by(room: str, reader: str, content: Any) -> Any:
    return getattr(imported(f"cloudq.messages.{room}"), reader)(content)


_DECODERS: Mapping[str, Callable[[Any], object]] = {
    "$blob": partial(_by, "payloads", "read_claim"),
    "$file": partial(_by, "files", "read_file"),
    "$secret": partial(_by, "secret_values", "read_secret"),
    "$datetime": read_datetime,
    "$date": date.fromisoformat,
    "$time": read_time,
    "$timedelta": _timedelta_of,
    "$decimal": decimal_of,
    "$uuid": UUID,
    "$bytes": _bytes_of,
    "$int": integer_of,
    "$float": float_of,
    "$set": _set_of,
    "$frozenset": _frozenset_of,
    "$tuple": _tuple_of,
    "$dict": _dict_of,
}


# ---- as text


def dump_value(value: object) -> str:
    """Write a result as JSON text. Raises `EncodeError`."""
    return json_bytes(to_wire(value)).decode()


def load_value(text: str) -> Any:
    """Read the result that `dump_value` wrote. Raises `DecodeError`."""
    try:
        plain = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DecodeError(why_sealed(text) if is_sealed(text) else f"not JSON: {error}") from error
    if '"$' not in text:
        return plain
    if text.count("[") + text.count("{") > MAX_DEPTH:
        check_depth(plain)
    return from_wire(plain)


def plain_numbers(value: Any) -> Any:
    """Tag the numbers of read JSON that cannot be written as JSON again, as `to_wire` does."""
    if is_list(value):
        return [plain_numbers(item) for item in value]
    if is_object(value):
        return {key: plain_numbers(item) for key, item in value.items()}
    return _WRITERS[type(value)](value, 0) if type(value) in (int, float) else value


_NESTED = (dict, list)


def check_depth(value: object, most: int = MAX_DEPTH, *, what: str = "arguments") -> None:
    """Refuse deep nesting with a loop, since recursion is what deep nesting breaks."""
    level: list[Any] = [value] if isinstance(value, _NESTED) else []
    for _ in range(most + 4):
        if not level:
            return
        level = [
            item
            for parent in level
            for item in (parent.values() if issubclass(type(parent), dict) else parent)
            if isinstance(item, _NESTED)
        ]
    raise DecodeError(f"{what} nest deeper than {most} levels")
