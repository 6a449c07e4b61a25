"""The kinds of pools: how many processes and threads each has, and how its processes start."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec

from cloudq.errors import ConfigurationError, install_hint


class PoolKind(StrEnum):
    """What runs the tasks. In every kind a supervisor of its own keeps the leases."""

    PROCESSES = "processes"
    THREADS = "threads"
    ASYNCIO = "asyncio"
    SOLO = "solo"
    GEVENT = "gevent"


# How many tasks that mostly wait one process takes, unless it is told.
_WAITING = 100

# Everything must be patched before anything of ours, or of the user's, is imported.
_GREEN = (
    "from gevent import monkey; monkey.patch_all(); "
    "import sys; from cloudq.worker.pool.child_main import start; start(int(sys.argv[1]))"
)


def sizes(
    kind: PoolKind,
    processes: int | None,
    threads: int | None,
    *,
    default_processes: int | None = None,
    default_threads: int = 16,
) -> tuple[int, int]:
    """The number of processes, and of threads in each.

    Pools of one process take a number of processes as that of tasks at a time, which is what
    Celery's `--concurrency` means there. Raises `ConfigurationError` for what cannot be.
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
    """Raise `ConfigurationError` where the library that a pool needs is not installed."""
    if kind is PoolKind.GEVENT and find_spec("gevent") is None:
        raise ConfigurationError(
            f"--pool gevent needs gevent, which is not installed: {install_hint('gevent')}"
        )


def command(kind: PoolKind, descriptor: int) -> Sequence[str]:
    """The command of a child that hears of its work through this file descriptor."""
    if kind is PoolKind.GEVENT:
        return [sys.executable, "-c", _GREEN, str(descriptor)]
    return [sys.executable, "-m", "cloudq.worker.pool.child_main", str(descriptor)]
