"""Turns counts into a bill: the requests, the units and the dollars of each queue and task.

A queue's requests are known exactly, and those of a task that is alone on its queue. Where tasks
share a queue, a request has messages of several: it is shared by the number of their messages, and
the writes of records by their size. Idle polls and heartbeats are nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cloudq.driver.billing import (
    DELETE,
    GET,
    LOOK,
    OTHER,
    POLL,
    PUT,
    QUERY,
    SEND,
    UPDATE,
    Rate,
    Spent,
)
from cloudq.monitoring.costs.prices import PriceTable
from cloudq.monitoring.costs.sheet import Called, Handled, Sheet

_STORE = frozenset({PUT, GET, LOOK, UPDATE, QUERY, DELETE})
_RECORDS = frozenset({"task", "series", "bundle"})
NOBODY = "-"
"""Stands for the queue of what belongs to none."""

# The kinds of items in the store that are no records, as the bill calls them.
_KINDS: Mapping[str, str] = {
    "workers": "(heartbeats)",
    "reply": "(commands)",
    "join": "(chords and groups)",
    "steps": "(chains)",
    "group": "(groups)",
    "parking": "(delayed messages)",
    "rate": "(rate limits)",
    "busy": "(concurrency limits)",
    "unique": "(unique calls)",
    "purged": "(unique calls)",
    "once": "(idempotent calls)",
    "step": "(checkpoints)",
    "state": "(checkpoints)",
    "firing": "(schedules)",
    "beat": "(schedules)",
    "schedules": "(schedules)",
    "paused": "(paused queues)",
    "audit": "(audit log)",
    "": "(other)",
}


@dataclass(slots=True, kw_only=True)
class Line:
    """The costs of a task on a queue, or of what belongs to no task: then `tasks` is 0.

    `estimated` is the part of the requests that nobody has counted.
    """

    queue: str
    task: str
    tasks: float = 0
    requests: float = 0
    estimated: float = 0
    units: float = 0
    dollars: float = 0

    def add(self, other: Line) -> None:
        """Add another line's amounts."""
        self.tasks += other.tasks
        self.requests += other.requests
        self.estimated += other.estimated
        self.units += other.units
        self.dollars += other.dollars


@dataclass(slots=True, kw_only=True)
class Bill:
    """Lines by queue and task, the dearest first."""

    lines: list[Line] = field(default_factory=list[Line])

    @property
    def total(self) -> Line:
        """The sum of all lines."""
        total = Line(queue=NOBODY, task="total")
        for line in self.lines:
            total.add(line)
        return total

    def by(self, *, queue: bool = True, task: bool = True) -> list[Line]:
        """Return the lines added up by queue, by task, or both; what they lose is empty."""
        found: dict[Called, Line] = {}
        for line in self.lines:
            called = Called(line.queue if queue else "", line.task if task else "")
            found.setdefault(called, Line(queue=called.queue, task=called.task)).add(line)
        return sorted(found.values(), key=_dearest)


def _dearest(line: Line) -> tuple[bool, float, str, str]:
    return not line.tasks, -line.dollars, line.queue, line.task


def bill(sheet: Sheet, prices: PriceTable, *, sent_together: float = 1) -> Bill:
    """Make the bill of some counts.

    Programs that are no workers have no heartbeat. What they send is taken as one request for
    `sent_together` messages: all that was handled and that no worker has sent.
    """
    made = _Making(sheet, prices)
    for spot, row in sheet.spent.items():
        dollars = prices.dollars(spot.price, row.units)
        if spot.call in _STORE:
            made.store(spot.call, spot.place, row, dollars)
        elif spot.call in (POLL, OTHER):
            name = "(idle polls)" if spot.call == POLL else "(other requests)"
            made.add(spot.place or NOBODY, name, row, dollars)
        else:
            made.share(made.by_messages(spot.place), spot.place, row, dollars)
    for queue, spent, dollars in unseen_sends(sheet, prices, sent_together):
        made.share(made.by_messages(queue), queue, spent, dollars, estimated=True)
    return Bill(lines=sorted(made.lines.values(), key=_dearest))


class _Making:
    """A bill under construction."""

    def __init__(self, sheet: Sheet, prices: PriceTable) -> None:
        self._sheet = sheet
        self.lines: dict[Called, Line] = {
            called: Line(queue=called.queue, task=called.task, tasks=row.tasks)
            for called, row in sheet.handled.items()
        }

    def by_messages(self, queue: str | None = None) -> dict[Called, float]:
        """The messages of each task of a queue, or of all."""
        return {
            called: row.messages
            for called, row in self._sheet.handled.items()
            if queue in (None, called.queue)
        }

    def store(self, call: str, kind: str, row: Spent, dollars: float) -> None:
        """Add requests to the store: those about records belong to the tasks."""
        if kind not in _RECORDS:
            self.add(NOBODY, _KINDS.get(kind, f"({kind})"), row, dollars)
        elif call in (PUT, UPDATE):
            sizes = {called: _weight(each) for called, each in self._sheet.handled.items()}
            self.share(sizes, NOBODY, row, dollars)
        else:
            self.share(self.by_messages(), NOBODY, row, dollars)

    def share(
        self,
        weights: Mapping[Called, float],
        queue: str,
        row: Spent,
        dollars: float,
        *,
        estimated: bool = False,
    ) -> None:
        """Share requests among tasks by their weights; with no task they are the queue's."""
        total = sum(weights.values())
        if not total:
            self.add(queue or NOBODY, "(no task)", row, dollars)
            return
        for called, weight in weights.items():
            part = weight / total
            spent = Spent()
            spent.add(row, part)
            self.add(*called, spent, dollars * part, estimated=estimated)

    def add(
        self, queue: str, task: str, row: Spent, dollars: float, *, estimated: bool = False
    ) -> None:
        """Add requests to a line."""
        line = self.lines.setdefault(Called(queue, task), Line(queue=queue, task=task))
        line.requests += row.requests
        line.estimated += row.requests if estimated else 0
        line.units += row.units
        line.dollars += dollars


def _weight(row: Handled) -> float:
    """Return the share in writes that a task's records have: a record is one, and each KB more."""
    return max(row.records, row.stored / 1024)


def unseen_sends(
    sheet: Sheet, prices: PriceTable, sent_together: float
) -> Iterable[tuple[str, Spent, float]]:
    """Estimate the sends that no worker has made, by queue: the requests and their dollars."""
    handled: dict[str, Handled] = {}
    for called, row in sheet.handled.items():
        handled.setdefault(called.queue, Handled()).add(row)
    for queue, row in handled.items():
        sent = sum(
            spent.items
            for spot, spent in sheet.spent.items()
            if spot.call == SEND and spot.place == queue
        )
        unseen, rates = row.messages - sent, _send_rates(sheet, prices, queue)
        if unseen <= 0 or rates is None:
            continue
        requests = unseen / sent_together
        spent = Spent(requests, unseen)
        dollars = 0.0
        for rate in rates:
            size = row.size / row.messages * sent_together
            units = requests * rate.units(sent_together, size)
            spent.units += units
            dollars += prices.dollars(rate.price_at(queue), units)
        yield queue, spent, dollars


def _send_rates(sheet: Sheet, prices: PriceTable, queue: str) -> Sequence[Rate] | None:
    """Return how a send to this queue is billed, by the service that its other requests went to."""
    found = {spot.price for spot in sheet.spent if spot.place == queue and spot.call not in _STORE}
    for tariff in prices.tariffs:
        if found & tariff.prices.keys():
            return tariff.calls.get(SEND, ())
    return None
