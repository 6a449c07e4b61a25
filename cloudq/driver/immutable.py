"""Dataclasses that are immutable by their types: cheap to define, and cheap to make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def immutable(cls: type[T]) -> type[T]:
    """Make a keyword-only dataclass with slots, whose fields are not to be set.

    Type checkers refuse that, Python does not: making an object with twenty fields takes about six
    times as long where the class is frozen. Objects are equal, and have the same hash, where their
    fields are. Those methods and `repr` are written once and not generated for each class, which
    takes two thirds of the time that a dataclass needs: it is spent by each `import cloudq`.
    """
    own = cls.__dict__
    made: Any = dataclass(slots=True, kw_only=True, eq=False, repr=False)(cls)
    compared = [each.name for each in fields(made) if each.compare]
    if compared and "__eq__" not in own:
        made.__eq__, made.__hash__ = _equality(attrgetter(*compared))
    if "__repr__" not in own:
        made.__repr__ = _repr
    return made


def _equality(
    compared: Callable[[object], object],
) -> tuple[Callable[[object, object], bool], Callable[[object], int]]:
    """Return `__eq__` and `__hash__` of a class whose compared fields the getter returns."""

    def eq(self: object, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return compared(self) == compared(other)

    def made_hash(self: object) -> int:
        return hash(compared(self))

    return eq, made_hash


def _repr(self: Any) -> str:
    return shown_repr(self, {})


def shown_repr(self: Any, instead: Mapping[str, object]) -> str:
    """Return the text of an object, with other values `instead` of those of some fields."""
    shown = (each.name for each in fields(self) if each.repr)
    values = {name: instead[name] if name in instead else getattr(self, name) for name in shown}
    said = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return f"{self.__class__.__qualname__}({said})"
