"""Bytes to `TaskMessage` and back, and Python values to plain JSON and back."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from typing import Any, cast
from uuid import UUID

import orjson
from pydantic import BaseModel, RootModel, ValidationError

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.message import VERSION, TaskMessage

MAX_DEPTH = 100
_INT64 = 2**63
_NO_VERSION = "foreign message: no cloudq version in it"

# What JSON cannot say is written as an object with one key: {"$uuid": "..."}.
_ENCODERS: dict[type, tuple[str, Callable[[Any], object]]] = {
    datetime: ("$datetime", datetime.isoformat),
    date: ("$date", date.isoformat),
    time: ("$time", time.isoformat),
    timedelta: ("$timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("$decimal", str),
    UUID: ("$uuid", str),
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode()),
    bytearray: ("$bytes", lambda value: base64.b64encode(value).decode()),
}
_DECODERS: dict[str, Callable[[Any], object]] = {
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": lambda value: timedelta(*value),
    "$decimal": Decimal,
    "$uuid": UUID,
    "$bytes": lambda value: base64.b64decode(value, validate=True),
    "$int": int,
    "$float": float,
    "$set": lambda value: set(from_wire(value)),
    "$frozenset": lambda value: frozenset(from_wire(value)),
    "$dict": lambda value: {from_wire(key): from_wire(item) for key, item in value},
}
# A subclass travels as what it extends.
_BASES: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (str, str),
    (int, int),
    (float, float),
    (list, list),
    (tuple, list),
    (dict, dict),
    (datetime, lambda value: datetime.fromisoformat(value.isoformat())),
)
_PLAIN = frozenset({str, bool, type(None)})


def to_wire(value: object, depth: int = 0) -> Any:
    """Turn a Python value into plain JSON. Raises `EncodeError`, naming the type at fault.

    Strings, numbers, lists and dicts stay as they are (a tuple becomes a list). Datetimes, dates,
    times, timedeltas, decimals, UUIDs, bytes, sets, and dicts with other keys than strings become
    tagged objects and come back as they were. Dataclasses and pydantic models become objects: the
    type hint of the parameter that receives them makes them whole again, for a message must not
    be able to name a class to build. An enum becomes its value in the same way.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if depth > MAX_DEPTH:
        raise EncodeError(f"arguments nest deeper than {MAX_DEPTH} levels")
    if kind is int:
        number = cast("int", value)
        return number if -_INT64 <= number < _INT64 else {"$int": _digits(number)}
    if kind is float:
        return value if math.isfinite(cast("float", value)) else {"$float": repr(value)}
    if kind is list or kind is tuple:
        return [to_wire(item, depth + 1) for item in cast("list[object]", value)]
    if kind is dict:
        return _mapping(cast("dict[object, object]", value), depth)
    if kind in _ENCODERS:
        tag, encode = _ENCODERS[kind]
        return {tag: encode(value)}
    return _other(value, depth)


def _digits(number: int) -> str:
    try:
        return str(number)
    except ValueError as error:  # Python's own limit; the reader would meet it too
        raise EncodeError(f"an integer of {number.bit_length()} bits: {error}") from error


def _mapping(value: Mapping[object, object], depth: int) -> object:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: to_wire(item, depth + 1) for key, item in value.items()}
    # The tag, the list and the pair are levels of their own, which the reader counts.
    pairs = [[to_wire(key, depth + 3), to_wire(item, depth + 3)] for key, item in value.items()]
    return {"$dict": pairs}


def _other(value: object, depth: int) -> object:
    if isinstance(value, RootModel):
        return to_wire(cast("RootModel[object]", value).root, depth)
    if isinstance(value, BaseModel):
        return to_wire({_alias(value, name): item for name, item in value}, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_wire(getattr(value, name), depth + 1) for name in names}
    if isinstance(value, Enum):
        return to_wire(value.value, depth)
    if isinstance(value, set | frozenset):
        items = sorted(cast("set[object]", value), key=repr)
        tag = "$set" if isinstance(value, set) else "$frozenset"
        return {tag: [to_wire(item, depth + 2) for item in items]}
    for base, plain in _BASES:
        if isinstance(value, base):
            return to_wire(plain(value), depth)
    raise EncodeError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot be sent: "
        "pass plain values, dataclasses, pydantic models or an id to look it up by"
    )


def _alias(model: BaseModel, name: str) -> str:
    """The key under which the model takes a field: what the reader validates."""
    field = type(model).model_fields.get(name)
    alias = field.validation_alias if field else None
    return alias if isinstance(alias, str) else name


def from_wire(value: Any) -> Any:
    """Turn plain JSON back into Python values. Raises `DecodeError` for a malformed tag."""
    if isinstance(value, list):
        return [from_wire(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    if len(fields) == 1:
        tag, content = next(iter(fields.items()))
        decode = _DECODERS.get(tag)
        if decode is not None:
            try:
                return decode(content)
            except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
                raise DecodeError(f"malformed {tag} value: {error}") from error
    return {key: from_wire(item) for key, item in fields.items()}


def dump_value(value: object) -> str:
    """A result as JSON text. Raises `EncodeError`."""
    return _json(to_wire(value)).decode()


def load_value(text: str) -> Any:
    """The result that `dump_value` wrote. Raises `DecodeError`."""
    try:
        plain = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"not JSON: {error}") from error
    return from_wire(plain) if '"$' in text else plain


def _json(value: object) -> bytes:
    try:
        body = orjson.dumps(value)
    except (TypeError, ValueError) as error:
        raise EncodeError(f"cannot be written as JSON: {error}") from error
    # Legal in JSON and in UTF-8, but outside the XML character set that SQS accepts.
    if b"\xef\xbf" in body:
        body = body.replace(b"\xef\xbf\xbe", b"\\ufffe").replace(b"\xef\xbf\xbf", b"\\uffff")
    return body


def encode(message: TaskMessage) -> bytes:
    """The message as compact JSON, defaults left out. Raises `EncodeError`."""
    fields: dict[str, object] = {"v": message.v, "id": message.id, "task": message.task}
    fields |= {
        name: value
        for name, value, default in zip(_OPTIONAL, _optional(message), _DEFAULTS, strict=True)
        if value != default
    }
    return _json(fields)


_OPTIONAL = tuple(name for name in TaskMessage.model_fields if name not in ("v", "id", "task"))
_DEFAULTS = tuple(
    TaskMessage.model_fields[name].get_default(call_default_factory=True) for name in _OPTIONAL
)
_optional = attrgetter(*_OPTIONAL)


def decode(body: bytes, *, limit: int) -> TaskMessage:
    """Read a body of at most `limit` bytes. Raises `DecodeError` with the reason to bury it by."""
    if len(body) > limit:
        raise DecodeError(f"oversized: {len(body):,} bytes, this app accepts {limit:,}")
    try:
        message = TaskMessage.model_validate_json(body)
    except ValidationError as error:
        raise DecodeError(_why(body, error)) from error
    if "v" not in message.model_fields_set:
        raise DecodeError(_NO_VERSION)
    if message.v != VERSION:
        raise DecodeError(_unknown_version(message.v))
    for given in (message.args, message.kwargs):
        if given:
            check_depth(given)
    return message


def arguments(message: TaskMessage) -> tuple[list[Any], dict[str, Any]]:
    """The Python values of a message's arguments. Raises `DecodeError`."""
    return from_wire(message.args), {key: from_wire(item) for key, item in message.kwargs.items()}


def _unknown_version(version: object) -> str:
    return f"unknown version {version}: this release reads version {VERSION}, upgrade the worker"


def _why(body: bytes, error: ValidationError) -> str:
    try:
        plain = orjson.loads(body)
    except orjson.JSONDecodeError:
        return f"undecodable: {error.errors()[0]['msg']}"
    if not isinstance(plain, dict):
        return "foreign message: JSON, but not an object"
    fields = cast("dict[str, object]", plain)
    if fields.get("v") != VERSION and "v" in fields:
        return _unknown_version(fields["v"])
    if "v" not in fields:
        return _NO_VERSION
    first = error.errors()[0]
    place = [".".join(map(str, first["loc"]))] if first["loc"] else []
    return ": ".join(["undecodable", *place, first["msg"]])


def check_depth(value: object) -> None:
    """Refuse deep nesting with a loop, since recursion is what deep nesting breaks."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 4):
        level = [item for parent in level for item in _children(parent)]
        if not level:
            return
    raise DecodeError(f"arguments nest deeper than {MAX_DEPTH} levels")


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        items = list(cast("dict[str, object]", value).values())
    elif isinstance(value, list):
        items = cast("list[object]", value)
    else:
        return []
    return [item for item in items if isinstance(item, dict | list)]
