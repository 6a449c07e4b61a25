"""`cloudq worker`: runs tasks until stopped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cloudq.app import CloudQ
from cloudq.cli.options import Target, common, refuse_memory
from cloudq.cli.pidfile import held
from cloudq.cli.reload import run_reloading
from cloudq.errors import ConfigurationError
from cloudq.tasks.priorities import weighted
from cloudq.worker import Worker, WorkerOptions
from cloudq.worker.logs import configure
from cloudq.worker.pool.fork_main import open_files
from cloudq.worker.pool.fork_server import ForkServer, can_fork
from cloudq.worker.pool_kinds import PoolKind, check, sizes

# The longest wait of a receive, in seconds; and that of a worker which a person has started.
POLL_WAIT, _AT_A_TERMINAL = 20.0, 2.0


class Level(StrEnum):
    """The least severe log records that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The form of a log record."""

    TEXT = "text"
    JSON = "json"


Queues = Annotated[
    list[str] | None,
    typer.Option(
        "-Q",
        "--queues",
        metavar="NAME[:N],...",
        help="Queues to consume, N as the weight. Default: the app's queues.",
    ),
]
ExcludeQueues = Annotated[
    list[str] | None,
    typer.Option(
        "-X", "--exclude-queues", metavar="NAME,...", help="Queues not to consume, of the app's."
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "-c", "--processes", min=1, metavar="N", help="Number of processes. Default: one per core."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("-t", "--threads", min=1, metavar="N", help="Concurrent tasks per process."),
]
Pool = Annotated[
    PoolKind | None,
    typer.Option(
        "-P",
        "--pool",
        metavar="KIND",
        help="processes, threads, asyncio, solo or gevent. Default: the setting worker_pool.",
    ),
]
Autoscale = Annotated[
    str | None,
    typer.Option(metavar="MAX,MIN", help="Scale the number of processes with the load."),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(min=1, metavar="KIB", help="Replace a process that uses more memory."),
]
MaxTasks = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Replace a process after this many tasks."),
]
PidFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the process id to this file.")
]
AutoReload = Annotated[
    bool, typer.Option("--autoreload", help="Restart when a Python file in this folder changes.")
]
WithBeat = Annotated[
    bool, typer.Option("-B", "--beat", help="Also send periodic tasks, as cloudq beat does.")
]
Lease = Annotated[
    float | None,
    typer.Option(min=1, metavar="SECONDS", help="Redeliver a dead worker's tasks after this time."),
]
Grace = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Time for running tasks to finish at shutdown."),
]
Prefetch = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="SECONDS", help="Hold as much work in hand as is done in this time; 0: none."
    ),
]
Hostname = Annotated[
    str | None, typer.Option("-n", "--hostname", metavar="NAME", help="Name of this worker.")
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        metavar="PORT",
        help="Serve Prometheus metrics here; 0 picks a free port.",
    ),
]
MetricsHost = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Address to serve metrics on; 0.0.0.0 for all.")
]
LevelOption = Annotated[
    Level,
    typer.Option(
        "-l",
        "--log-level",
        metavar="LEVEL",
        help="Least severe log records to write: debug, info, warning or error.",
    ),
]
FormatOption = Annotated[
    LogFormat,
    typer.Option("--log-format", metavar="FORM", help="Form of log records: text or json."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The command line's worker options; None where the app's settings decide."""

    queues: Sequence[str]
    exclude_queues: Sequence[str] = ()
    processes: int | None
    threads: int | None
    pool: PoolKind | None
    autoscale: str | None
    max_memory_per_child: int | None
    max_tasks_per_child: int | None
    lease: float | None
    grace: float | None
    prefetch: float | None
    hostname: str | None
    beat: bool
    metrics_port: int | None
    metrics_host: str
    log_level: Level
    log_format: LogFormat


@common
def worker(
    target: Target,
    queues: Queues = None,
    exclude_queues: ExcludeQueues = None,
    processes: Processes = None,
    threads: Threads = None,
    pool: Pool = None,
    autoscale: Autoscale = None,
    max_memory_per_child: MaxMemory = None,
    pidfile: PidFile = None,
    autoreload: AutoReload = False,
    beat: WithBeat = False,
    max_tasks_per_child: MaxTasks = None,
    lease: Lease = None,
    grace: Grace = None,
    prefetch: Prefetch = None,
    hostname: Hostname = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    log_level: LevelOption = Level.INFO,
    log_format: FormatOption = LogFormat.TEXT,
) -> int:
    """Run tasks until stopped.

    Ctrl-C or SIGTERM lets running tasks finish within the grace time; a second one does not.
    """
    if autoreload:
        return run_reloading([word for word in sys.argv[1:] if word != "--autoreload"], Path.cwd())
    given = Given(
        queues=queues or (),
        exclude_queues=exclude_queues or (),
        processes=processes,
        threads=threads,
        pool=pool,
        autoscale=autoscale,
        max_memory_per_child=max_memory_per_child,
        max_tasks_per_child=max_tasks_per_child,
        lease=lease,
        grace=grace,
        prefetch=prefetch,
        hostname=hostname,
        beat=beat,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_level=log_level,
        log_format=log_format,
    )
    return _run(target, given, pidfile)


def _run(target: Target, given: Given, pidfile: Path | None) -> int:
    configure(given.log_level, given.log_format)
    before = open_files() if can_fork() else None
    app = target.load()
    refuse_memory(app)
    options = worker_options(app, target, given)
    with (
        closing(ForkServer(app, options, before)) as forks,
        held(pidfile) if pidfile is not None else nullcontext(),
    ):
        return Worker(app, options, forks).run()


def worker_options(app: CloudQ, target: Target, given: Given) -> WorkerOptions:
    """Complete the options given with the app's settings. Raises `ConfigurationError`."""
    conf = app.runtime.conf
    kind = given.pool or PoolKind(conf.worker_pool)
    check(kind)
    scale = limits(given.autoscale) if given.autoscale else None
    processes, threads = sizes(
        kind,
        scale[0] if scale else given.processes,
        given.threads,
        default_processes=conf.worker_processes if kind is PoolKind.PROCESSES else None,
        default_threads=conf.worker_threads,
    )
    options = WorkerOptions(
        app_path=target.path or "",
        queues=weighted(_chosen(app, given), conf.priority_queues),
        processes=processes,
        threads=threads,
        pool=kind,
        autoscale=scale,
        fork=conf.worker_fork,
        autoscale_idle=conf.worker_autoscale_idle,
        max_memory_per_child=given.max_memory_per_child or conf.worker_max_memory_per_child,
        max_tasks_per_child=given.max_tasks_per_child or conf.worker_max_tasks_per_child,
        lease=conf.lease if given.lease is None else given.lease,
        poll_wait=poll_wait(conf.worker_poll_wait),
        grace=conf.worker_grace if given.grace is None else given.grace,
        prefetch=conf.worker_prefetch_seconds if given.prefetch is None else given.prefetch,
        overrides=target.overrides,
        log_level=given.log_level.value,
        log_format=given.log_format.value,
        beat=given.beat,
        metrics_port=given.metrics_port,
        metrics_host=given.metrics_host,
    )
    return options if given.hostname is None else replace(options, hostname=given.hostname)


def _chosen(app: CloudQ, given: Given) -> Sequence[tuple[str, int]]:
    """Return the queues to consume with their weights. Raises `ConfigurationError` if none."""
    own = [(name, 1) for name in app.queues(priorities=False)]
    left_out = {name for name, _ in weights(given.exclude_queues)}
    queues = [each for each in weights(given.queues) or own if each[0] not in left_out]
    if not queues:
        raise ConfigurationError("no queue is left to consume: --exclude-queues names all")
    return queues


def poll_wait(given: float | None) -> float:
    """Return the longest wait of a receive, in seconds.

    A person at a terminal stops a worker, and starts it again, within the time of one long poll:
    on SQS that would get the first message sent after that.
    """
    if given is not None:
        return given
    return _AT_A_TERMINAL if sys.stdin is not None and sys.stdin.isatty() else POLL_WAIT


def limits(text: str) -> tuple[int, int]:
    """Read `MAX,MIN`, or `MAX` alone, of --autoscale. Raises `ConfigurationError`."""
    most, _, least = text.partition(",")
    try:
        return int(most), int(least or 1)
    except ValueError as error:
        raise ConfigurationError(
            f"--autoscale {text}: give the maximum and the minimum, such as 10,3"
        ) from error


def weights(values: Sequence[str]) -> tuple[tuple[str, int], ...]:
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


def add_to(program: typer.Typer) -> None:
    """Add `worker` to the commands of `cloudq`."""
    program.command()(worker)
