"""`cloudq beat`: sends periodic tasks when they are due, until stopped."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from cloudq.amounts import counted
from cloudq.cli.commands.worker import FormatOption, Level, LevelOption, LogFormat
from cloudq.cli.options import Target, common, refuse_memory
from cloudq.cli.pidfile import held
from cloudq.driver.log import Log
from cloudq.schedules.beat import Beat, BeatThread
from cloudq.worker.logs import configure

log = Log("cloudq.schedules")


@common
def beat(
    target: Target,
    lease: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="SECONDS", help="Time until another beat takes over from a dead one."
        ),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option("-n", "--hostname", metavar="NAME", help="Name of this beat.")
    ] = None,
    pidfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the process id to this file.")
    ] = None,
    log_level: LevelOption = Level.INFO,
    log_format: FormatOption = LogFormat.TEXT,
) -> None:
    """Send periodic tasks when they are due, until stopped.

    Any number may run: one of them sends, and another takes over when it dies.
    `cloudq worker --beat` does the same within a worker.
    """
    configure(log_level, log_format)
    app = target.load()
    refuse_memory(app)
    with app, held(pidfile) if pidfile is not None else nullcontext():
        thread = BeatThread(Beat(app.schedules, hostname=hostname, lease=lease))

        def stop(number: int, frame: FrameType | None) -> None:
            thread.ask()

        previous = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
        log.info(
            "beat of %s, %s in its code",
            app.name,
            counted(len(app.schedules.declared()), "schedule"),
        )
        try:
            thread.run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        log.info("stopped")


def add_to(program: typer.Typer) -> None:
    """Add `beat` to the commands of `cloudq`."""
    program.command()(beat)
