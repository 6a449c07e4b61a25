"""Prints bills, plans and prices for `cloudq cost`, as tables and as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cloudq.cli.output import emit, note, say, table
from cloudq.driver.billing import Tariff
from cloudq.monitoring.costs.bill import NOBODY, Bill, Line
from cloudq.monitoring.costs.plan import MONTH_DAYS, Part, Plan
from cloudq.monitoring.costs.prices import PriceTable, by_service
from cloudq.monitoring.costs.savings import Saving
from cloudq.monitoring.costs.sheet import Sheet

_MILLION = 1_000_000
_LEAST = 1e-9
_SHARED = (
    "a queue's requests are exact; tasks share them by messages, and writes of results by size",
    "not counted: cloud functions, and reads of results by programs that are no workers",
    "tries that an SDK makes again are counted where it tells of them (AWS, Azure Tables)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The services, prices and URLs that an output is about."""

    tariffs: Sequence[Tariff]
    own: Mapping[str, float]
    urls: tuple[str, str | None]

    def prices(self) -> str:
        """Say where the prices are from."""
        if not self.tariffs:
            return "nothing here is billed by request"
        listed = [
            f"{tariff.service} {tariff.regions[0]} {tariff.date}"
            for tariff in self.tariffs
            if not tariff.prices.keys() <= self.own.keys()
        ]
        own = f"{len(self.own)} of your own" if self.own else ""
        return f"prices: {', '.join(filter(None, [*listed, own]))}"


def show_bill(
    made: Bill,
    lines: Sequence[Line],
    ways: Sequence[Saving],
    shown: Shown,
    *,
    times: tuple[float, float],
    workers: int,
) -> None:
    """Print a bill, and what would save."""
    start, end = (time.strftime("%H:%M", time.localtime(moment)) for moment in times)
    say(f"{start} to {end}, counted by {workers} worker{'s' * (workers != 1)}")
    has_queue, has_task = any(line.queue for line in lines), any(line.task for line in lines)
    columns = ["QUEUE"] * has_queue + ["TASK"] * has_task
    columns += ["TASKS", "REQ/TASK", "UNITS/TASK", "$/MILLION", "DOLLARS"]
    total = made.total
    rows = [_row(line, has_queue=has_queue, has_task=has_task) for line in (*lines, total)]
    if not has_task:
        rows[-1][0] = "total"
    table(columns, rows, empty="")
    _show_savings(ways)
    note(shown.prices())
    if total.estimated:
        note(
            f"{total.estimated:,.0f} of {total.requests:,.0f} requests are estimated: the sends "
            "of programs that are no workers (--sent-together: messages a request)"
        )
    for sentence in (*_SHARED, *_said(shown)):
        note(sentence)


def _row(line: Line, *, has_queue: bool, has_task: bool) -> list[object]:
    names = [*[line.queue] * has_queue, *[line.task] * has_task]
    if not line.tasks:
        return [*names, None, None, None, None, money(line.dollars)]
    return [
        *names,
        f"{line.tasks:,.0f}",
        f"{line.requests / line.tasks:,.3f}",
        f"{line.units / line.tasks:,.3f}",
        money(line.dollars / line.tasks * _MILLION),
        money(line.dollars),
    ]


def _show_savings(ways: Sequence[Saving]) -> None:
    if not ways:
        return
    say("")
    rows = [[way.change, money(way.dollars), f"{way.share * 100:.0f}"] for way in ways]
    table(["WOULD SAVE, AT THIS RATE", "$/MONTH", "%"], rows, empty="")


def emit_bill(
    made: Bill,
    sheet: Sheet,
    prices: PriceTable,
    ways: Sequence[Saving],
    shown: Shown,
    *,
    times: tuple[float, float],
    workers: int,
) -> None:
    """Print a bill as JSON."""
    calls = [
        {
            "service": service,
            "call": call,
            "place": place,
            "requests": _count(spent.requests),
            "items": _count(spent.items),
            "units": _count(spent.units),
            "dollars": dollars,
        }
        for (service, call, place), (spent, dollars) in sorted(by_service(sheet, prices).items())
    ]
    start, end = times
    emit(
        {
            "since": start if made.lines else None,
            "until": end,
            "workers": workers,
            "lines": [_line(line) for line in made.lines],
            "calls": calls,
            "total": _line(made.total),
            "savings": [asdict(way) for way in ways],
            **_about(shown),
        }
    )


def _line(line: Line) -> dict[str, Any]:
    belongs = bool(line.tasks)
    return {
        "queue": None if line.queue == NOBODY else line.queue,
        "task": line.task if belongs and line.task != "total" else None,
        "what": None if belongs else line.task.strip("()"),
        "tasks": _count(line.tasks),
        "requests": _count(line.requests),
        "estimated_requests": _count(line.estimated),
        "units": _count(line.units),
        "dollars": line.dollars,
    }


def show_plan(
    plan: Plan,
    found: Sequence[Part],
    ways: Sequence[Saving],
    shown: Shown,
    *,
    is_measured: bool,
) -> None:
    """Print an estimate, and what would save."""
    broker, store = shown.urls
    say(f"{plan.tasks:,.0f} tasks a day on {broker}{f' and {store}' if store else ''}")
    total = Part(
        name="total",
        requests=sum(part.requests for part in found),
        units=sum(part.units for part in found),
        dollars=sum(part.dollars for part in found),
    )
    columns = ["PART", "REQ/TASK", "UNITS/TASK", "$/MILLION", "$/DAY", "$/MONTH"]
    rows = [
        [
            part.name,
            f"{part.requests / plan.tasks:,.3f}",
            f"{part.units / plan.tasks:,.3f}",
            money(part.dollars / plan.tasks * _MILLION),
            money(part.dollars),
            money(part.dollars * MONTH_DAYS),
        ]
        for part in (*found, total)
    ]
    table(columns, rows, empty="")
    _show_savings(ways)
    note(shown.prices())
    note(
        f"{'your averages' if is_measured else 'assumed'}: messages of {plan.payload:,.0f} bytes, "
        f"results of {plan.result:,.0f}, {plan.stored:.0%} stored, {plan.reads:g} reads of each, "
        f"{plan.workers} worker{'s' * (plan.workers != 1)}, full requests; no retries, no free tier"
    )
    for sentence in _said(shown):
        note(sentence)


def emit_plan(plan: Plan, found: Sequence[Part], ways: Sequence[Saving], shown: Shown) -> None:
    """Print an estimate as JSON; amounts are a day's."""
    emit(
        {
            "plan": asdict(plan),
            "parts": [asdict(part) for part in found],
            "dollars_a_day": sum(part.dollars for part in found),
            "dollars_a_month": sum(part.dollars for part in found) * MONTH_DAYS,
            "savings": [asdict(way) for way in ways],
            **_about(shown),
        }
    )


def show_prices(prices: PriceTable, *, json: bool) -> None:
    """Print the table of prices."""
    listed = prices.listed()
    if json:
        emit(
            [
                {
                    "name": name,
                    "dollars": dollars,
                    "list": price.dollars,
                    "per": price.per,
                    "unit": price.unit,
                    "service": tariff.service,
                    "regions": list(tariff.regions),
                    "date": tariff.date,
                    "source": tariff.source,
                }
                for name, price, tariff, dollars in listed
            ]
        )
        return
    rows = [
        [name, f"{dollars:.5g}", _per(price.per), price.unit, tariff.regions[0], tariff.date]
        for name, price, tariff, dollars in listed
    ]
    table(["NAME", "DOLLARS", "FOR", "UNIT", "REGION", "DATE"], rows, empty="no prices")
    for tariff in prices.tariffs:
        note(f"{tariff.service}: {tariff.source}")


def _per(per: int) -> str:
    return "1M" if per == _MILLION else "1"


def _about(shown: Shown) -> dict[str, Any]:
    return {
        "prices": [
            {
                "service": tariff.service,
                "regions": list(tariff.regions),
                "date": tariff.date,
                "source": tariff.source,
            }
            for tariff in shown.tariffs
        ],
        "own_prices": dict(shown.own),
        "notes": [*_SHARED, *_said(shown)],
    }


def _said(shown: Shown) -> list[str]:
    return [f"{tariff.service}: {said}" for tariff in shown.tariffs for said in tariff.said]


def _count(value: float) -> float:
    rounded = round(value, 3)
    return int(rounded) if rounded == int(rounded) else rounded


def money(dollars: float) -> str:
    """Write an amount in cents, or a small one with three digits that are not 0."""
    if dollars < _LEAST or dollars >= 10:
        return f"{dollars if dollars >= _LEAST else 0:,.2f}"
    places = next(places for places in range(3, 12) if dollars * 10 ** (places - 2) >= 1)
    return f"{dollars:.{places}f}"
