"""`cloudq status`: shows the workers of a store by their last heartbeats."""

from __future__ import annotations

from dataclasses import asdict

import typer

from cloudq.cli.commands.inspect import nobody
from cloudq.cli.options import JsonOption, Target, common, refuse_memory, refuse_missing
from cloudq.cli.output import emit, note, since, table
from cloudq.cli.readers import is_cloud
from cloudq.operations import workers as operations
from cloudq.operations.workers import WorkerRow
from cloudq.text import iso_time


@common
def status(target: Target, json: JsonOption = False) -> int:
    """Show the workers, as of their last heartbeats.

    Reads the store once and asks no worker. The exit code is 1 if no worker is alive.
    """
    app = target.open()
    refuse_memory(app)
    refuse_missing(app.conf.backend_url)
    with app:
        rows = operations.workers(app)
    living = [row for row in rows if row.alive]
    if json:
        emit([_as_json(row) for row in rows])
        return 0 if living else 1
    if not rows:
        note(nobody(app))
        return 1
    columns = ["WORKER", "STATE", "SEEN", "UP", "RUNNING", "WAITING", "DONE", "FAILED", "QUEUES"]
    table(columns, [_row(row) for row in rows], empty="")
    longest = operations.running(rows)
    if longest:
        first = longest[0]
        note(f"longest running: {first.task} {first.id}, for {since(first.since)}")
    if is_cloud(app):
        note("cloud functions have no heartbeat and are not shown")
    return 0 if living else 1


def _as_json(row: WorkerRow) -> dict[str, object]:
    plain: dict[str, object] = asdict(row)
    plain |= {"started": iso_time(row.started), "seen": iso_time(row.seen)}
    tasks = [asdict(task) | {"since": iso_time(task.since)} for task in row.longest]
    return plain | {"longest": tasks}


def _row(row: WorkerRow) -> list[object]:
    return [
        row.name,
        "up" if row.alive else "silent",
        f"{since(row.seen)} ago",
        since(row.started),
        f"{row.running}/{row.slots}",
        row.waiting,
        row.done,
        row.failed,
        ", ".join(row.queues),
    ]


def add_to(program: typer.Typer) -> None:
    """Add `status` to the commands of `cloudq`."""
    program.command()(status)
