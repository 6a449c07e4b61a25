"""The log of ends, as it is written: how tasks ended, many in one item, where requests are free.

An end costs 50 bytes of an item and not an item of its own: it waits for others for half a second,
in memory. A process that is killed loses the log of that moment, and no record. Failures are
events, and not in here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import orjson

from cloudq.clock import Clock
from cloudq.driver import Item, Key, Value
from cloudq.driver.forks import renew_after_fork
from cloudq.results.newest_first import sort_of
from cloudq.results.record import Record

DAY = 86_400.0
_LONGEST = 300
# An item is written after so many ends, or so many seconds.
_MOST, _LONGEST_WAIT = 1000, 0.5


def partition_of(at: float) -> str:
    """Return the partition of the ends of a day, in UTC."""
    return f"ends#{int(at // DAY)}"


class EndsLog:
    """Gathers the ends of one process. Safe to use from many threads.

    What is taken out of it is an item to write. Ends are kept for `expires` seconds.
    """

    def __init__(self, clock: Clock, expires: float) -> None:
        self.clock = clock
        self._expires = expires
        self._renew()
        renew_after_fork(self, EndsLog._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._bundles: list[Mapping[str, object]] = []
        self._worker: str | None = None
        self._count = 0
        self._since = 0.0

    def add(self, records: Sequence[Record]) -> Item | None:
        """Take in the ends of calls; return the item that is due to be written, None for none."""
        with self._lock:
            now = self._begun(len(records), records[0].worker)
            self._records += records
            return self._due(now)

    def add_bundle(self, shared: Record, bundle: str, numbers: Sequence[int]) -> None:
        """Take in successes of a bundle's calls, whose records lie with it."""
        with self._lock:
            now = self._begun(len(numbers), shared.worker)
            row = {"task": shared.task, "state": str(shared.state), "queue": shared.queue}
            self._bundles.append({**row, "at": now, "bundle": bundle, "numbers": numbers})

    def take(self, *, due: bool = False) -> Item | None:
        """Return the item of all ends, or with `due` only if it is time; None for none."""
        if not self._count:
            return None
        with self._lock:
            now = self.clock()
            return self._due(now) if due else self._taken(now)

    def _begun(self, count: int, worker: str | None) -> float:
        now = self.clock()
        if not self._count:
            self._since = now
            self._worker = worker
        self._count += count
        return now

    def _due(self, now: float) -> Item | None:
        is_due = self._count >= _MOST or not 0 <= now - self._since < _LONGEST_WAIT
        return self._taken(now) if is_due else None

    def _taken(self, now: float) -> Item | None:
        if not self._count:
            return None
        rows = [*_groups(self._records, now), *self._bundles]
        first = self._records[0].id if self._records else str(self._bundles[0]["bundle"])
        self._records, self._bundles, self._count = [], [], 0
        fields: dict[str, Value] = {"rows": orjson.dumps(rows).decode()}
        if self._worker is not None:
            fields["worker"] = self._worker
        key = Key(partition_of(now), sort_of(now, first))
        return Item(key=key, fields=fields, expires=now + self._expires)


def _groups(records: Sequence[Record], now: float) -> list[Mapping[str, object]]:
    """Write ends as rows, those of one task, queue and state together."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    last: tuple[object, ...] = ()
    members: list[Record] = []
    for record in records:
        kind = record.task, record.queue, record.retries, record.error, record.state
        if kind != last:  # to look it up takes longer
            members = groups.setdefault(kind, [])
            last = kind
        members.append(record)
    return [
        {
            "task": members[0].task,
            "state": str(members[0].state),
            "queue": members[0].queue,
            "retries": members[0].retries,
            "error": (members[0].error or "")[:_LONGEST] or None,
            "ids": _together([record.id for record in members]),
            # Whole numbers are short: milliseconds before the item, and microseconds it took.
            "ago": [int((now - (record.finished_at or now)) * 1000) for record in members],
            "took": [
                int((record.finished_at - record.started_at) * 1_000_000)
                if record.finished_at and record.started_at
                else None
                for record in members
            ],
        }
        for members in groups.values()
    ]


def _together(ids: list[str]) -> str | list[str]:
    text = " ".join(ids)
    return text if text.count(" ") == len(ids) - 1 else ids
