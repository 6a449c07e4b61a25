"""JSON text: the one door to `orjson.dumps`, which nothing passes that is nested too deep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, TypeGuard

import orjson

from cloudq.errors import EncodeError

# orjson refuses lists and dicts below 254 levels; tuples it writes on, past its own memory.
MAX_LEVELS = 250
SCALARS = frozenset({str, int, float, bool, type(None)})
"""The types of values that have nothing inside them."""
_MANY = (list, tuple)
# What JSON has no word for, and what orjson writes as `null` or refuses.
# It is looked for in the text with every digit as 0: a third of a regular expression's time.
_SHAPES = bytes.maketrans(b"123456789EI", b"000000000eN")
_LONG = b"0" * 19


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Tell whether a value is a JSON array."""
    return isinstance(value, list)


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a value, read from JSON, is a JSON object."""
    return isinstance(value, dict)


def json_text(
    value: object, *, default: Callable[[Any], Any] | None = None, option: int = 0
) -> bytes:
    """Write a value as compact JSON in UTF-8. Raises `EncodeError`.

    `default` makes a string of what JSON does not have; `option` is orjson's.
    """
    check_levels(value)
    return flat_json_text(value, default=default, option=option)


def flat_json_text(
    value: object, *, default: Callable[[Any], Any] | None = None, option: int = 0
) -> bytes:
    """Write as `json_text` does a value that is known not to nest deep."""
    try:
        return orjson.dumps(value, default, option)
    except (TypeError, ValueError) as error:
        raise EncodeError(f"cannot be written as JSON: {error}") from error


def check_levels(value: object) -> None:
    """Refuse what is nested too deep, with a loop. Raises `EncodeError`."""
    if type(value) in SCALARS or _is_shallow(value):
        return
    level: list[object] = [value]
    for _ in range(MAX_LEVELS):
        level = [item for parent in level for item in _inside(parent) if type(item) not in SCALARS]
        if not level:
            return
    raise EncodeError(f"cannot be written as JSON: it nests deeper than {MAX_LEVELS} levels")


def _is_shallow(value: object) -> bool:
    """Tell whether a value is seen at once to nest no deeper than most messages do."""
    if not is_object(value):
        return False
    for item in value.values():
        if type(item) in SCALARS:
            continue
        if not is_object(item) and not is_list(item):
            return False
        if not SCALARS.issuperset(map(type, item.values() if is_object(item) else item)):
            return False
    return True


def _inside(value: Any) -> Iterable[object]:
    """Return what the serializer would go into."""
    if issubclass(type(value), dict):
        return value.values()
    if issubclass(type(value), _MANY):
        return value
    if isinstance(value, Enum):
        return (value.value,)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    return ()


def has_unusual(body: bytes) -> bool:
    """Tell whether a JSON text may hold numbers that JSON's writers cannot write again."""
    shape = body.translate(_SHAPES, b"+")
    # One in thirteen ids looks like it: 1324e954 is no number within a text.
    return _is_odd(shape) and _is_odd(_outside_texts(shape))


def _is_odd(shape: bytes) -> bool:
    if shape.find(_LONG) >= 0 or shape.find(b"0e000") >= 0:  # `in` costs an exception each
        return True
    return shape.find(b"N") >= 0 and (b"NaN" in shape or b"Nnfinity" in shape)


def _outside_texts(body: bytes) -> bytes:
    """Return what of JSON is in no text; all of it where a text does not end."""
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    return b" ".join(pieces[::2]) if len(pieces) % 2 else body


def json_bytes(value: object) -> bytes:
    """Write plain JSON as compact UTF-8 that every broker accepts. Raises `EncodeError`."""
    body = json_text(value)
    # Legal in JSON and in UTF-8, but outside the XML character set that SQS accepts.
    if body.find(b"\xef\xbf") >= 0:  # `in` takes it for a number first, which costs an exception
        body = body.replace(b"\xef\xbf\xbe", b"\\ufffe").replace(b"\xef\xbf\xbf", b"\\uffff")
    return body
