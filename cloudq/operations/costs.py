"""The bill of an app as its workers have counted it, and what would save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cloudq.app import CloudQ
from cloudq.driver import is_ordered
from cloudq.driver.adapters import adapter
from cloudq.driver.billing import Tariff
from cloudq.driver.loader import check_scheme
from cloudq.monitoring.costs.bill import Bill, bill
from cloudq.monitoring.costs.plan import Plan, measured
from cloudq.monitoring.costs.prices import PriceTable, checked_prices, known_tariffs
from cloudq.monitoring.costs.savings import Saving, savings
from cloudq.monitoring.costs.sheet import Sheet, Span, from_bytes, together

MONTH = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The prices to go by: the services of the app, and the user's own prices."""

    broker: Tariff | None
    store: Tariff | None
    own: Mapping[str, float]

    @property
    def tariffs(self) -> list[Tariff]:
        """The tariffs of what is billed."""
        return [tariff for tariff in (self.broker, self.store) if tariff is not None]

    def table(self) -> PriceTable:
        """Return all prices by name, with the user's own in place of the list's."""
        return PriceTable(known_tariffs(), self.own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The bill from `start` to `end` (epoch seconds), by the counts of `workers` workers.

    `nothing` says why there is none, and what to do.
    """

    bill: Bill
    sheet: Sheet
    start: float
    end: float
    workers: int
    savings: Sequence[Saving]
    prices: Prices
    nothing: str | None = None

    @property
    def dollars(self) -> float:
        """The sum."""
        return self.bill.total.dollars

    @property
    def dollars_a_month(self) -> float:
        """The sum for a month of thirty days at this rate."""
        return self.dollars / max(1.0, self.end - self.start) * MONTH


def costs(
    app: CloudQ,
    *,
    day: bool = False,
    prices: Prices | None = None,
    plan: Plan | None = None,
) -> Costs:
    """Make the bill of the last hour, or of the last `day`, from the counts in heartbeats.

    One query for each hundred workers. Raises `BackendError`, and `ConfigurationError` for an
    unknown service or a wrong price.
    """
    prices = prices or prices_of(app)
    plan = plan or plan_of(app)
    workers, span = counted(app, day=day)
    table = prices.table()
    made = bill(span.sheet, table, sent_together=plan.together)
    now = app.runtime.clock()
    start = min((slot for slot in span.profile), default=0) * span.length
    lasting = max(1.0, now - start)
    plan = replace(measured(span.sheet, lasting, plan), workers=max(1, workers))
    return Costs(
        bill=made,
        sheet=span.sheet,
        start=start,
        end=now,
        workers=workers,
        savings=savings(plan, prices.broker, prices.store, table) if made.lines else (),
        prices=prices,
        nothing=None if made.lines else why_nothing(app, prices),
    )


def counted(app: CloudQ, *, day: bool = False) -> tuple[int, Span]:
    """Return the number of workers that have counted something, and their sum."""
    written = app.control.heartbeats.usages() if app.backend is not None else []
    usages = [usage for data in written if (usage := from_bytes(data)) is not None]
    found = together(usages, app.runtime.clock())
    return len(usages), found.day if day else found.hour


def prices_of(app: CloudQ, own: Mapping[str, float] | None = None) -> Prices:
    """Return the prices of an app's services; `own` override those of the setting."""
    given = checked_prices(app.conf.prices, "the setting prices") | dict(own or {})
    store = app.conf.backend_url
    check_scheme("broker", app.conf.broker)
    if store is not None:
        check_scheme("backend", store)
    return Prices(
        broker=adapter(app.conf.broker).load_tariff(),
        store=adapter(store).load_tariff() if store is not None else None,
        own=given,
    )


def plan_of(app: CloudQ, *, sent_together: int = 1, bundle: int = 1) -> Plan:
    """Return what the settings of an app say of the use of its services."""
    conf = app.conf
    return Plan(
        tasks=0,
        together=sent_together,
        bundle=bundle,
        stored=0 if conf.task_ignore_result else 1,
        reads=0 if conf.task_ignore_result else 1,
        poll_wait=20.0 if conf.worker_poll_wait is None else conf.worker_poll_wait,
        heartbeat=conf.worker_heartbeat,
        ordered=is_ordered(conf.task_default_queue),
    )


def why_nothing(app: CloudQ, prices: Prices) -> str:
    """Say why nothing is counted, and what to do."""
    advice = '"cloudq cost --estimate 5M/day" estimates without counts'
    if not prices.tariffs:
        return f"{app.conf.broker} costs nothing: its requests are not billed"
    if app.conf.backend_url is None:
        return f"nothing is counted: workers leave their counts in the result store; {advice}"
    if not app.conf.worker_heartbeat:
        return f"nothing is counted: worker_heartbeat is 0, and the counts go with it; {advice}"
    return f"nothing is counted yet: no worker has sent a heartbeat with counts; {advice}"
