"""`cloudq cost`: shows what tasks cost, estimates a plan, and says what would save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.cli.cost_output import (
    Shown,
    emit_bill,
    emit_plan,
    show_bill,
    show_plan,
    show_prices,
)
from cloudq.cli.options import JsonOption, Target, common, missing_at, refuse_memory, require_file
from cloudq.cli.output import note
from cloudq.errors import CloudQError, ConfigurationError
from cloudq.monitoring.costs.plan import Plan, measured, parts, tasks_a_day
from cloudq.monitoring.costs.prices import (
    check_region,
    checked_prices,
    known_tariffs,
    prices_in_file,
)
from cloudq.monitoring.costs.savings import savings
from cloudq.operations.costs import Prices, costs, counted, plan_of, prices_of

_PLAN = "A plan"
_PRICES = "Prices"
# Bytes of the largest argument or result that any service takes.
_LARGEST = 1 << 24
_MOST_TOGETHER = 500


class Since(StrEnum):
    """The times that workers keep counts of."""

    HOUR = "1h"
    DAY = "1d"


class By(StrEnum):
    """The rows of the bill."""

    BOTH = "both"
    TASK = "task"
    QUEUE = "queue"


SinceOption = Annotated[Since, typer.Option(help="The last hour or the last day.")]
ByOption = Annotated[By, typer.Option(help="One row for each task, queue, or both.")]
EstimateOption = Annotated[
    str | None,
    typer.Option(metavar="TASKS", help="Estimate so many, such as 5M/day.", rich_help_panel=_PLAN),
]
PayloadOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="BYTES", help="Size of a message.", rich_help_panel=_PLAN),
]
ResultOption = Annotated[
    int | None,
    typer.Option(min=0, metavar="BYTES", help="Size of a result.", rich_help_panel=_PLAN),
]
IgnoreOption = Annotated[
    bool, typer.Option("--ignore-results", help="No result is stored.", rich_help_panel=_PLAN)
]
ReadsOption = Annotated[
    float | None, typer.Option(min=0, help="Reads of each result.", rich_help_panel=_PLAN)
]
TogetherOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=_MOST_TOGETHER,
        help="Messages that a program which is no worker sends in a request.",
        rich_help_panel=_PLAN,
    ),
]
BundleOption = Annotated[
    int, typer.Option(min=1, help="Calls in a message.", rich_help_panel=_PLAN)
]
WorkersOption = Annotated[
    int | None, typer.Option(min=0, help="Number of workers.", rich_help_panel=_PLAN)
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Your prices: TOML lines NAME = DOLLARS.", rich_help_panel=_PRICES
    ),
]
PriceOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=DOLLARS", help="One of your prices; repeatable.", rich_help_panel=_PRICES
    ),
]
RegionOption = Annotated[
    str | None, typer.Option(help="Check that the list has its prices.", rich_help_panel=_PRICES)
]
ListOption = Annotated[
    bool, typer.Option("--list-prices", help="Show names, prices, dates.", rich_help_panel=_PRICES)
]


@common
def cost(
    target: Target,
    since: SinceOption = Since.HOUR,
    by: ByOption = By.BOTH,
    estimate: EstimateOption = None,
    payload: PayloadOption = None,
    result: ResultOption = None,
    ignore_results: IgnoreOption = False,
    reads: ReadsOption = None,
    sent_together: TogetherOption = 1,
    bundle: BundleOption = 1,
    workers: WorkersOption = None,
    prices: FileOption = None,
    price: PriceOption = None,
    region: RegionOption = None,
    list_prices: ListOption = False,
    json: JsonOption = False,
) -> None:
    """Show what tasks cost, by queue and task; estimate a plan; say what would save.

    Workers count their requests, and leave the counts in their heartbeats. List prices, without
    free tiers, storage, traffic and machines.
    """
    app = target.open()
    known = _prices(app, prices, price or ())
    if region is not None:
        check_region(region, known_tariffs() if list_prices else known.tariffs, known.own)
    if list_prices:
        show_prices(known.table(), json=json)
        return
    plan = plan_of(app, sent_together=sent_together, bundle=bundle)
    with app:
        if estimate is None:
            require_file(app)
            _show_counted(app, known, since, by, plan, json=json)
            return
        wanted = tasks_a_day(estimate)
        changes = {
            "payload": _size(payload, "--payload"),
            "result": _size(result, "--result"),
            "stored": 0 if ignore_results else None,
            "reads": 0 if ignore_results else reads,
            "workers": workers,
        }
        plan, is_measured = _from_counts(app, known, plan)
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    _estimate(replace(plan, **given, tasks=wanted), known, app, json=json, is_measured=is_measured)


def _estimate(plan: Plan, known: Prices, app: CloudQ, *, json: bool, is_measured: bool) -> None:
    table = known.table()
    found = parts(plan, known.broker, known.store, table)
    ways = savings(plan, known.broker, known.store, table)
    shown = Shown(tariffs=known.tariffs, own=known.own, urls=_urls(app))
    if json:
        emit_plan(plan, found, ways, shown)
    else:
        show_plan(plan, found, ways, shown, is_measured=is_measured)


def _show_counted(
    app: CloudQ, known: Prices, since: Since, by: By, plan: Plan, *, json: bool
) -> None:
    """Show what workers have counted."""
    refuse_memory(app)
    shown = Shown(tariffs=known.tariffs, own=known.own, urls=_urls(app))
    found = costs(app, day=since is Since.DAY, prices=known, plan=plan)
    made, times = found.bill, (found.start, found.end)
    if json:
        table, ways = known.table(), found.savings
        emit_bill(made, found.sheet, table, ways, shown, times=times, workers=found.workers)
        return
    if found.nothing is not None:
        note(found.nothing)
        return
    lines = made.by(queue=by is not By.TASK, task=by is not By.QUEUE)
    show_bill(made, lines, found.savings, shown, times=times, workers=found.workers)


def _from_counts(app: CloudQ, known: Prices, plan: Plan) -> tuple[Plan, bool]:
    """Return the plan with the averages of the last day, if the store has any."""
    if known.store is None or missing_at(app.conf.backend_url) is not None:
        return plan, False
    try:
        workers, span = counted(app, day=True)
    except CloudQError as error:
        note(f"without averages of your tasks: {error}")
        return plan, False
    if not span.sheet.handled:
        return plan, False
    found = measured(span.sheet, 0, plan)
    return replace(found, workers=max(1, workers)), True


def _prices(app: CloudQ, file: Path | None, given: Sequence[str]) -> Prices:
    """Take the user's prices: an option wins over the file, and that over the setting."""
    own = {} if file is None else prices_in_file(file)
    return prices_of(app, own | checked_prices(dict(map(_pair, given)), "--price"))


def _pair(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    try:
        if not value.isascii():  # Python reads the digits of every script
            raise ValueError
        return name.strip(), float(value)
    except ValueError:
        shown = value if equals else "missing"
        raise ConfigurationError(
            f"--price {text[:60]!r}: the price is {shown[:40]}: write it as NAME=0.40"
        ) from None


def _size(value: int | None, option: str) -> int | None:
    if value is not None and value > _LARGEST:
        raise ConfigurationError(f"{option} is {value:,}: give bytes, {_LARGEST:,} at most")
    return value


def _urls(app: CloudQ) -> tuple[str, str | None]:
    return app.conf.broker, app.conf.backend_url


def add_to(program: typer.Typer) -> None:
    """Add `cost` to the commands of `cloudq`."""
    program.command()(cost)
