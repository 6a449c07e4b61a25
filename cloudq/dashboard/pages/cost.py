"""The data of the bill: what workers have counted, by queue and task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.visit import Visit
from cloudq.monitoring.costs.bill import Line
from cloudq.monitoring.costs.savings import Saving
from cloudq.operations import costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A bill: its lines, its sum, and what would save. `prices` says where prices are from."""

    lines: Sequence[Line]
    total: Line
    start: float
    end: float
    workers: int
    dollars_a_month: float
    savings: Sequence[Saving]
    prices: Sequence[str]
    nothing: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The bill of the last hour or day."""

    span: str
    found: Part[Found]


def data(watch: Watch, visit: Visit) -> Page:
    """Make the bill of the span that a query names."""
    span = "day" if visit.query.get("span") == "day" else "hour"
    ttl = max(15.0, watch.looks.refresh) * 0.9
    return Page(span=span, found=watch.part(("cost", span), _found, watch.app, span, ttl=ttl))


def _found(app: CloudQ, span: str) -> Found:
    made = costs.costs(app, day=span == "day")
    return Found(
        lines=made.bill.lines,
        total=made.bill.total,
        start=made.start,
        end=made.end,
        workers=made.workers,
        dollars_a_month=made.dollars_a_month,
        savings=made.savings,
        prices=[f"{t.service}, {t.regions[0]}, {t.date}" for t in made.prices.tariffs],
        nothing=made.nothing,
    )
