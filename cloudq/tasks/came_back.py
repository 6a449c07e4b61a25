"""Compares a value with what is read of it, which may be plainer but must not be less."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, time, tzinfo
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from cloudq.driver.forks import imported
from cloudq.messages.model_classes import is_model, is_model_class, is_root_model

if TYPE_CHECKING:
    from pydantic import BaseModel, TypeAdapter

Classes = Set[type[Any]]


@lru_cache(maxsize=4096)
def classes_of(adapter: TypeAdapter[Any]) -> Classes:
    """Return the classes that a type hint names, at any depth."""
    found: set[type[Any]] = set()
    waiting: list[Any] = [adapter.core_schema]
    while waiting:
        part = waiting.pop()
        if issubclass(_kind(part), dict):
            # Models, dataclasses and enums have a class; named tuples are called.
            classes = [part.get("cls"), part.get("function")]
            found.update(kind for kind in classes if isinstance(kind, type))
            if part.get("type") == "literal":
                found.update(_kind(each) for each in part["expected"] if isinstance(each, Enum))
            waiting.extend(part.values())
        elif issubclass(_kind(part), list | tuple):
            waiting.extend(part)
    return found


def came_back(sent: Any, read: Any, named: Classes = frozenset()) -> bool:
    """Say if a value was read as it was sent.

    What travels as plain values may have stayed so where no hint says what to build: a tuple as a
    list, an enum as its value, a model or a dataclass as a dict. What is of a class that the hint
    names is of that class again, and a model or a dataclass never becomes one of another class.
    """
    kind, other = _kind(sent), _kind(read)
    if kind in named and other is not kind:
        # A StrEnum where the hint takes a str too, which it is equal to.
        return issubclass(kind, Enum) and not issubclass(other, Enum) and bool(sent == read)
    if issubclass(kind, Enum):
        is_plain = not issubclass(other, Enum)
        return sent == read or (is_plain and came_back(sent.value, read, named))
    if is_root_model(sent) and not is_root_model(read):
        return came_back(sent.root, read, named)
    if is_model_class(kind) or dataclasses.is_dataclass(kind):
        if issubclass(other, dict):
            return True
        return _declared(sent) is _declared(read) and _models(sent, read, named)
    if issubclass(kind, dict):
        return issubclass(other, Mapping) and _mappings(sent, read, named)
    if issubclass(kind, list | tuple):
        return issubclass(other, list | tuple) and _sequences(sent, read, named)
    if issubclass(kind, set | frozenset):
        return sent == read or (issubclass(other, set | frozenset) and _members(sent, read, named))
    if issubclass(kind, datetime | time):
        return issubclass(other, datetime | time) and _times(sent, read)
    if issubclass(kind, Decimal) and sent.is_snan():  # to compare it raises an error
        return issubclass(other, Decimal) and str(sent) == str(read)
    return bool(sent == read) or (sent != sent and read != read)  # not a number


def _kind(value: object) -> type[Any]:
    return type(value)


def _declared(value: object) -> object:
    """Return a class as it was declared: a generic model is the same class for each parameter."""
    kind = type(value)
    generic: Mapping[str, Any] = getattr(kind, "__pydantic_generic_metadata__", {})
    return generic.get("origin") or kind


def _models(sent: Any, read: Any, named: Classes) -> bool:
    mine, other = _attributes(sent), _attributes(read)
    if not all(name in other and came_back(mine[name], other[name], named) for name in mine):
        return False
    return _privates(sent, read) if is_model(sent) else _others(sent, read)


def _attributes(value: Any) -> Mapping[str, Any]:
    if is_model(value):
        own: Mapping[str, Any] = imported("cloudq.messages.models").own_fields(value)
        return own
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _privates(sent: BaseModel, read: BaseModel) -> bool:
    """Say if the private attributes, which are not sent, were made anew as they were.

    Those that each object has for itself, a lock or the time when it was made, do not count.
    """
    mine, other = sent.__pydantic_private__ or {}, read.__pydantic_private__ or {}
    for name, value in mine.items():
        made = other.get(name)
        if value is made or type(value).__eq__ is object.__eq__ or came_back(value, made):
            continue
        attribute = type(sent).__private_attributes__.get(name)
        make: Any = attribute.default_factory if attribute is not None else None
        if make is None or came_back(made, make()):  # the same for each object
            return False
    return True


def _others(sent: Any, read: Any) -> bool:
    """Say if what a dataclass has besides its fields, which is not sent, was made anew as it was.

    That is what its `__post_init__` makes, of values that are no fields say, or what was set later.
    """
    mine: dict[str, Any] = getattr(sent, "__dict__", {})
    fields = {field.name for field in dataclasses.fields(sent)}
    if len(mine) == len(fields) and mine.keys() == fields:
        return True
    other: dict[str, Any] = getattr(read, "__dict__", {})
    for name in mine.keys() - fields:
        value = mine[name]
        is_cached = isinstance(getattr(_kind(sent), name, None), cached_property)
        if is_cached or type(value).__eq__ is object.__eq__:
            continue
        if name not in other or not came_back(value, other[name]):
            return False
    return True


def _mappings(sent: Mapping[Any, Any], read: Mapping[Any, Any], named: Classes) -> bool:
    if len(sent) != len(read):
        return False
    if sent.keys() == read.keys():
        keys = {key: key for key in read}
        return all(
            came_back(key, keys[key], named) and came_back(value, read[key], named)
            for key, value in sent.items()
        )
    pairs = zip(sent.items(), read.items(), strict=True)
    return all(
        came_back(mine, key, named) and came_back(of, value, named)
        for (mine, of), (key, value) in pairs
    )


def _sequences(sent: Sequence[Any], read: Sequence[Any], named: Classes) -> bool:
    return len(sent) == len(read) and all(
        came_back(mine, other, named) for mine, other in zip(sent, read, strict=True)
    )


def _members(sent: Set[Any], read: Set[Any], named: Classes) -> bool:
    """Say if sets with enums in them have the same members."""
    return len(sent) == len(read) and all(
        any(came_back(item, other, named) for other in read) for item in sent
    )


def _times(sent: datetime | time, read: datetime | time) -> bool:
    is_same = sent == read and sent.fold == read.fold
    return is_same and _name(sent.tzinfo) == _name(read.tzinfo)


def _name(zone: tzinfo | None) -> object:
    return getattr(zone, "key", None) or getattr(zone, "zone", None)
