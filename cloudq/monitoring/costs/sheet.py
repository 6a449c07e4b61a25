"""Sheets of counts: requests by call and queue, and the tasks that they were made for.

A worker's heartbeat has two: the last hour and the last day. They are sums, not lists of what was
counted each minute, since a store bills a heartbeat by its size. A profile of a number for each
five minutes or each hour tells how the sum was spread over its time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import ceil
from typing import Any, NamedTuple

import orjson

from cloudq.driver.billing import Spent, Spot
from cloudq.messages.json_text import json_text

# The most that a heartbeat carries of this, compressed: with the rest, two units of DynamoDB.
_MOST_BYTES = 1300
_MOST_READ = 1 << 20
# The weight of a profile's heaviest slot.
_FINEST = 99
OTHERS = "(others)"
"""The name under which the tasks are added up that a heartbeat has no room for."""


class Called(NamedTuple):
    """A task on a queue."""

    queue: str
    task: str


@dataclass(slots=True)
class Handled:
    """Deliveries of a task that were settled.

    `tasks` counts the ends, `messages` also the deliveries that ended in a retry, and `size` their
    bodies' bytes. `records` counts what was stored of them, `stored` its bytes.
    """

    tasks: float = 0
    messages: float = 0
    size: float = 0
    records: float = 0
    stored: float = 0

    def add(self, other: Handled, share: float = 1) -> None:
        """Add a share of another one's."""
        self.tasks += other.tasks * share
        self.messages += other.messages * share
        self.size += other.size * share
        self.records += other.records * share
        self.stored += other.stored * share


@dataclass(slots=True)
class Sheet:
    """Counts of one time."""

    spent: dict[Spot, Spent] = field(default_factory=dict[Spot, Spent])
    handled: dict[Called, Handled] = field(default_factory=dict[Called, Handled])

    def __bool__(self) -> bool:
        return bool(self.spent)

    @property
    def requests(self) -> float:
        """The number of requests."""
        return sum(row.requests for row in self.spent.values())

    def add(self, other: Sheet, share: float = 1) -> None:
        """Add a share of another one's counts."""
        for spot, row in other.spent.items():
            self.spent.setdefault(spot, Spent()).add(row, share)
        for called, row in other.handled.items():
            self.handled.setdefault(called, Handled()).add(row, share)

    def grown(self, before: Sheet) -> Sheet:
        """Return what was counted since `before`, an earlier state of the same counts."""
        grown = Sheet()
        for spot, row in self.spent.items():
            old = before.spent.get(spot)
            if old is None or row != old:
                new = grown.spent.setdefault(spot, Spent())
                new.add(row)
                if old is not None:
                    new.add(old, -1)
        for called, row in self.handled.items():
            old = before.handled.get(called)
            if old is None or row != old:
                new = grown.handled.setdefault(called, Handled())
                new.add(row)
                if old is not None:
                    new.add(old, -1)
        return grown

    def shortened(self, most: int) -> Sheet:
        """Return a sheet of at most so many tasks; the ones with the fewest messages are one."""
        if len(self.handled) <= most:
            return self
        order = sorted(self.handled.items(), key=lambda pair: -pair[1].messages)
        short = Sheet(spent=self.spent, handled=dict(order[:most]))
        for called, row in order[most:]:
            short.handled.setdefault(Called(called.queue, OTHERS), Handled()).add(row)
        return short


@dataclass(slots=True)
class Span:
    """A sheet over some time, and the share of each slot of it.

    `length` is that of a slot in seconds; a slot's number is its start divided by that.
    `profile` has the requests of each slot.
    """

    length: int
    slots: int
    sheet: Sheet = field(default_factory=Sheet)
    profile: dict[int, float] = field(default_factory=dict[int, float])

    def first(self, now: float) -> int:
        """The number of the oldest slot that belongs to the time up to `now`."""
        return int(now // self.length) - self.slots + 1

    def share(self, now: float) -> float:
        """The share of the sheet that is not older than this span is long."""
        total = sum(self.profile.values())
        first = self.first(now)
        fresh = sum(weight for slot, weight in self.profile.items() if slot >= first)
        return fresh / total if total else 0.0


def hour() -> Span:
    """An empty hour, in slots of five minutes."""
    return Span(length=300, slots=12)


def day() -> Span:
    """An empty day, in slots of an hour."""
    return Span(length=3600, slots=24)


@dataclass(slots=True)
class Usage:
    """The last hour and the last day of a worker, or of several."""

    hour: Span = field(default_factory=hour)
    day: Span = field(default_factory=day)


def to_bytes(usage: Usage) -> bytes:
    """Write the counts for a heartbeat; the rarest tasks are one where they are too many."""
    most = max(len(usage.hour.sheet.handled), len(usage.day.sheet.handled), 1)
    while True:
        spans = [_span_rows(span, most) for span in (usage.hour, usage.day)]
        written = zlib.compress(json_text([1, *spans]), 9)
        if len(written) <= _MOST_BYTES or most <= 1:
            return written
        most //= 2


def from_bytes(data: bytes) -> Usage | None:
    """Read the counts of a heartbeat; None for what a newer release or a stranger wrote."""
    try:
        text = zlib.decompressobj().decompress(data, _MOST_READ)
        version, first, second = orjson.loads(text)
        if version != 1:
            return None
        usage = Usage()
        _read_span(usage.hour, first)
        _read_span(usage.day, second)
    except (zlib.error, ValueError, TypeError, AttributeError):
        return None
    return usage


def _span_rows(span: Span, most: int) -> list[Any]:
    sheet = span.sheet.shortened(most)
    return [
        [[*spot, *_numbers(row)] for spot, row in sheet.spent.items()],
        [[*called, *_numbers(row)] for called, row in sheet.handled.items()],
        _packed(span.profile),
    ]


def _packed(profile: Mapping[int, float]) -> list[int]:
    """Write a profile as its first slot, and the weight of each from there on."""
    most, first = max(profile.values(), default=0), min(profile, default=0)
    if not most:
        return []
    weights = (profile.get(slot, 0) for slot in range(first, max(profile) + 1))
    return [first, *(ceil(weight * _FINEST / most) for weight in weights)]


def _numbers(row: Spent | Handled) -> list[float]:
    return [_plain(getattr(row, each.name)) for each in fields(row)]


def _plain(value: float) -> float:
    """Return a number of at most four digits and zeros: more would cost more than they tell."""
    rounded = round(value, 1 - max(0, len(str(int(value))) - 3))
    return int(rounded) if rounded == int(rounded) else rounded


def _read_span(span: Span, rows: Iterable[Any]) -> None:
    spent, handled, profile = rows
    for call, place, price, *numbers in spent:
        span.sheet.spent[Spot(str(call), str(place), str(price))] = Spent(*map(_number, numbers))
    for queue, task, *numbers in handled:
        span.sheet.handled[Called(str(queue), str(task))] = Handled(*map(_number, numbers))
    for place, weight in enumerate(profile[1:]):
        if weight:
            span.profile[int(_number(profile[0])) + place] = _number(weight)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e18:
        raise ValueError(f"{value!r} is no count")
    return value


def together(usages: Iterable[Usage], now: float) -> Usage:
    """Add up what several workers have counted, as far as it is not too old at `now`."""
    found = Usage()
    for usage in usages:
        for sum_, span in ((found.hour, usage.hour), (found.day, usage.day)):
            share = span.share(now)
            if share:
                sum_.sheet.add(span.sheet, share)
            first = span.first(now)
            for slot, weight in span.profile.items():
                if slot >= first:
                    sum_.profile[slot] = sum_.profile.get(slot, 0) + weight
    return found


def spent_rows(spent: Mapping[Spot, Spent]) -> list[tuple[str, str, str, float, float, float]]:
    """Return counts as plain rows, for a pipe between processes."""
    return [
        (spot.call, spot.place, spot.price, row.requests, row.items, row.units)
        for spot, row in spent.items()
    ]
