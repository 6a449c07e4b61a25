"""`cloudq tasks`: lists finished tasks and shows one, from recorded events."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import orjson
import typer

from cloudq.app import CloudQ
from cloudq.cli.commands.result import as_json
from cloudq.cli.options import JsonOption, Target, common, refuse_memory
from cloudq.cli.output import complain, duration, emit, fields, local, note, say, shorten, table
from cloudq.errors import ConfigurationError
from cloudq.monitoring.event_log import FINAL, TRACKED, Reader
from cloudq.results.events import Event
from cloudq.results.record import Record, State
from cloudq.settings import Level
from cloudq.text import AsIs

cli = typer.Typer(no_args_is_help=True, help="List finished tasks, or show one.")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_REDACTED = "redacted: --args shows them"

Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="TASK", help="Only this task; may be repeated."),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state", metavar="STATE", help="Only this state; may be repeated. Default: final states."
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Only after this: 90s, 10m, 2h or 3d ago, or 2026-11-20T10:00.",
    ),
]
ArgsOption = Annotated[bool, typer.Option("--args", help="Show the arguments.")]


@cli.command("list")
@common
def list_tasks(
    target: Target,
    state: States = None,
    name: Names = None,
    since: Since = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Maximum number to show.")
    ] = 100,
    args: ArgsOption = False,
    json: JsonOption = False,
) -> None:
    """List recently finished tasks, newest first.

    Makes one query per task and state; --name and --state reduce the cost.
    """
    states, after = states_of(state), since_of(since)
    app = target.open()
    with app:
        reader = reader_of(app)
        events = reader.newest(names=name, states=states, since=after, limit=count)
        level = app.runtime.event_level
    if json:
        emit([event_json(event, args=args) for event in events])
        return
    columns = ["TIME", "STATE", "TASK", "ID", "TOOK", "TRIES", "WORKER", "ERROR"]
    rows = [
        [
            local(event.at),
            str(event.state),
            event.task,
            event.id,
            duration(event.took),
            event.retries + 1,
            event.worker,
            _why(event),
        ]
        for event in events
    ]
    if args:
        columns.append("ARGUMENTS")
        rows = [[*row, event.args] for row, event in zip(rows, events, strict=True)]
    table(columns, rows, empty="no matching events")
    warn_unrecorded(level, states)


@cli.command()
@common
def show(
    target: Target,
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")],
    args: ArgsOption = False,
    json: JsonOption = False,
) -> int:
    """Show one task: its record and its events, oldest first.

    Arguments are hidden unless --args is given. The exit code is 1 if there is no such task.
    """
    app = target.open()
    with app:
        trail = reader_of(app).trail(id)
        level = app.runtime.event_level
    if trail is None:
        complain(f"no record of task {id}: it has not finished, or its record has expired")
        return 1
    if json:
        events = [event_json(event, args=args) for event in trail.events]
        emit(as_json(trail.record) | {"events": events})
        return 0
    _show(trail.record, trail.events, args=args)
    warn_unrecorded(level, FINAL)
    return 0


def _show(record: Record, events: Sequence[Event], *, args: bool) -> None:
    kept = next((event.args for event in events if event.args), None)
    error = ": ".join(filter(None, (record.error_type, record.error))) or None
    fields(
        (
            ("id", record.id),
            ("task", record.task or None),
            ("state", str(record.state)),
            ("arguments", (kept if args else _REDACTED) if kept else None),
            ("error", error),
            ("retries", record.retries),
            ("queue", record.queue),
            ("worker", record.worker),
        )
    )
    for event in events:
        say(line_of(event))


def line_of(event: Event, *, args: bool = False) -> str:
    """Write an event as one line."""
    took = f" in {duration(event.took)}" if event.took is not None else ""
    where = f" on {event.worker}" if event.worker else ""
    why = _why(event)
    said = f" {event.args}" if args and event.args else ""
    moment = datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S")
    head = f"{moment} {event.state:<8} {event.task} {event.id}{took}{where}{said}"
    return f"{head}: {why}" if why else head


def _why(event: Event) -> str | None:
    said = ": ".join(filter(None, (event.error_type, event.error)))
    return shorten(said, 200) if said else None


def event_json(event: Event, *, args: bool) -> dict[str, object]:
    """Return an event as plain JSON, its arguments only if `args` is set."""
    found = asdict(event)
    kept = found.pop("args")
    if args and kept is not None:
        try:
            found["args"], found["kwargs"] = map(AsIs, orjson.loads(kept))
        except ValueError:  # only its beginning was stored
            found["args_text"] = AsIs(kept)
    return found


def reader_of(app: CloudQ) -> Reader:
    """Return a reader of the app's events. Raises `ConfigurationError` without a store."""
    refuse_memory(app)
    return Reader(app.control.backend)


def states_of(given: list[str] | None) -> tuple[State, ...]:
    """Read state names. Raises `ConfigurationError` for an unknown one."""
    if not given:
        return FINAL
    wanted = [name.strip().upper() for each in given for name in each.split(",")]
    for name in wanted:
        if name not in set(map(str, TRACKED)):
            known = ", ".join(map(str, TRACKED))
            raise ConfigurationError(f"--state {name}: events have the states {known}")
    return tuple(State(name) for name in dict.fromkeys(wanted))


def since_of(given: str | None) -> float:
    """Read a moment as epoch seconds; 0 for none. Raises `ConfigurationError`."""
    if given is None:
        return 0.0
    span = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", given.strip())
    if span is not None:
        return time.time() - float(span[1]) * _UNITS[span[2]]
    try:
        return datetime.fromisoformat(given).astimezone().timestamp()
    except ValueError as error:
        raise ConfigurationError(
            f"--since {given}: give a span such as 90s, 10m, 2h or 3d, "
            "or a time such as 2026-11-20T10:00"
        ) from error


def warn_unrecorded(level: Level, states: tuple[State, ...]) -> None:
    """Print a note if such events are not recorded."""
    if level is Level.NONE:
        note("events are recorded only if workers have task_events=final; the default is none")
    elif level is Level.FINAL and set(states) - set(FINAL):
        note("STARTED and RETRY are recorded only with task_events=tracked")


def add_to(program: typer.Typer) -> None:
    """Add `tasks` and its commands to those of `cloudq`."""
    program.add_typer(cli, name="tasks")
