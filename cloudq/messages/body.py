"""Plain bodies: the JSON of a `TaskMessage`, and the Python values of its arguments."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import ValidationError

from cloudq.errors import DecodeError
from cloudq.messages.message import DEFAULTS, VERSION, TaskMessage
from cloudq.messages.serializers import PICKLE, unpickled
from cloudq.messages.size import MOST_CONTAINERS, check_text, check_written
from cloudq.messages.values import (
    check_depth,
    from_wire,
    has_unusual,
    is_object,
    json_bytes,
    plain_numbers,
)

_NO_VERSION = "foreign message: no cloudq version in it"

_OPTIONAL = [item for item in DEFAULTS.items() if item[0] != "v"]


def encode(message: TaskMessage) -> bytes:
    """Write a message as compact JSON, defaults left out. Raises `EncodeError`."""
    fields: dict[str, object] = {"v": message.v, "id": message.id, "task": message.task}
    values, given = message.__dict__, message.model_fields_set
    fields |= {
        name: value
        for name, default in _OPTIONAL
        if name in given and (value := values[name]) != default
    }
    body = json_bytes(fields)
    if len(body) > MOST_CONTAINERS:
        check_written(body)
    return body


def decode(body: bytes, *, limit: int) -> TaskMessage:
    """Read a body of at most `limit` bytes.

    Raises `DecodeError` with the reason for which the message is dead-lettered.
    """
    if len(body) > limit:
        raise DecodeError(f"oversized: {len(body):,} bytes, this app accepts {limit:,}")
    if len(body) > MOST_CONTAINERS:
        check_text(body)
    try:
        message = TaskMessage.model_validate_json(body)
    except ValidationError as error:
        raise DecodeError(_reason(body, error)) from error
    if "v" not in message.model_fields_set:
        raise DecodeError(_NO_VERSION)
    if message.v != VERSION:
        raise DecodeError(_unknown_version(message.v))
    for given in (message.args, message.kwargs):
        if given:
            check_depth(given)
    return _writable(message) if has_unusual(body) else message


def _writable(message: TaskMessage) -> TaskMessage:
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


def _unknown_version(version: object) -> str:
    shown = str(version)[:32] if isinstance(version, str | int | float) else "of no known form"
    return f"unknown version {shown}: this release reads version {VERSION}, upgrade the worker"


def _reason(body: bytes, error: ValidationError) -> str:
    """Says why a body is no message of this version."""
    try:
        plain: object = orjson.loads(body)
    except orjson.JSONDecodeError:  # it is stricter about numbers
        return _at_fault(error)
    if not is_object(plain):
        return "foreign message: JSON, but not an object"
    if "v" not in plain:
        return _NO_VERSION
    if plain["v"] != VERSION:
        return _unknown_version(plain["v"])
    return _at_fault(error)


def _at_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [".".join(map(str, first["loc"]))] if first["loc"] else []
    return ": ".join(["undecodable", *place, first["msg"]])
