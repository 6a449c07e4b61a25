"""What a worker says of itself when it starts."""

from __future__ import annotations

from collections.abc import Iterator

import cloudq
from cloudq.app import CloudQ
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool_kinds import PoolKind


def banner(app: CloudQ, options: WorkerOptions) -> Iterator[str]:
    """The lines of the start-up banner."""
    queues = ", ".join(
        f"{name}:{weight}" if weight > 1 else name for name, weight in options.queues
    )
    recycled = options.max_tasks_per_child
    yield f"cloudq {cloudq.__version__}, worker {options.hostname} of {app.name}"
    yield f"broker   {app.conf.broker}"
    yield f"backend  {app.conf.backend_url or 'none: results are not kept'}"
    yield f"queues   {queues}"
    yield (
        f"slots    {_processes(options)} x {options.threads} threads"
        + (f", {options.pool}" if options.pool is not PoolKind.PROCESSES else "")
        + (f", replaced after {recycled} tasks" if recycled else "")
    )
    yield f"leases   {options.lease:g} s, kept extended; grace at stop {options.grace:g} s"
    yield f"tasks    {len(app.tasks)}: {', '.join(sorted(app.tasks)) or 'none: is include set?'}"


def _processes(options: WorkerOptions) -> str:
    if options.autoscale is not None:
        most, least = options.autoscale
        return f"{least} to {most} processes"
    return f"{options.processes} processes" if options.processes > 1 else "1 process"
