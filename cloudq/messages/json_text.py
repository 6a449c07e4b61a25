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
_SCALARS = frozenset({str, int, float, bool, type(None)})
_MANY = (list, tuple)


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
    try:
        return orjson.dumps(value, default, option)
    except (TypeError, ValueError) as error:
        raise EncodeError(f"cannot be written as JSON: {error}") from error


def check_levels(value: object) -> None:
    """Refuse what is nested too deep, with a loop. Raises `EncodeError`."""
    if type(value) in _SCALARS:
        return
    level: list[object] = [value]
    for _ in range(MAX_LEVELS):
        level = [item for parent in level for item in _inside(parent) if type(item) not in _SCALARS]
        if not level:
            return
    raise EncodeError(f"cannot be written as JSON: it nests deeper than {MAX_LEVELS} levels")


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
