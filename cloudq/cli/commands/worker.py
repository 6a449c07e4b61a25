"""`cloudq worker`: runs tasks until it is stopped."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cloudq.cli.options import Target, common, refuse_memory
from cloudq.cli.pidfile import held
from cloudq.cli.reload import run_reloading
from cloudq.errors import ConfigurationError
from cloudq.tasks.priorities import weighted
from cloudq.worker import Worker, WorkerOptions
from cloudq.worker.logs import configure
from cloudq.worker.pool_kinds import PoolKind, check, sizes


class Level(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a record is written."""

    TEXT = "text"
    JSON = "json"


@common
def worker(
    target: Target,
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "-Q",
            "--queues",
            metavar="NAME[:WEIGHT],...",
            help="Queues, and how often each is asked; else the app's.",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("-c", "--processes", min=1, help="Else one a core.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", min=1, help="Tasks at a time in a process.")
    ] = None,
    pool: Annotated[
        PoolKind | None,
        typer.Option("-P", "--pool", help="What runs the tasks; else the setting worker_pool."),
    ] = None,
    autoscale: Annotated[
        str | None,
        typer.Option(metavar="MAX,MIN", help="Between so many processes, as work comes."),
    ] = None,
    max_memory_per_child: Annotated[
        int | None, typer.Option(min=1, metavar="KIB", help="Replace a process that has more.")
    ] = None,
    pidfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the process id here while it runs.")
    ] = None,
    autoreload: Annotated[
        bool, typer.Option("--autoreload", help="Start anew when a Python file here changes.")
    ] = False,
    beat: Annotated[
        bool, typer.Option("-B", "--beat", help="Send periodic tasks too, as cloudq beat.")
    ] = False,
    max_tasks_per_child: Annotated[
        int | None, typer.Option(min=1, help="Replace a process after as many tasks.")
    ] = None,
    lease: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="A dead worker's tasks come back after this."),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="For running tasks at shutdown."),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option("-n", "--hostname", metavar="NAME", help="This worker's name.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve /metrics for Prometheus; 0: any free port."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where /metrics listens; 0.0.0.0: everywhere.")
    ] = "127.0.0.1",
    log_level: Annotated[Level, typer.Option("-l", "--log-level")] = Level.INFO,
    log_format: Annotated[LogFormat, typer.Option("--log-format")] = LogFormat.TEXT,
) -> int:
    """Run tasks until stopped.

    Ctrl-C or SIGTERM lets what runs end, within the grace time; a second one does not.
    """
    if autoreload:
        return run_reloading([word for word in sys.argv[1:] if word != "--autoreload"], Path.cwd())
    configure(log_level, log_format)
    app = target.load()
    refuse_memory(app)
    conf = app.conf
    kind = pool or PoolKind(conf.worker_pool)
    check(kind)
    scale = limits(autoscale) if autoscale else None
    processes, threads = sizes(
        kind,
        scale[0] if scale else processes,
        threads,
        default_processes=conf.worker_processes if kind is PoolKind.PROCESSES else None,
        default_threads=conf.worker_threads,
    )
    options = WorkerOptions(
        app_path=target.path or "",
        queues=weighted(
            weights(queues) if queues else [(name, 1) for name in app.queues(priorities=False)],
            conf.priority_queues,
        ),
        processes=processes,
        threads=threads,
        pool=kind,
        autoscale=scale,
        autoscale_idle=conf.worker_autoscale_idle,
        max_memory_per_child=max_memory_per_child or conf.worker_max_memory_per_child,
        max_tasks_per_child=max_tasks_per_child or conf.worker_max_tasks_per_child,
        lease=conf.lease if lease is None else lease,
        poll_wait=conf.worker_poll_wait,
        grace=conf.worker_grace if grace is None else grace,
        overrides=target.overrides,
        log_level=log_level.value,
        log_format=log_format.value,
        beat=beat,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
    )
    if hostname is not None:
        options = replace(options, hostname=hostname)
    with held(pidfile) if pidfile is not None else nullcontext():
        return Worker(app, options).run()


def limits(text: str) -> tuple[int, int]:
    """Read `MAX,MIN`, or `MAX` alone, of --autoscale. Raises `ConfigurationError`."""
    most, _, least = text.partition(",")
    try:
        return int(most), int(least or 1)
    except ValueError as error:
        raise ConfigurationError(
            f"--autoscale {text}: give the most and the fewest, as in 10,3"
        ) from error


def weights(values: list[str]) -> tuple[tuple[str, int], ...]:
    """Read `a,b:3` as queues with weights. Raises `ConfigurationError`."""
    names = [name.strip() for value in values for name in value.split(",")]
    found: list[tuple[str, int]] = []
    for entry in filter(None, names):
        name, colon, weight = entry.rpartition(":")
        if "://" in entry and not weight.isdigit():  # a queue's URL
            found.append((entry, 1))
            continue
        if colon and not weight.isdigit():
            raise ConfigurationError(f"-Q {entry}: the weight {weight!r} is not a number")
        found.append((name, int(weight)) if colon else (entry, 1))
    return tuple(found)
