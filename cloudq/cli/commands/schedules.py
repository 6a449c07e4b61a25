"""`cloudq schedules`: shows periodic tasks and changes them at run time."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.cli.commands import schedules_apply
from cloudq.cli.options import (
    JsonOption,
    Target,
    YesOption,
    common,
    missing_at,
    refuse_memory,
    refuse_missing,
)
from cloudq.cli.output import confirm, emit, note, say, table
from cloudq.errors import ConfigurationError, did_you_mean
from cloudq.operations import schedules as operations
from cloudq.operations.audit import local_actor
from cloudq.operations.schedules import ScheduleRow
from cloudq.schedules.cloud_cron import clouds_at
from cloudq.schedules.entry import CatchUp, RunOptions, utc
from cloudq.schedules.schedules import local
from cloudq.schedules.when import When, at, crontab, every, solar

cli = typer.Typer(no_args_is_help=True, help="Show and change periodic tasks.")

cli.command()(schedules_apply.plan)
cli.command()(schedules_apply.apply)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


@cli.command("list")
@common
def list_schedules(target: Target, json: JsonOption = False) -> None:
    """Show the schedules of the app, from its code and made at run time."""
    app = target.load()
    refuse_missing(app.conf.backend_url)
    with app:
        found = operations.schedules(app)
    if json:
        rows = [_row_json(row) for row in found.schedules]
        emit({"leader": found.leader, "schedules": rows})
        return
    table(
        ["NAME", "WHEN", "ZONE", "TASK", "STATE", "NEXT", "RUNS"],
        [_row(row) for row in found.schedules],
        empty="no schedules",
    )
    if found.leader:
        note(f"sent by {found.leader}")
    elif found.schedules:
        note("no beat is running (`cloudq beat` or a cloud's scheduler sends these)")


def _row(row: ScheduleRow) -> list[object]:
    if row.problem is not None:
        return [row.name, None, None, None, row.problem, None, None]
    following = row.next and row.next.strftime("%a %Y-%m-%d %H:%M:%S %Z")
    return [row.name, row.when, row.timezone, row.task, row.state, following, row.runs]


def _row_json(row: ScheduleRow) -> dict[str, Any]:
    times = {"next": row.next and row.next.isoformat(), "last": row.last and row.last.isoformat()}
    return asdict(row) | times


@cli.command("next")
@common
def next_runs(
    target: Target,
    name: Name,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Number of runs to show.")
    ] = 10,
    after: Annotated[
        datetime | None,
        typer.Option(help="Start from this time, in the schedule's zone. Default: now."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the next runs of a schedule, in its own time zone.

    Notes times that differ on a cloud's scheduler, such as at daylight-saving changes.
    """
    app = target.load()
    with app:
        declared = app.schedules.declared()
        if name not in declared and missing_at(app.conf.backend_url) is not None:
            meant = did_you_mean(name, declared)
            if meant:
                raise ConfigurationError(f"there is no schedule {name!r}: {meant}")
            refuse_missing(app.conf.backend_url)  # where those made at run time are
        entry = declared.get(name) or app.schedules.entry(name)
        start = utc(app.runtime.clock()) if after is None else entry.bound(after)
        assert start is not None  # `after` is not None
        moments = list(islice(entry.runs(start), count))
    differing = clouds_at(entry, start, moments[-1]) if moments else []
    if json:
        emit(
            {
                "name": name,
                "timezone": entry.timezone,
                "runs": [moment.astimezone(entry.zone).isoformat() for moment in moments],
                "differs": [each.as_json(entry.zone) for each in differing],
            }
        )
        return
    for moment in moments:
        say(local(moment, entry))
    if not moments:
        say(f"{name} has no more runs: {entry.over(start)}")
    for each in differing:
        note(each.told(entry.zone))


@cli.command()
@common
def pause(target: Target, name: Name) -> None:
    """Pause a schedule until `resume`; beats notice within seconds."""
    with _there(target) as app:
        operations.pause(app, name, by=local_actor())
    say(f"{name} is paused")


@cli.command()
@common
def resume(target: Target, name: Name) -> None:
    """Resume a paused schedule. Runs missed during the pause are skipped."""
    with _there(target) as app:
        operations.resume(app, name, by=local_actor())
    say(f"{name} runs again")


@cli.command("run-now")
@common
def run_now(target: Target, name: Name) -> None:
    """Send the task of a schedule now, in addition to its runs; print the task's id."""
    with _kept(target) as app:
        say(operations.run_now(app, name, by=local_actor()))


@cli.command()
@common
def delete(target: Target, name: Name, yes: YesOption = False) -> None:
    """Delete a schedule that was made at run time."""
    with _there(target) as app:
        app.schedules.entry(name)
        confirm(f"Delete the schedule {name!r}?", name, yes=yes)
        operations.delete(app, name, by=local_actor())
    say(f"deleted {name}")


Cron = Annotated[
    str | None,
    typer.Option(metavar="'M H D M W'", help="Run at these times: five cron fields."),
]
Period = Annotated[
    float | None, typer.Option("--every", metavar="SECONDS", help="Run at this interval.")
]
Moment = Annotated[
    datetime | None, typer.Option("--at", help="Run once, at this time in the schedule's zone.")
]
Sun = Annotated[
    str | None,
    typer.Option(
        "--solar",
        metavar="EVENT,LAT,LON",
        help="Run at an event of the sun, such as sunset,48.2,16.4.",
    ),
]
Expires = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Drop a run that starts later than this."),
]
Jitter = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Delay each run at random, up to this.")
]
MakeUp = Annotated[
    str, typer.Option(metavar="skip|last|all", help="Runs to make up for after an outage.")
]


@cli.command()
@common
def add(
    target: Target,
    name: Name,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task.")],
    cron: Cron = None,
    period: Period = None,
    time: Moment = None,
    sun: Sun = None,
    args: Annotated[
        str, typer.Option(metavar="JSON", help="Positional arguments, as a JSON list.")
    ] = "[]",
    kwargs: Annotated[
        str, typer.Option(metavar="JSON", help="Keyword arguments, as a JSON object.")
    ] = "{}",
    timezone: Annotated[str | None, typer.Option(help="Time zone. Default: the app's.")] = None,
    queue: Annotated[str | None, typer.Option(help="Queue. Default: the task's.")] = None,
    expires: Expires = None,
    jitter: Jitter = 0.0,
    catch_up: MakeUp = "last",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing schedule of that name.")
    ] = False,
) -> None:
    """Add a schedule at run time; beats notice within seconds."""
    when = _when({"--cron": cron, "--every": period, "--at": time, "--solar": sun})
    given: RunOptions = {
        "args": _json("--args", args, list),
        "kwargs": _json("--kwargs", kwargs, dict),
        "expires": expires,
        "jitter": jitter,
        "catch_up": _catch_up(catch_up),
    }
    if timezone is not None:
        given["timezone"] = timezone
    if queue is not None:
        given["queue"] = queue
    with _kept(target) as app:
        entry = app.schedules.add(name, task, when, replace=replace, **given)
        following = next(entry.runs(utc(app.runtime.clock())))
    say(f"{name} runs next at {local(following, entry)}")


def _kept(target: Target) -> CloudQ:
    app = target.load()
    refuse_memory(app)
    return app


def _there(target: Target) -> CloudQ:
    app = _kept(target)
    refuse_missing(app.conf.backend_url)
    return app


def _catch_up(text: str) -> CatchUp:
    return text  # pyright: ignore[reportReturnType] (the entry checks it)


def _sun(text: str) -> solar:
    event, _, place = text.partition(",")
    lat, _, lon = place.partition(",")
    try:
        return solar(event, float(lat), float(lon))
    except ValueError as error:
        raise ConfigurationError(f"--solar {text}: give EVENT,LATITUDE,LONGITUDE") from error


_TIMES: Mapping[str, Callable[[Any], When]] = {
    "--cron": crontab,
    "--every": every,
    "--at": at,
    "--solar": _sun,
}


def _when(given: Mapping[str, object]) -> When:
    named = [(option, value) for option, value in given.items() if value is not None]
    if len(named) != 1:
        fault = " and ".join(option for option, _ in named) or "no time"
        raise ConfigurationError(f"{fault} given: use exactly one of {', '.join(given)}")
    [(option, value)] = named
    return _TIMES[option](value)


def _json(option: str, text: str, kind: type[Any]) -> Any:
    try:
        read = json_text.loads(text)
    except ValueError as error:
        form = "[1, 2]" if option == "--args" else '{"x": 1}'
        raise ConfigurationError(f"{option} is not JSON such as {form}: {error}") from error
    if not isinstance(read, kind):
        raise ConfigurationError(f"{option}: give a JSON {kind.__name__}")
    return read


def add_to(program: typer.Typer) -> None:
    """Add `schedules` and its commands to those of `cloudq`."""
    program.add_typer(cli, name="schedules")
