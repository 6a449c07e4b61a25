"""`cloudq status`: shows the workers of a store by their last heartbeats."""

from __future__ import annotations

import time
from dataclasses import asdict
from operator import itemgetter

import typer

from cloudq.cli.commands.inspect import NOBODY
from cloudq.cli.options import JsonOption, Target, common, refuse_memory
from cloudq.cli.output import duration, emit, note, since, table
from cloudq.monitoring.heartbeats import Heartbeat


@common
def status(target: Target, json: JsonOption = False) -> int:
    """Show the workers, as of their last heartbeats.

    Reads the store once and asks no worker. The exit code is 1 if no worker is alive.
    """
    app = target.open()
    refuse_memory(app)
    with app:
        workers = app.control.heartbeats.all()
    now = time.time()
    living = [heart for heart in workers if heart.alive(now)]
    if json:
        emit([{"alive": heart.alive(now), **asdict(heart)} for heart in workers])
        return 0 if living else 1
    if not workers:
        note(NOBODY)
        return 1
    columns = ["WORKER", "STATE", "SEEN", "UP", "RUNNING", "WAITING", "DONE", "FAILED", "QUEUES"]
    table(columns, [_row(heart, now) for heart in workers], empty="")
    longest = sorted((task for heart in living for task in heart.longest), key=itemgetter(2))
    if longest:
        id, name, began = longest[0]
        note(f"longest running: {name} {id}, for {duration(now - began)}")
    note("cloud functions have no heartbeat and are not shown")
    return 0 if living else 1


def _row(heart: Heartbeat, now: float) -> list[object]:
    slots = heart.processes * heart.threads
    return [
        heart.hostname,
        "up" if heart.alive(now) else "silent",
        f"{since(heart.seen)} ago",
        since(heart.started),
        f"{heart.running}/{slots}",
        heart.waiting,
        heart.done,
        heart.failed,
        ", ".join(heart.queues),
    ]


def add_to(program: typer.Typer) -> None:
    """Add `status` to the commands of `cloudq`."""
    program.command()(status)
