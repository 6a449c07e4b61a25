"""Bounds the work that a body makes: the number of its values, and of members with one hash."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable
from typing import Any, TypeVar

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.json_text import is_object

T = TypeVar("T")

MOST_CONTAINERS = 200_000
"""The most lists and objects of one message; each takes some microseconds and 64 bytes or more."""
MOST_VALUES = 2_000_000
"""The most values of one message, lists and objects included."""
# Members of one hash are compared with each other. Python's hashes of numbers are known to all.
_MOST_EQUAL = 500
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def check_text(body: bytes, what: str = "message") -> None:
    """Refuse JSON of more values than a message may have, before it is read.

    Raises `DecodeError`.
    """
    reason = _beyond(body, what)
    if reason is not None:
        raise DecodeError(f"oversized: {reason}")


def check_written(body: bytes) -> None:
    """Refuse to send what `check_text` would refuse to read. Raises `EncodeError`."""
    reason = _beyond(body, "message")
    if reason is not None:
        raise EncodeError(f"{reason}: store what it holds, and send the key of that")


def _beyond(body: bytes, what: str) -> str | None:
    if len(body) <= MOST_CONTAINERS or _fits(body) or _fits(_STRING.sub(b"", body)):
        return None
    return _reason(what)


def _fits(text: bytes) -> bool:
    """Tell whether a JSON text is within the bounds if all signs in it count."""
    containers = text.count(b"[") + text.count(b"{")
    return containers <= MOST_CONTAINERS and containers + text.count(b",") <= MOST_VALUES


def _reason(what: str) -> str:
    return f"a {what} of more than {MOST_CONTAINERS:,} lists and objects, or {MOST_VALUES:,} values"


def check_tree(value: object) -> None:
    """Refuse a read value of more values than a message may have. Raises `DecodeError`."""
    containers, values = 1, 1
    level: list[Any] = [[value]]
    while level:
        inside: list[Any] = []
        for parent in level:
            items: Iterable[Any] = parent.values() if is_object(parent) else parent
            values += len(parent)
            if containers > MOST_CONTAINERS or values > MOST_VALUES:
                raise DecodeError(f"oversized: {_reason('message')}")
            inside += [item for item in items if isinstance(item, dict | list | tuple)]
        containers += len(inside)
        level = inside


def spread(members: list[T]) -> list[T]:
    """Return the members of a set. Raises `ValueError` where too many of them share a hash."""
    _check_hashes(members)
    return members


def spread_pairs(pairs: list[tuple[Any, T]]) -> list[tuple[Any, T]]:
    """Return the pairs of a dict; its keys are as the members of `spread`."""
    _check_hashes([key for key, _ in pairs])
    return pairs


def _check_hashes(members: Collection[Hashable]) -> None:
    if len(members) > _MOST_EQUAL:
        hashes = len(set(map(hash, members)))
        if len(members) - hashes > _MOST_EQUAL:
            raise ValueError(f"{len(members):,} members have only {hashes:,} hashes")
