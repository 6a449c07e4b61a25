"""Dataclasses of which many are made a second: immutable by their types, cheap to make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def immutable(cls: type[T]) -> type[T]:
    """Make a keyword-only dataclass with slots, whose fields are not to be set.

    Type checkers refuse that, Python does not: making an object with twenty fields takes about six
    times as long where the class is frozen.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
