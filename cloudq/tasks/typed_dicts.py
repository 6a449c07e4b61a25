"""Validates what is to be sent: a key that a typed dict does not have is refused, not dropped."""

from __future__ import annotations

from functools import lru_cache
from operator import is_
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import SchemaValidator

# What has extra keys by a rule of its own, and what is no schema.
_CLASSES = ("model", "dataclass")
_LISTS = frozenset({list, tuple})
_VALUES = frozenset({"config", "default", "expected", "metadata", "serialization"})


def validated(adapter: TypeAdapter[Any], value: Any) -> Any:
    """Validate a value that is to be sent. Raises `ValidationError`, for extra keys too."""
    closed = closed_of(adapter)
    return adapter.validate_python(value) if closed is None else closed.validate_python(value)


@lru_cache(maxsize=4096)
def closed_of(adapter: TypeAdapter[Any]) -> SchemaValidator | None:
    """Return a validator whose typed dicts refuse extra keys; None if the hint has none such.

    Those in a model or a dataclass are left, since its own validation has read them.
    """
    schema: Any = adapter.core_schema
    closed = _closed(schema)
    return None if closed is schema else SchemaValidator(closed)


def _closed(part: Any) -> Any:
    """Return a part of a schema with its typed dicts closed; itself if it has none to close."""
    kind: Any = part.__class__
    if kind in _LISTS:
        made = kind(map(_closed, part))
        return part if all(map(is_, made, part)) else made
    if kind is not dict or part.get("type") in _CLASSES:
        return part
    made = {key: item if key in _VALUES else _closed(item) for key, item in part.items()}
    if part.get("type") == "typed-dict" and _drops(part):
        return {**made, "extra_behavior": "forbid"}
    return part if all(made[key] is part[key] for key in part) else made


def _drops(typed_dict: Any) -> bool:
    config: Any = typed_dict.get("config") or {}
    extra = typed_dict.get("extra_behavior") or config.get("extra_fields_behavior")
    return extra in (None, "ignore")
