"""`cloudq top`: shows queues, workers, running tasks and failures, live."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.cli.options import JsonOption, Target, common, refuse_memory, require_file
from cloudq.cli.output import complain, console, emit, note, print_drawn
from cloudq.operations.overview import Overview, is_billed, overview
from cloudq.text import iso_time

# Lines, more than there are rows: what is printed is not cut.
_ENDLESS = 10_000


@common
def top(
    target: Target,
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
    every: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Look again after this. Default: 2, or 10 where requests are billed.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show queues, workers, running tasks and failures, live, with rates.

    Keys: q quits, s sorts the queues, / filters by text, p pauses, r looks at once. Without a
    terminal it prints once.
    """
    app = target.open()
    refuse_memory(app)
    require_file(app)
    pause = every if every is not None else (10.0 if is_billed(app) else 2.0)
    with app:
        if json or once or not sys.stdout.isatty():
            seen = overview(app)
            if json:
                emit(as_json(seen))
                return
            _print(app, seen)
            for part, why in seen.problems.items():  # whole, where the table has cut them
                complain(f"{part}: {why}", kind="warning")
            if not once:
                note("no terminal to draw on: printed once")
            return
        from cloudq.cli.top.loop import watch

        watch(app, pause, _cost(app, pause))


def as_json(seen: Overview) -> dict[str, Any]:
    """Return an overview as plain JSON."""
    return {
        "at": iso_time(seen.at),
        "queues": [asdict(row) for row in seen.queues],
        "workers": [
            asdict(row) | {"started": iso_time(row.started), "seen": iso_time(row.seen)}
            for row in seen.workers
        ],
        "running": [asdict(row) | {"since": iso_time(row.since)} for row in seen.running],
        "failures": [asdict(row) | {"latest_at": iso_time(row.latest_at)} for row in seen.failures],
        "due": [
            {"name": row.name, "task": row.task, "next": row.next and row.next.isoformat()}
            for row in seen.due
        ],
        "dollars_a_month": seen.costs.dollars_a_month if seen.costs is not None else None,
        "problems": dict(seen.problems),
    }


def _print(app: CloudQ, seen: Overview) -> None:
    from cloudq.cli.top.screen import View, drawn

    print_drawn(drawn(seen, View(), app.name, width=console().width, height=_ENDLESS))


def _cost(app: CloudQ, every: float) -> str:
    """Say how many requests looking makes, where they are billed."""
    if not is_billed(app):
        return ""
    queues = len(app.queues())
    # Three for each queue; pauses, workers, counts, names of failures, schedules and their leader.
    requests = 3 * queues + 6
    return f", about {requests * 3600 / every:,.0f} requests an hour"


def add_to(program: typer.Typer) -> None:
    """Add `top` to the commands of `cloudq`."""
    program.command()(top)
