"""Counts the requests that a driver makes, in the units in which its service bills them.

An adapter declares a `Tariff`: its prices, and what each kind of call is billed for. Its driver has
a `Meter` and reports each request when it is answered. The core adds up what meters have counted,
and knows no service by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

from cloudq.driver.forks import renew_after_fork
from cloudq.driver.immutable import immutable
from cloudq.driver.queues import is_ordered

SEND, RECEIVE, POLL, ACK, EXTEND = "send", "receive", "poll", "ack", "extend"
"""The calls of a broker: `POLL` is a receive that got nothing, `EXTEND` also ends leases early."""
PUT, GET, LOOK, UPDATE, QUERY, DELETE = "put", "get", "look", "update", "query", "delete"
"""The calls of a store: `LOOK` is a read that may be a moment behind."""
SCHEDULE, OTHER = "schedule", "other"
"""A call that waits in a cloud's scheduler, and what belongs to no queue's daily work."""

FREE = ""
"""The price of a request that is not billed."""

# Queues and kinds of items are few; names that a program makes up could fill the memory.
_MOST_ROWS = 1000
_ELSEWHERE = "(others)"


class Spot(NamedTuple):
    """A call at a place, billed at a price: the key of a row.

    `place` is the queue's name of a broker's call, and the kind of item of a store's.
    """

    call: str
    place: str
    price: str


@dataclass(slots=True)
class Spent:
    """Requests, the messages or items in them, and the units that they are billed as."""

    requests: float = 0
    items: float = 0
    units: float = 0

    def add(self, other: Spent, share: float = 1) -> None:
        """Add a share of another one's."""
        self.requests += other.requests * share
        self.items += other.items * share
        self.units += other.units * share


@immutable
class Price:
    """The list price of `per` units, in US dollars; `unit` says in words what is counted."""

    dollars: float
    unit: str
    per: int = 1_000_000


@immutable
class Rate:
    """The rule by which one kind of call is billed at one price.

    A unit is each started `step` bytes of a request, or with `each` of an item; 0: size does not
    count. A request has at least `least` units. `factor` is that of calls at another rate, such as
    0.5. `ordered` is the price of queues that keep the order.
    """

    price: str
    ordered: str | None = None
    step: int = 0
    least: float = 1
    each: bool = False
    factor: float = 1.0

    def price_at(self, place: str) -> str:
        """Return the price of a call at this queue."""
        return self.ordered if self.ordered is not None and is_ordered(place) else self.price

    def units(self, items: float, size: float) -> float:
        """Return the units of one request with so many items, of so many bytes together."""
        if self.each:
            found = items * (max(1, ceil(size / items / self.step)) if self.step and items else 1)
        else:
            found = -(-size // self.step) if self.step else 1
        return (found if found > self.least else self.least) * self.factor


@immutable
class Tariff:
    """The prices of a service, and how its calls are billed.

    The prices hold in all of `regions`, the first of which is named; `date` is when they were
    looked up (year and month), `source` the page that has them. A call without a rate is free.
    `said` are sentences about what is counted otherwise than it is billed.
    """

    service: str
    regions: Sequence[str]
    date: str
    source: str
    prices: Mapping[str, Price]
    calls: Mapping[str, Sequence[Rate]] = field(default_factory=dict[str, "Sequence[Rate]"])
    said: Sequence[str] = ()


_Rated = list[tuple[Spent, Rate | None]]


class Meter:
    """Counts the requests of one driver. Safe to use from many threads; a microsecond a request.

    A driver that has one as its attribute `meter` is metered.
    """

    def __init__(self, tariff: Tariff) -> None:
        self.tariff = tariff
        self._renew()
        renew_after_fork(self, Meter._renew)

    def _renew(self) -> None:
        self._lock = Lock()
        self.changes = 0
        self._rows: dict[Spot, Spent] = {}
        self._rated: dict[tuple[str, str], _Rated] = {}

    def count(
        self, call: str, place: str = "", *, requests: int = 1, items: int = 0, size: int = 0
    ) -> None:
        """Count a call that made so many requests; `size` is in bytes, of all items together."""
        rated = self._rated.get((call, place)) or self._rate(call, place)
        with self._lock:
            self.changes += 1
            first = rated[0][0]
            first.requests += requests
            first.items += items
            for row, rate in rated:
                if rate is not None:
                    row.units += rate.units(items, size)

    def add(self, spot: Spot, requests: int, items: int, units: float) -> None:
        """Count requests whose units the caller knows."""
        with self._lock:
            row = self._row(spot)
            self.changes += 1
            row.requests += requests
            row.items += items
            row.units += units

    def _rate(self, call: str, place: str) -> _Rated:
        """Find the rows of a call at a place; their requests and items are those of the first."""
        with self._lock:
            rates = self.tariff.calls.get(call, ())
            found: _Rated = [
                (self._row(Spot(call, place, rate.price_at(place))), rate) for rate in rates
            ] or [(self._row(Spot(call, place, FREE)), None)]
            if len(self._rated) < _MOST_ROWS:
                self._rated[call, place] = found
            return found

    def _row(self, spot: Spot) -> Spent:
        row = self._rows.get(spot)
        if row is None:
            if len(self._rows) >= _MOST_ROWS:
                spot = spot._replace(place=_ELSEWHERE)
            row = self._rows.setdefault(spot, Spent())
        return row

    def rows(self) -> dict[Spot, Spent]:
        """Return a copy of what was counted since the driver was opened."""
        with self._lock:
            return {
                spot: Spent(row.requests, row.items, row.units) for spot, row in self._rows.items()
            }


def meter_of(driver: object) -> Meter | None:
    """Return a driver's meter; None where it has none, since its requests cost nothing."""
    found = getattr(driver, "meter", None)
    return found if isinstance(found, Meter) else None


class Readings:
    """Reads meters again and again, and returns what was counted since the last time."""

    def __init__(self) -> None:
        self._last: WeakKeyDictionary[Meter, dict[Spot, Spent]] = WeakKeyDictionary()
        self._changes: WeakKeyDictionary[Meter, int] = WeakKeyDictionary()

    def grown(self, meters: Iterable[Meter]) -> dict[Spot, Spent]:
        """Return the counts since the last reading; where nothing was counted it is over soon."""
        found: dict[Spot, Spent] = {}
        for meter in meters:
            changes = meter.changes
            if changes == self._changes.get(meter, 0):
                continue
            self._changes[meter] = changes
            rows, last = meter.rows(), self._last.get(meter, {})
            self._last[meter] = rows
            for spot, row in rows.items():
                before = last.get(spot)
                if row == before:
                    continue
                new = found.setdefault(spot, Spent())
                new.add(row)
                if before is not None:
                    new.add(before, -1)
        return found
