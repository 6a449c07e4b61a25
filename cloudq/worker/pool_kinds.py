"""Kinds of pools: the processes and threads of each, and the command that starts a child."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec

from cloudq.errors import ConfigurationError, install_hint


class PoolKind(StrEnum):
    """Kinds of pools. In each, the tasks run in other processes than the one that keeps leases."""

    PROCESSES = "processes"
    THREADS = "threads"
    ASYNCIO = "asyncio"
    SOLO = "solo"
    GEVENT = "gevent"


# Tasks at a time in a process whose tasks mostly wait, unless the user says otherwise.
_WAITING = 100

# Nothing that an import makes is garbage: the child turns the collector on when it has the app.
_CHILD = (
    "import gc; gc.disable(); "
    "import sys; from cloudq.worker.pool.child_main import start; start(int(sys.argv[1]))"
)
# gevent must patch the standard library before any other module is imported.
_GREEN = f"from gevent import monkey; monkey.patch_all(); {_CHILD}"


def sizes(
    kind: PoolKind,
    processes: int | None,
    threads: int | None,
    *,
    default_processes: int | None = None,
    default_threads: int = 16,
) -> tuple[int, int]:
    """Return the number of processes, and of threads in each.

    Pools of one process take a number of processes for that of tasks at a time, as Celery's
    `--concurrency` does. Raises `ConfigurationError` for a number that the pool cannot have.
    """
    if kind is PoolKind.PROCESSES:
        found = processes or default_processes or os.cpu_count() or 1
        return found, threads or default_threads
    if processes is not None and threads is not None and processes != 1:
        raise ConfigurationError(
            f"--pool {kind} has one process: say how many tasks run at a time with --threads alone"
        )
    at_a_time = threads or processes
    if kind is PoolKind.SOLO:
        if at_a_time not in (None, 1):
            raise ConfigurationError(f"--pool solo runs one task at a time, not {at_a_time}")
        return 1, 1
    return 1, at_a_time or (default_threads if kind is PoolKind.THREADS else _WAITING)


def check(kind: PoolKind) -> None:
    """Raise `ConfigurationError` when the library that a pool needs is not installed."""
    if kind is PoolKind.GEVENT and find_spec("gevent") is None:
        raise ConfigurationError(
            f"--pool gevent needs gevent, which is not installed: {install_hint('gevent')}"
        )


def command(kind: PoolKind, descriptor: int) -> Sequence[str]:
    """Return the command of a child that gets its jobs through this file descriptor."""
    return [sys.executable, "-c", _GREEN if kind is PoolKind.GEVENT else _CHILD, str(descriptor)]
