"""Items with the ends of many calls: the common parts of the stores of bundles and of series."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from cloudq.clock import Clock
from cloudq.driver import Change, Code, Failure, Item, Key
from cloudq.errors import BackendError
from cloudq.messages.ids import Place
from cloudq.results.record import Record

RACES = 20
"""The most times that an item which changes meanwhile is read again, before a write is given up."""
# Seconds for which an end that was read is given again without a look.
_FRESH = 5.0
_NOTHING: tuple[float, Mapping[int, Record]] = (0.0, {})


class Items(Protocol):
    """The part of the result store that records which lie together need."""

    driver: Any
    expires: float

    @property
    def clock(self) -> Clock: ...

    def get(self, keys: Sequence[Key], *, consistent: bool = True) -> Mapping[Key, Item]: ...

    def update(self, key: Key, change: Change) -> Item: ...

    def delete(self, keys: Sequence[Key]) -> None: ...

    def store_apart(self, records: Sequence[Record]) -> dict[str, Failure]: ...

    def advance_apart(self, record: Record) -> Record | None: ...


class Seen:
    """Ends that were read a moment ago, of up to `most` items: an end does not change.

    Results that are fetched one by one are often of one item. Safe to use from many threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[str, tuple[float, Mapping[int, Record]]] = OrderedDict()

    def keep(self, name: str, records: Mapping[int, Record]) -> None:
        """Keep what was just read of an item."""
        if records:
            self._seen[name] = time.monotonic(), records
        while len(self._seen) > self._most:
            with suppress(KeyError):  # another thread was faster
                self._seen.popitem(last=False)

    def ended(self, places: Mapping[str, Place]) -> dict[str, Record]:
        """Return, by the ids of calls, the ends of those of which one was read."""
        if not self._seen:
            return {}
        oldest = time.monotonic() - _FRESH
        ended: dict[str, Record] = {}
        for id, (name, number) in places.items():
            read_at, records = self._seen.get(name) or _NOTHING
            record = records.get(number) if read_at > oldest else None
            if record is not None and record.terminal:
                ended[id] = record
        return ended

    def forget(self, name: str | None = None) -> None:
        """Read this item anew from now on, all of them without a name."""
        if name is None:
            self._seen.clear()
        else:
            self._seen.pop(name, None)


def busy(kind: str, name: str) -> BackendError:
    """Return the error of an item that others change too often to be changed here."""
    return BackendError(f"the item of {kind} {name} changes too often", code=Code.THROTTLED)
