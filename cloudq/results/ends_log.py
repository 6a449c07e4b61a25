"""The log of ends, as it is written: tasks that succeeded, many in one item, on free requests.

An end costs 50 bytes of an item and not an item of its own: it waits for others for half a second,
in memory. A process that is killed loses the log of that moment, and no record. All other ends are
events, so that they are found among many successes.
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


class _Group:
    """Ends of one task, queue and state: plain values, which the collector does not look through.

    `first` stands for what they have in common.
    """

    __slots__ = ("began", "ended", "first", "ids")

    def __init__(self, first: Record) -> None:
        self.first = first
        self.ids: list[str] = []
        self.began: list[float | None] = []
        self.ended: list[float | None] = []

    def row(self, now: float) -> Mapping[str, object]:
        """Write them, with whole numbers, which are short."""
        first = self.first
        return {
            "task": first.task,
            "state": str(first.state),
            "queue": first.queue,
            "retries": first.retries,
            "error": (first.error or "")[:_LONGEST] or None,
            "ids": _together(self.ids),
            # Milliseconds before the item was written, and microseconds that it took.
            "ago": [int((now - (ended or now)) * 1000) for ended in self.ended],
            "took": [
                int((ended - began) * 1_000_000) if ended and began else None
                for began, ended in zip(self.began, self.ended, strict=True)
            ],
        }


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
        self._groups: dict[tuple[object, ...], _Group] = {}
        self._bundles: list[Mapping[str, object]] = []
        self._worker: str | None = None
        self._count = 0
        self._since = 0.0

    def add(self, records: Sequence[Record]) -> Item | None:
        """Take in the ends of calls; return the item that is due to be written, None for none."""
        with self._lock:
            now = self._begun(len(records), records[0].worker)
            last: tuple[object, ...] = ()
            group = _Group(records[0])
            for record in records:
                kind = record.task, record.queue, record.retries, record.error, record.state
                if kind != last:  # to look it up takes longer
                    group = self._groups.setdefault(kind, _Group(record))
                    last = kind
                group.ids.append(record.id)
                group.began.append(record.started_at)
                group.ended.append(record.finished_at)
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
        rows = [*(group.row(now) for group in self._groups.values()), *self._bundles]
        # No two processes have ended the same call in the same microsecond.
        first = next((group.ids[0] for group in self._groups.values()), None)
        name = first or str(self._bundles[0]["bundle"])
        self._groups, self._bundles, self._count = {}, [], 0
        fields: dict[str, Value] = {"rows": orjson.dumps(rows).decode()}
        if self._worker is not None:
            fields["worker"] = self._worker
        key = Key(partition_of(now), sort_of(now, name))
        return Item(key=key, fields=fields, expires=now + self._expires)


def _together(ids: list[str]) -> str | list[str]:
    text = " ".join(ids)
    return text if text.count(" ") == len(ids) - 1 else ids
