"""Ids that tell a place, in a bundle or in a series: UUIDs of version 8 (RFC 9562).

The calls of a bundle share a message. Those of a series are single calls that one process made
shortly after each other: their ends may lie together in the store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable
from functools import lru_cache
from threading import Lock
from typing import NamedTuple
from zlib import crc32

from cloudq.driver.forks import renew_after_fork
from cloudq.messages.message import new_id

MOST_OF_A_BUNDLE = 10_000
"""The most calls of one bundle."""

SERIES = 8
"""The most calls of one series: the small ends of so many take a kilobyte, billed as one write."""

IS_PLACED = slice(14, 15)
"""The version of an id. Only one with an 8 there needs a closer look at its place."""

# The digit with the version, and the number of characters before the check and the place.
_VERSION_AT, _CHECK_AT, _PLACE_AT, _LENGTH = 14, 28, 32, 36
# By these the checks of the two kinds differ.
_BUNDLE, _SERIES = 0, 0xFFFF
# Seconds after a call for which the next one counts as made shortly after it, and for which one
# series goes on: the time in an id is that of the first of its series.
_SHORTLY, _LONGEST = 0.05, 0.1
# The number of the call in a row with which a series begins.
_CROWD = 3


class Place(NamedTuple):
    """The bundle or series of a call, and the number of the call in it."""

    bundle: str
    number: int


def new_bundle() -> str:
    """A new name of a bundle: the first 32 characters of the ids of its calls.

    They are a UUID version 8 (RFC 9562): 48 bits of milliseconds, 42 random bits, and 16 bits of a
    check, by which `place_of` knows them from ids that others have made. The last 16 bits are the
    place in the bundle.
    """
    return _new_name(_BUNDLE)


def new_series() -> str:
    """A new name of a series, made as that of a bundle is."""
    return _new_name(_SERIES)


def _new_name(kind: int) -> str:
    stamp = f"{int(time.time() * 1000) & 0xFFFF_FFFF_FFFF:012x}"
    noise = os.urandom(6)
    text = noise.hex()
    variant = "89ab"[noise[5] & 3]
    name = f"{stamp[:8]}-{stamp[8:]}-8{text[:3]}-{variant}{text[3:6]}-{text[6:10]}"
    return name + _check(name, kind)


def bundled_id(bundle: str, number: int) -> str:
    """Return the id of the call at this place of a bundle or series."""
    return f"{bundle}{number:04x}"


def place_of(task_id: str) -> Place | None:
    """Return the place of a call in its bundle, None for the id of a call without one."""
    return _place(task_id, _BUNDLE)


def place_in_series(task_id: str) -> Place | None:
    """Return the place of a call in its series, None for the id of a call without one."""
    place = _place(task_id, _SERIES)
    return place if place is not None and place.number < SERIES else None


def _place(task_id: str, kind: int) -> Place | None:
    if len(task_id) != _LENGTH or task_id[_VERSION_AT] != "8":
        return None
    bundle, digits = task_id[:_PLACE_AT], task_id[_PLACE_AT:]
    if not _is_name(bundle, kind):
        return None
    try:
        number = int(digits, 16)
    except ValueError:
        return None
    return Place(bundle, number) if f"{number:04x}" == digits else None


def is_bundle(name: str) -> bool:
    """Tell whether this is the name of a bundle."""
    return _is_name(name, _BUNDLE)


@lru_cache(maxsize=1024)
def _is_name(name: str, kind: int) -> bool:
    return len(name) == _PLACE_AT and _check(name[:_CHECK_AT], kind) == name[_CHECK_AT:]


def _check(name: str, kind: int) -> str:
    return f"{(crc32(name.encode(errors='replace')) ^ kind) & 0xFFFF:04x}"


class BundleIds:
    """Numbers calls: up to `size` in a row, of one key, get the ids of one bundle.

    Safe to use from many threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._next: dict[Hashable, tuple[str, int]] = {}
        self._lock = Lock()

    def next(self, key: Hashable = None) -> str:
        """Return the id of the next call of this key."""
        with self._lock:
            bundle, number = self._next.get(key) or (new_bundle(), 0)
            full = number + 1 >= self.size
            self._next[key] = (new_bundle(), 0) if full else (bundle, number + 1)
        return bundled_id(bundle, number)


class SeriesIds:
    """Numbers single calls: those made shortly after each other get the ids of one series.

    The first two of them have UUIDs of version 7, as a call that follows none: two are no crowd.
    `until` is when the next call, by the monotonic clock, is no follower any more: 0 lets it follow
    none, after its caller has looked for the end of one before it. Safe to use from many threads.
    """

    def __init__(self) -> None:
        self._renew()
        renew_after_fork(self, SeriesIds._renew)

    def _renew(self) -> None:
        self._lock = Lock()
        self.until = 0.0
        self._series = ""
        self._begun = 0.0
        self._row = 0
        self._number = SERIES

    def next(self) -> str:
        """Return the id of a call that is made now."""
        now = time.monotonic()
        with self._lock:
            self._row = self._row + 1 if now < self.until else 1
            self.until = now + _SHORTLY
            if self._row < _CROWD:
                self._number = SERIES
                return new_id()
            if self._number >= SERIES or now > self._begun + _LONGEST:
                self._series, self._number, self._begun = new_series(), 0, now
            number = self._number
            self._number += 1
            return bundled_id(self._series, number)
