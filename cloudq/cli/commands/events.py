"""`cloudq events`: follows the events of tasks as they happen."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudq.cli.commands.tasks import (
    ArgsOption,
    Names,
    Since,
    States,
    reader_of,
    since_of,
    states_of,
    warn_unrecorded,
)
from cloudq.cli.options import JsonOption, Target, common, refuse_missing
from cloudq.cli.output import emit, note, say
from cloudq.cli.tasks_output import event_json, line_of
from cloudq.monitoring.event_log import FINAL, TRACKED
from cloudq.operations.tasks import recorded_states


@common
def events(
    target: Target,
    name: Names = None,
    state: States = None,
    since: Since = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=1, help="Stop after this many events.")
    ] = None,
    args: ArgsOption = False,
    json: JsonOption = False,
) -> None:
    """Follow the events of tasks until interrupted.

    Polls every two seconds with one query per task and state; --name and --state reduce the
    cost. --json prints one object per line.
    """
    after = since_of(since) or None
    app = target.open()
    refuse_missing(app.conf.backend_url)
    with app:
        kept = recorded_states(app)
        states = states_of(state) if state else (kept or TRACKED)
        warn_unrecorded(kept, FINAL)
        note("waiting for events; press Ctrl-C to stop")
        shown = 0
        for event in reader_of(app).follow(names=name, states=states, since=after):
            if event is None:
                continue
            if json:
                emit(event_json(event, args=args), indent=False)
            else:
                say(line_of(event, args=args))
            shown += 1
            if count is not None and shown >= count:
                return


def add_to(program: typer.Typer) -> None:
    """Add `events` to the commands of `cloudq`."""
    program.command()(events)
