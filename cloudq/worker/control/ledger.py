"""Keeps a worker's requests of the last hour and day, its children's too, for its heartbeats."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from cloudq.clock import Clock, real_time
from cloudq.driver.billing import Readings, Spent, Spot, Tariff
from cloudq.monitoring.costs.sheet import Sheet, Span, Usage, from_bytes, to_bytes
from cloudq.runtime import Runtime
from cloudq.worker.control.counters import Counters


class _Ring:
    """The sheets of the slots of a span."""

    def __init__(self, span: Span) -> None:
        self._empty = span
        self._sheets: dict[int, Sheet] = {}

    def add(self, now: float, sheet: Sheet) -> None:
        slot = int(now // self._empty.length)
        self._sheets.setdefault(slot, Sheet()).add(sheet)

    def adopt(self, span: Span) -> None:
        total = sum(span.profile.values())
        for slot, weight in span.profile.items():
            if weight and total:
                self._sheets.setdefault(slot, Sheet()).add(span.sheet, weight / total)

    def span(self, now: float) -> Span:
        first = self._empty.first(now)
        for old in [slot for slot in self._sheets if slot < first]:
            del self._sheets[old]
        found = Span(length=self._empty.length, slots=self._empty.slots)
        for slot, sheet in self._sheets.items():
            found.sheet.add(sheet)
            found.profile[slot] = sheet.requests
        return found


class Ledger:
    """The counts of a worker's requests, by call and queue. Safe to use from many threads.

    Drivers count; here their counts are read when a heartbeat or a metrics page asks. Without a
    metered driver there is nothing to read.
    """

    def __init__(self, runtime: Runtime, counters: Counters, clock: Clock = real_time) -> None:
        self._runtime = runtime
        self.counters = counters
        self._clock = clock
        self._lock = threading.Lock()
        self._readings = Readings()
        self._total = Sheet()
        self._noted = Sheet()
        empty = Usage()
        self._hour, self._day = _Ring(empty.hour), _Ring(empty.day)

    def take_in(self, rows: Sequence[tuple[str, str, str, float, float, float]]) -> None:
        """Add the requests of a child process."""
        with self._lock:
            for call, place, price, requests, items, units in rows:
                row = self._total.spent.setdefault(Spot(call, place, price), Spent())
                row.add(Spent(requests, items, units))

    def totals(self) -> Sheet:
        """Return what was counted since the worker's start."""
        with self._lock:
            return self._read()

    def tariffs(self) -> list[Tariff]:
        """Return the tariffs of the drivers that are open."""
        return [meter.tariff for meter in self._runtime.meters()]

    def usage(self) -> bytes:
        """Return the last hour and day, as a heartbeat carries them; nothing if all is free."""
        with self._lock:
            now = self._clock()
            total = self._read()
            if not total:
                return b""
            grown = total.grown(self._noted)
            self._noted = total
            self._hour.add(now, grown)
            self._day.add(now, grown)
            return to_bytes(Usage(hour=self._hour.span(now), day=self._day.span(now)))

    def adopt(self, usage: bytes) -> None:
        """Go on with what an earlier worker of this name has counted."""
        earlier = from_bytes(usage)
        if earlier is None:
            return
        with self._lock:
            self._hour.adopt(earlier.hour)
            self._day.adopt(earlier.day)

    def _read(self) -> Sheet:
        for spot, row in self._readings.grown(self._runtime.meters()).items():
            self._total.spent.setdefault(spot, Spent()).add(row)
        self._total.handled = self.counters.handled()
        copy = Sheet()
        copy.add(self._total)
        return copy
