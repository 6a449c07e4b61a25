"""Reads the log of ends: see `ends_log`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import orjson

from cloudq.driver import Item, Page
from cloudq.messages.ids import bundled_id
from cloudq.messages.json_text import is_list
from cloudq.results.ends_log import DAY, partition_of
from cloudq.results.events import Event
from cloudq.results.newest_first import sort_of, time_in
from cloudq.results.record import State
from cloudq.results.stored import OddItem, readable, reading

# A page has items of as many ends together, as far as those before it tell.
_FIRST, _LARGEST, _ENDS = 2, 100, 500
_BYTES = 50
# So many ends wait for those of items that were written earlier, and may be newer.
_MOST_WAITING = 5000
# An end is written this much later than it happens, at most, as far as a search heeds it.
_LATE = 5.0
# A log without an end for so many days is taken to end there.
_MOST_EMPTY = 31

Query = Callable[[str, str | None, int], Page]
"""Reads a page of a partition, behind a sort key."""


def ends(
    query: Query,
    *,
    now: float,
    since: float = 0.0,
    until: float = inf,
) -> Iterator[Event]:
    """Yield the ends of the log, newest first, read page by page as needed.

    An end that was written twice is one. Days are read back to `since`, or to a month without any.
    """
    begin = min(now + 60.0, until + _LATE)
    waiting: list[tuple[float, int, Event]] = []
    known: set[str] = set()
    count = 0
    for item in _items(query, begin, since):
        for written, events in readable([item], _events_in):
            while waiting and (-waiting[0][0] > written or len(waiting) > _MOST_WAITING):
                yield heapq.heappop(waiting)[2]
            for event in events:
                if since <= event.at <= until and event.id not in known:
                    known.add(event.id)
                    count += 1
                    heapq.heappush(waiting, (-event.at, count, event))
    while waiting:
        yield heapq.heappop(waiting)[2]


def _items(query: Query, begin: float, since: float) -> Iterator[Item]:
    """Yield the items of the log from `begin` back to `since`."""
    day, empty, size = begin, 0, _FIRST
    while day // DAY >= since // DAY and empty < _MOST_EMPTY:
        empty += 1
        after: str | None = sort_of(begin)
        while after is not None:
            page = query(partition_of(day), after, size)
            for item in page.items:
                empty = 0
                yield item
            if page.items:
                length = sum(len(str(item.fields.get("rows"))) for item in page.items)
                size = _ENDS * _BYTES * len(page.items) // max(1, length)
                size = min(max(size, _FIRST), _LARGEST)
            after = page.next
        day -= DAY


def _events_in(item: Item) -> tuple[float, list[Event]]:
    """Return when an item was written, and its events. Raises `OddItem`."""
    worker, text = item.fields.get("worker"), item.fields.get("rows")
    named = worker if isinstance(worker, str) else None
    with reading(item.key):
        at = time_in(item.key.sort)
        rows: Any = orjson.loads(text) if isinstance(text, str) else None
        if not is_list(rows):
            raise OddItem(item.key, "it has no rows")
        return at, [event for row in rows for event in _of_group(row, named, at)]


def _of_group(row: Any, worker: str | None, at: float) -> list[Event]:
    shared: Any = {
        "task": row["task"],
        "state": State(row["state"]),
        "queue": row["queue"],
        "worker": worker,
    }
    if "bundle" in row:
        ids = [bundled_id(row["bundle"], int(number)) for number in row["numbers"]]
        return [Event(id=id, at=float(row["at"]), **shared) for id in ids]
    # An id may have spaces in it, if its caller gave it; then they are a list.
    ids = row["ids"].split(" ") if isinstance(row["ids"], str) else row["ids"]
    shared |= {"retries": row["retries"], "error": row["error"]}
    return [
        Event(id=id, at=at - ago / 1000, took=None if took is None else took / 1e6, **shared)
        for id, ago, took in zip(ids, row["ago"], row["took"], strict=True)
    ]
