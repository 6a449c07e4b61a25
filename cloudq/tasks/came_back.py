"""Compares a value with what is read of it, which may be plainer but must not be less."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, time, tzinfo
from enum import Enum
from typing import Any

from pydantic import BaseModel, RootModel


def came_back(sent: Any, read: Any) -> bool:
    """Say if a value was read as it was sent.

    What travels as plain values may have stayed so where no hint says what to build: a tuple as a
    list, an enum as its value, a model or a dataclass as a dict.
    """
    kind, other = _kind(sent), _kind(read)
    if issubclass(kind, Enum):
        return sent == read or (not issubclass(other, Enum) and came_back(sent.value, read))
    if issubclass(kind, RootModel) and not issubclass(other, RootModel):
        return came_back(sent.root, read)
    if issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind):
        return issubclass(other, dict) or _fields(_attributes(sent), _attributes(read))
    if issubclass(kind, dict):
        return issubclass(other, Mapping) and _mappings(sent, read)
    if issubclass(kind, list | tuple):
        return issubclass(other, list | tuple) and _sequences(sent, read)
    if issubclass(kind, set | frozenset):
        return sent == read or (issubclass(other, set | frozenset) and _members(sent, read))
    if issubclass(kind, datetime | time):
        return issubclass(other, datetime | time) and _times(sent, read)
    return bool(sent == read) or (sent != sent and read != read)  # not a number


def _kind(value: object) -> type[Any]:
    return type(value)


def _fields(sent: Mapping[str, Any], read: Mapping[str, Any]) -> bool:
    return all(name in read and came_back(value, read[name]) for name, value in sent.items())


def _attributes(value: Any) -> Mapping[str, Any]:
    kind = _kind(value)
    if issubclass(kind, BaseModel):
        return dict(value)
    if not dataclasses.is_dataclass(kind):
        return {}
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _mappings(sent: Mapping[Any, Any], read: Mapping[Any, Any]) -> bool:
    if len(sent) != len(read):
        return False
    if sent.keys() == read.keys():
        return all(came_back(value, read[key]) for key, value in sent.items())
    pairs = zip(sent.items(), read.items(), strict=True)
    return all(came_back(mine, key) and came_back(of, value) for (mine, of), (key, value) in pairs)


def _sequences(sent: Sequence[Any], read: Sequence[Any]) -> bool:
    return len(sent) == len(read) and all(map(came_back, sent, read))


def _members(sent: Set[Any], read: Set[Any]) -> bool:
    """Say if sets with enums in them have the same members."""
    return len(sent) == len(read) and all(
        any(came_back(item, other) for other in read) for item in sent
    )


def _times(sent: datetime | time, read: datetime | time) -> bool:
    is_same = sent == read and sent.fold == read.fold
    return is_same and _name(sent.tzinfo) == _name(read.tzinfo)


def _name(zone: tzinfo | None) -> object:
    return getattr(zone, "key", None) or getattr(zone, "zone", None)
