"""What a worker says of itself when it starts."""

from __future__ import annotations

from collections.abc import Iterator

import cloudq
from cloudq.app import CloudQ
from cloudq.worker.options import WorkerOptions


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
        f"slots    {options.processes} processes x {options.threads} threads"
        + (f", replaced after {recycled} tasks" if recycled else "")
    )
    yield f"leases   {options.lease:g} s, kept extended; grace at stop {options.grace:g} s"
    yield f"tasks    {len(app.tasks)}: {', '.join(sorted(app.tasks)) or 'none: is include set?'}"
