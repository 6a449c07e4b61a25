"""Estimates what a number of tasks a day would cost, by the rules by which requests are billed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp

from cloudq.driver.billing import (
    ACK,
    GET,
    LOOK,
    POLL,
    PUT,
    RECEIVE,
    SEND,
    UPDATE,
    Rate,
    Tariff,
)
from cloudq.errors import ConfigurationError
from cloudq.monitoring.costs.prices import PriceTable
from cloudq.monitoring.costs.sheet import Handled, Sheet

DAY = 86_400
MONTH_DAYS = 30
# Bytes of a record besides the value, and of a heartbeat.
RECORD, _HEARTBEAT = 300, 900
# Bytes that a bundle may have: SQS bills each 64 KB.
_BUNDLE_SIZE = 65_536
_TIMES = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": DAY,
    "day": DAY,
    "week": 7 * DAY,
    "month": MONTH_DAYS * DAY,
}
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_RATE = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmgb]?)\s*(?:/|per)\s*([a-z]+)", re.IGNORECASE
)
_MOST = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A number of tasks a day, and how they are sent, run and stored. Sizes are bytes.

    `together`, `received` and `acked` are messages a request; `stored` is the share of tasks whose
    result is stored, `reads` how often a caller reads each of them.
    """

    tasks: float
    payload: float = 500
    result: float = 200
    together: float = 1
    received: float = 10
    acked: float = 10
    stored: float = 1
    reads: float = 1
    bundle: int = 1
    workers: int = 1
    queues: int = 1
    poll_wait: float = 20
    heartbeat: float = 15
    ordered: bool = False

    @property
    def bundled(self) -> int:
        """The calls of a bundle, as far as they fit into it."""
        return max(1, min(self.bundle, int(_BUNDLE_SIZE // max(self.payload, 1))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a plan's costs: requests, units and dollars a day."""

    name: str
    requests: float
    units: float
    dollars: float


def tasks_a_day(text: str) -> float:
    """Read `5M/day`, `200/s` or `1.5k/hour`. Raises `ConfigurationError`."""
    found = _RATE.fullmatch(text.strip())
    per = _TIMES.get(found[3].lower().removesuffix("s") or "s") if found else None
    if found is None or per is None or not float(found[1]):
        raise ConfigurationError(
            f"--estimate is {text[:40]!r}: give the tasks of a time, such as 5M/day or 200/s "
            "(k, M or G; second, minute, hour, day, week or month)"
        )
    tasks = float(found[1]) * _FACTORS[found[2].lower()] * DAY / per
    if tasks > _MOST:
        raise ConfigurationError(f"--estimate is {text[:40]!r}: 10^15 tasks a day at most")
    return tasks


def measured(sheet: Sheet, seconds: float, plan: Plan) -> Plan:
    """Return the plan with what some counts of so many seconds tell in place of its defaults."""
    total = Handled()
    for row in sheet.handled.values():
        total.add(row)
    if not total.tasks or not total.messages:
        return plan
    stored = total.records / total.tasks
    return replace(
        plan,
        tasks=total.tasks * DAY / seconds if seconds else plan.tasks,
        payload=total.size / total.messages,
        result=max(0.0, total.stored / total.records - RECORD) if total.records else 0.0,
        received=_items(sheet, RECEIVE) or plan.received,
        acked=_items(sheet, ACK) or plan.acked,
        stored=min(1.0, stored),
        reads=plan.reads if stored else 0.0,
        queues=len({called.queue for called in sheet.handled}),
    )


def _items(sheet: Sheet, call: str) -> float:
    rows = [row for spot, row in sheet.spent.items() if spot.call == call]
    requests = sum(row.requests for row in rows)
    return max(1.0, sum(row.items for row in rows) / requests) if requests else 0.0


def parts(
    plan: Plan, broker: Tariff | None, store: Tariff | None, prices: PriceTable
) -> list[Part]:
    """Return the costs of a plan a day, part by part; a free service has none."""
    return [*_broker_parts(plan, broker, prices), *_store_parts(plan, store, prices)]


def dollars(found: Sequence[Part]) -> float:
    """Return the dollars a day of some parts."""
    return sum(part.dollars for part in found)


def _broker_parts(plan: Plan, tariff: Tariff | None, prices: PriceTable) -> Iterator[Part]:
    if tariff is None:
        return
    messages, size = plan.tasks / plan.bundled, plan.payload * plan.bundled
    together = 1 if plan.bundled > 1 else plan.together
    name = "q.fifo" if plan.ordered else "q"
    for title, call, items, each in (
        (f"send, {together:.3g} a request", SEND, together, size),
        (f"receive, {plan.received:.3g} a request", RECEIVE, plan.received, size),
        (f"ack, {plan.acked:.3g} a request", ACK, plan.acked, 0.0),
    ):
        yield _part(title, tariff, call, messages / items, items, each * items, name, prices)
    # A worker polls when nothing has come within the wait: with messages at random times.
    waits = plan.queues * plan.workers * DAY / max(plan.poll_wait, 1)
    idle = exp(-min(700.0, messages / waits)) if waits else 0.0
    yield _part("idle polls", tariff, POLL, waits * idle, 0, 0.0, name, prices)


def _store_parts(plan: Plan, tariff: Tariff | None, prices: PriceTable) -> Iterator[Part]:
    if tariff is None:
        return
    items = plan.tasks / plan.bundled
    size = RECORD + plan.result * plan.bundled
    look, get = _first(tariff, LOOK, GET), _first(tariff, UPDATE, PUT)
    at = plan.received
    yield _part("look before a run", tariff, look, items / at, at, 0.0, "", prices)
    stored = items * plan.stored
    yield _part("store results", tariff, PUT, stored / at, at, size * at, "", prices)
    reads = stored * plan.reads
    yield _part("read results", tariff, look, reads, 1, size, "", prices)
    if plan.heartbeat:
        beats = plan.workers * DAY / plan.heartbeat
        yield _part("heartbeats", tariff, get, beats, 1, _HEARTBEAT, "", prices)


def _first(tariff: Tariff, call: str, other: str) -> str:
    return call if call in tariff.calls else other


def _part(
    title: str,
    tariff: Tariff,
    call: str,
    requests: float,
    items: float,
    size: float,
    place: str,
    prices: PriceTable,
) -> Part:
    rates: Sequence[Rate] = tariff.calls.get(call, ())
    units = {rate.price_at(place): requests * rate.units(items, size) for rate in rates}
    return Part(
        name=title,
        requests=requests,
        units=sum(units.values()),
        dollars=sum(prices.dollars(price, count) for price, count in units.items()),
    )
