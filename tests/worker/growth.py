"""Samples of what may grow while a program runs, and the slopes of them."""

from __future__ import annotations

import sqlite3
import time
from array import array
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

import psutil

from cloudq.driver.blobs import Blobs

TABLES = ("messages", "dead", "dedup", "items", "queues")


class Series:
    """Values of one quantity over time; few bytes each, so that they are no growth themselves."""

    def __init__(self) -> None:
        self.times = array("d")
        self.values = array("d")

    def add(self, value: float) -> None:
        self.times.append(time.monotonic())
        self.values.append(value)

    def settled(self) -> Series:
        """The rest, without the first quarter of the time: the warm-up."""
        rest = Series()
        start = self.times[0] + (self.times[-1] - self.times[0]) / 4
        for at, value in zip(self.times, self.values, strict=True):
            if at >= start:
                rest.times.append(at)
                rest.values.append(value)
        return rest

    def per_hour(self) -> float:
        """The slope of the least squares; 0 for fewer than two samples."""
        count = len(self.values)
        mean_time, mean = sum(self.times) / count, sum(self.values) / count
        spread = sum((at - mean_time) ** 2 for at in self.times)
        both = zip(self.times, self.values, strict=True)
        product = sum((at - mean_time) * (value - mean) for at, value in both)
        return 3600 * product / spread if spread else 0.0


class Samples:
    """Series by name, `what where`, such as `rss child 1`."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.series.setdefault(name, Series()).add(value)

    def report(self) -> list[str]:
        """One line for each quantity, of the time after the warm-up."""
        lines = [f"{'':32}{'first':>12}{'last':>12}{'least':>12}{'most':>12}{'per hour':>14}"]
        for name, series in sorted(self.series.items()):
            settled = series.settled()
            values = settled.values
            shown = (values[0], values[-1], min(values), max(values))
            told = "".join(f"{value:>12,.0f}" for value in shown)
            lines.append(f"{name:32}{told}{settled.per_hour():>+14,.1f}")
        return lines


def process(role: str, at: psutil.Process) -> dict[str, float]:
    """The memory (in kB), the open descriptors and the threads of a process."""
    memory = at.memory_full_info()
    return {
        f"rss kB {role}": memory.rss / 1e3,
        f"pss kB {role}": memory.pss / 1e3,
        f"descriptors {role}": at.num_fds(),
        f"threads {role}": at.num_threads(),
    }


def sqlite_file(path: Path) -> dict[str, float]:
    """The sizes of a database and of the files beside it (in kB), and the rows of its tables."""
    found: dict[str, float] = {}
    for part in ("", "-wal", "-inbox"):
        with suppress(FileNotFoundError):
            found[f"kB file{part}"] = path.with_name(path.name + part).stat().st_size / 1e3
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as database:
        for table in TABLES:
            [(count,)] = database.execute(f"SELECT count(*) FROM {table}")
            found[f"rows {table}"] = count
        [(free,)] = database.execute("PRAGMA freelist_count")
        found["pages free"] = free
    return found


def payloads(blobs: Blobs) -> dict[str, float]:
    """The number of blobs, and their size in kB."""
    count, size, after = 0, 0, None
    while True:
        page = blobs.list(after=after, limit=1000)
        count += len(page.blobs)
        size += sum(blob.size for blob in page.blobs)
        after = page.next
        if after is None:
            return {"blobs": count, "kB blobs": size / 1e3}
