"""Plain bodies: the fields and the JSON of a `TaskMessage`, and the values of its arguments."""

from __future__ import annotations

from typing import Any

import orjson

from cloudq.driver.forks import imported
from cloudq.errors import DecodeError
from cloudq.messages.fields import END_OF_TIME
from cloudq.messages.json_text import has_unusual
from cloudq.messages.message import DEFAULTS, VERSION, TaskMessage, WrongField, from_object
from cloudq.messages.serializers import PICKLE, unpickled
from cloudq.messages.size import MOST_CONTAINERS, check_text, check_written
from cloudq.messages.values import (
    MAX_DEPTH,
    check_depth,
    from_wire,
    is_object,
    json_bytes,
    plain_numbers,
)

_MOST_SETS = 500
# Levels that pydantic's parser of JSON reads.
_DEEPEST = 200

_NO_VERSION = "foreign message: no cloudq version in it"

_OPTIONAL = [item for item in DEFAULTS.items() if item[0] != "v"]
# The optional fields of messages that were given the same ones.
_GIVEN: dict[frozenset[str], list[tuple[str, Any]]] = {}


def is_time(value: object) -> bool:
    """Tell whether a message takes a value for a `Time` as it is."""
    return type(value) is float and 0 <= value < END_OF_TIME


def encode(message: TaskMessage) -> bytes:
    """Write a message as compact JSON, defaults left out. Raises `EncodeError`."""
    fields: dict[str, object] = {"v": message.v, "id": message.id, "task": message.task}
    _add_given(fields, message)
    body = json_bytes(fields)
    if len(body) > MOST_CONTAINERS:
        check_written(body)
    return body


def fields_to_send(message: TaskMessage) -> dict[str, object]:
    """Return the fields of a message but its version and its id, defaults left out."""
    fields: dict[str, object] = {"task": message.task}
    _add_given(fields, message)
    return fields


def _add_given(fields: dict[str, object], message: TaskMessage) -> None:
    values = message.__dict__
    for name, default in _given(message):
        value = values[name]
        if value != default:
            fields[name] = value


def _given(message: TaskMessage) -> list[tuple[str, Any]]:
    """Return the optional fields that a message was given, in their order, and their defaults."""
    given = message.model_fields_set
    found = _GIVEN.get(given)
    if found is None:
        found = [item for item in _OPTIONAL if item[0] in given]
        if len(_GIVEN) < _MOST_SETS:
            _GIVEN[given] = found
    return found


def decode(body: bytes, *, limit: int) -> TaskMessage:
    """Read a body of at most `limit` bytes.

    Raises `DecodeError` with the reason for which the message is dead-lettered.
    """
    if len(body) > limit:
        raise DecodeError(f"oversized: {len(body):,} bytes, this app accepts {limit:,}")
    if len(body) > MOST_CONTAINERS:
        check_text(body)
    unusual, levels = has_unusual(body), _most_levels(body)
    message = None if unusual or levels > _DEEPEST else _plain(body)
    if message is None:
        try:
            message = _judged(body)
        except WrongField as error:
            raise DecodeError(_reason(body, error)) from error
    if "v" not in message.model_fields_set:
        raise DecodeError(_NO_VERSION)
    if message.v != VERSION:
        raise DecodeError(unknown_version(message.v))
    if levels > MAX_DEPTH:
        check_depth(message.args)
        check_depth(message.kwargs)
    return writable(message) if unusual else message


def _most_levels(body: bytes) -> int:
    """Return how deep a text nests at most: pydantic's parser stops where another would not."""
    return body.count(b"{") + body.count(b"[")


def _plain(body: bytes) -> TaskMessage | None:
    """Read a message that is plainly right; None for any other."""
    try:
        return from_object(orjson.loads(body))
    except orjson.JSONDecodeError:
        return None


def _judged(body: bytes) -> TaskMessage:
    """Have pydantic read a message. Raises `WrongField`."""
    message: TaskMessage = imported("cloudq.messages.model").read_json(body)
    return message


def writable(message: TaskMessage) -> TaskMessage:
    """Tag the numbers that JSON's writers would change or refuse. Raises `DecodeError`."""
    changed = {
        name: plain_numbers(value)
        for name in ("args", "kwargs", "chain", "link", "link_error")
        if (value := getattr(message, name))
    }
    return message.model_copy(update=changed)


def arguments(message: TaskMessage) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a message as Python values. Raises `DecodeError`.

    Those of a pickled message are unpickled, which runs code: `Codec.decode` lets a pickled
    message through only if it is signed and pickle is accepted.
    """
    if message.serializer == PICKLE:
        args = [unpickled(arg, from_wire) for arg in message.args]
        return args, {key: unpickled(arg, from_wire) for key, arg in message.kwargs.items()}
    return from_wire(message.args), {key: from_wire(item) for key, item in message.kwargs.items()}


def fields_of(body: bytes) -> dict[str, Any] | None:
    """Return the fields of a plain body of this version, unchecked; None for any other."""
    try:
        check_text(body)
        plain: object = (
            imported("pydantic_core").from_json(body) if has_unusual(body) else orjson.loads(body)
        )
    except (ValueError, DecodeError):
        return None
    return plain if is_object(plain) and plain.get("v") == VERSION else None


def version_of(body: bytes) -> object:
    """Return the version that a plain body says; None for what is no JSON object."""
    try:
        plain: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return plain.get("v") if is_object(plain) else None


def unknown_version(version: object) -> str:
    """Say why a body of another version is not read."""
    shown = str(version)[:32] if isinstance(version, str | int | float) else "of no known form"
    return f"unknown version {shown}: this release reads version {VERSION}, upgrade the worker"


def _reason(body: bytes, error: WrongField) -> str:
    """Says why a body is no message of this version."""
    try:
        plain: object = orjson.loads(body)
    except orjson.JSONDecodeError:  # it is stricter about numbers
        return at_fault(error)
    if not is_object(plain):
        return "foreign message: JSON, but not an object"
    if "v" not in plain:
        return _NO_VERSION
    if plain["v"] != VERSION:
        return unknown_version(plain["v"])
    return at_fault(error)


def at_fault(error: WrongField) -> str:
    """Say which field of a body is wrong."""
    return f"undecodable: {error}"
