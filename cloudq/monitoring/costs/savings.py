"""Compares a plan with cheaper ones: bundles, batches, longer polls, ignored results, less text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cloudq.driver.billing import Tariff
from cloudq.monitoring.costs.plan import MONTH_DAYS, Plan, dollars, parts
from cloudq.monitoring.costs.prices import PriceTable

# msgpack or a compression makes small arguments about so much smaller.
_SMALLER = 0.7
_LONGEST_POLL = 20
# What saves a smaller share is not worth a line.
_LEAST = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """A change, the dollars a month that it saves, and that as a share of the whole."""

    change: str
    dollars: float
    share: float


_WAYS: tuple[tuple[str, Callable[[Plan], Plan]], ...] = (
    ("bundles of 100 calls (bundle=100)", lambda plan: replace(plan, bundle=100)),
    (
        "sends in batches of ten (with app.batch())",
        lambda plan: replace(plan, together=max(10, plan.together)),
    ),
    (
        "results ignored (ignore_result=True)",
        lambda plan: replace(plan, stored=0, reads=0),
    ),
    (
        f"polls of {_LONGEST_POLL} s (worker_poll_wait)",
        lambda plan: replace(plan, poll_wait=max(plan.poll_wait, _LONGEST_POLL)),
    ),
    (
        "heartbeats each minute (worker_heartbeat=60)",
        lambda plan: replace(plan, heartbeat=plan.heartbeat and max(plan.heartbeat, 60)),
    ),
    (
        "messages 30 % smaller (msgpack or compression)",
        lambda plan: replace(plan, payload=plan.payload * _SMALLER),
    ),
)


def savings(
    plan: Plan, broker: Tariff | None, store: Tariff | None, prices: PriceTable
) -> list[Saving]:
    """Return what each change alone would save, the most first."""
    return sorted(_each(plan, broker, store, prices), key=lambda saving: -saving.dollars)


def _each(
    plan: Plan, broker: Tariff | None, store: Tariff | None, prices: PriceTable
) -> Iterator[Saving]:
    now = dollars(parts(plan, broker, store, prices))
    for change, way in _WAYS:
        saved = now - dollars(parts(way(plan), broker, store, prices))
        if now and saved / now >= _LEAST:
            yield Saving(change=change, dollars=saved * MONTH_DAYS, share=saved / now)
