"""Reads good answers: checks their parts against the service's model, and makes them boto3's."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, cast
from zlib import crc32

import orjson

_Read = Callable[[Any], Any]

# The types in which orjson reads what botocore takes for a part of such a kind. A whole number of
# more than 64 bits is a float with orjson.
_LEAVES: Mapping[str, frozenset[type]] = {
    "string": frozenset({str}),
    "boolean": frozenset({bool}),
    "integer": frozenset({int, bool}),
    "long": frozenset({int, bool}),
    "float": frozenset({int, float, bool}),
    "double": frozenset({int, float, bool}),
}


class Odd(ValueError):
    """An answer that botocore is to read: one with nulls, say, or that is none of the service's."""


class Good:
    """The HTTP answer of a call that went well, for the hooks that look at its status."""

    status_code = 200


GOOD = Good()


def answer_of(
    read: Callable[[bytes], dict[str, Any]], headers: dict[str, str], body: bytes
) -> dict[str, Any] | None:
    """Read a good answer; None for one that botocore is to judge."""
    sum_of = headers.get("x-amz-crc32")
    if sum_of is not None and sum_of != str(crc32(body)):
        return None
    try:
        answer = read(body)
    except Odd:
        return None
    metadata: dict[str, Any] = {"HTTPStatusCode": 200, "HTTPHeaders": headers, "RetryAttempts": 0}
    if "x-amzn-requestid" in headers:
        metadata["RequestId"] = headers["x-amzn-requestid"]
    answer["ResponseMetadata"] = metadata
    return answer


def reader(shape: Any) -> Callable[[bytes], dict[str, Any]]:
    """Make the function that reads answers of a shape. It raises `Odd`."""
    read = _of(shape, {})

    def read_body(body: bytes) -> dict[str, Any]:
        try:
            return read(orjson.loads(body))
        except (ValueError, RecursionError) as error:
            raise Odd(str(error)) from error

    return read_body


def _of(shape: Any, made: dict[str, _Read]) -> _Read:
    """Return the reader of a part; `made` has those of parts that contain themselves."""
    kind: str = shape.type_name
    if kind == "blob":
        return _blob
    if kind in _LEAVES:
        return _leaf(_LEAVES[kind])
    if kind == "structure" and not getattr(shape, "is_tagged_union", False):
        return made.get(shape.name) or _structure(shape, made)
    if kind == "list":
        return _list(_of(shape.member, made))
    if kind == "map":
        return _map(_of(shape.value, made))
    return _odd


def _leaf(types: frozenset[type]) -> _Read:
    def read(value: Any) -> Any:
        if type(value) in types:
            return value
        raise Odd

    return read


def _blob(value: Any) -> bytes:
    if type(value) is str:
        return b64decode(value, validate=True)
    raise Odd


def _odd(value: Any) -> Any:
    raise Odd


def _structure(shape: Any, made: dict[str, _Read]) -> _Read:
    leaves: dict[str, frozenset[type]] = {}
    inner: dict[str, _Read] = {}
    is_closed = getattr(shape, "is_closed", False)

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise Odd
        parts = cast("dict[str, Any]", value)
        unknown: list[str] = []
        for name, part in parts.items():
            types = leaves.get(name)
            if types is not None:
                if type(part) not in types:
                    raise Odd
            elif name in inner:
                parts[name] = inner[name](part)
            else:
                unknown.append(name)
        if unknown and is_closed:
            raise Odd
        for name in unknown:
            del parts[name]
        return parts

    made[shape.name] = read
    for name, member in shape.members.items():
        if member.type_name in _LEAVES:
            leaves[name] = _LEAVES[member.type_name]
        else:
            inner[name] = _of(member, made)
    return read


def _list(read: _Read) -> _Read:
    return lambda value: [read(part) for part in _checked(value, list)]


def _map(read: _Read) -> _Read:
    return lambda value: {key: read(part) for key, part in _checked(value, dict).items()}


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Odd
    return value
