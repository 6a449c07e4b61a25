"""Options of a worker, checked when they are made."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudq.amounts import count, seconds
from cloudq.errors import ConfigurationError
from cloudq.worker.pool_kinds import PoolKind


def _hostname() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Options of one worker. Times are in seconds.

    `app_path` is `module:attribute`, imported apart from the supervisor. `queues` are names and
    weights. `processes` times `threads` tasks run at a time. `poll_wait` is the longest wait of
    one receive; what the worker does in about `prefetch` seconds it may hold beyond its slots.
    `max_memory_per_child` is in KiB. With `fork` a process that has loaded the app
    is forked for each child, if it can be. `autoscale` is the most and the fewest
    processes; one leaves when it was not needed for `autoscale_idle`. `overrides` are settings
    that override the app's own, also in the children. With `beat` the worker sends periodic tasks
    too, with a `metrics_port` (0: any free one) it serves metrics to Prometheus.
    """

    app_path: str
    queues: tuple[tuple[str, int], ...]
    processes: int
    threads: int
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    pool: PoolKind = PoolKind.PROCESSES
    fork: bool = True
    autoscale: tuple[int, int] | None = None
    autoscale_idle: float = 30.0
    lease: float = 60.0
    grace: float = 30.0
    poll_wait: float = 20.0
    prefetch: float = 0.0
    hostname: str = field(default_factory=_hostname)
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    log_level: str = "info"
    log_format: str = "text"
    beat: bool = False
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if not self.queues:
            raise ConfigurationError("a worker needs at least one queue: -Q default")
        names = [name for name, _ in self.queues]
        for name, weight in self.queues:
            if weight < 1:
                raise ConfigurationError(
                    f"queue {name!r} has weight {weight}: it must be 1 or more"
                )
            if names.count(name) > 1:
                raise ConfigurationError(f"queue {name!r} is given twice")
        if self.autoscale is not None:
            most, least = self.autoscale
            if self.pool is not PoolKind.PROCESSES:
                raise ConfigurationError(
                    f"--autoscale starts and stops processes, and --pool {self.pool} has one"
                )
            if not 1 <= least <= most <= 1000:
                raise ConfigurationError(
                    f"--autoscale {most},{least}: give the maximum and the minimum, such as 10,3"
                )
        for what, number, most in (
            ("processes", self.processes, 1000),
            ("threads", self.threads, 100_000),
        ):
            count(number, what, ConfigurationError, least=1, most=most)
        for what, time in (
            ("lease", self.lease),
            ("grace", self.grace),
            ("poll_wait", self.poll_wait),
            ("prefetch", self.prefetch),
            ("autoscale_idle", self.autoscale_idle),
        ):
            seconds(time, what, ConfigurationError)

    @property
    def at_start(self) -> int:
        """The number of processes at the start; with autoscaling the fewest."""
        return self.autoscale[1] if self.autoscale else self.processes

    @property
    def slots(self) -> int:
        """The number of tasks that run at a time."""
        return self.processes * self.threads
