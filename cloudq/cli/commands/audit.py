"""`cloudq audit`: shows what operators did, with commands and in the dashboard."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cloudq.cli.options import JsonOption, Target, common, refuse_memory, require_file
from cloudq.cli.output import emit, local, note, table
from cloudq.cli.times import moment
from cloudq.operations import audit as operations
from cloudq.operations.audit import Entry
from cloudq.text import iso_time


@common
def audit(
    target: Target,
    who: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this user, as it is shown.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="ACTION", help="Only this action, such as redrive.")
    ] = None,
    since: Annotated[
        str,
        typer.Option(metavar="TIME", help="Only after this: 2h or 3d ago, or 2026-11-20T10:00."),
    ] = "7d",
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Maximum number to show.")
    ] = 100,
    json: JsonOption = False,
) -> None:
    """Show what operators did with commands and in the dashboard, newest first.

    Entries are kept for 90 days. Makes one query for each day.
    """
    app = target.open()
    refuse_memory(app)
    require_file(app)
    with app:
        after = moment("--since", since) or 0.0
        found = operations.read(app, limit=count, since=after, who=who, action=action)
    if json:
        emit([asdict(entry) | {"at": iso_time(entry.at)} for entry in found.entries])
        return
    columns = ["TIME", "WHO", "BY", "ACTION", "ON WHAT", "COUNT", "OUTCOME"]
    table(columns, map(_row, found.entries), empty="nobody has acted in this time")
    if not found.complete:
        note(f"the newest {len(found.entries):,}; --count shows more")


def _row(entry: Entry) -> list[object]:
    return [
        local(entry.at),
        entry.who,
        entry.via,
        entry.action,
        entry.what,
        entry.count,
        entry.outcome,
    ]


def add_to(program: typer.Typer) -> None:
    """Add `audit` to the commands of `cloudq`."""
    program.command()(audit)
