"""Logging of worker processes: one line a record, as text or as JSON, and a worker's banner."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import cloudq
from cloudq.app import CloudQ
from cloudq.driver.adapters import declared
from cloudq.messages.json_text import json_text
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool_kinds import PoolKind

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, process, and the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json_text(fields, default=str).decode()


class Lines(logging.Formatter):
    """One line a record; those of a task's logger name the task and its id."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        line = super().formatMessage(record)
        task = getattr(record, "task_name", "")
        return f"{line} [{task} {getattr(record, 'task_id', '')}]" if task else line


def configure(level: str, format: str) -> None:
    """Send every record of `level` and above to standard error, as `text` or as `json`.

    For programs only: the library leaves logging alone.
    """
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        handler.setFormatter(JsonLines())
    else:
        line = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        handler.setFormatter(Lines(line, "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The SDKs' own INFO lines would drown the worker's.
    for _, adapter in declared():
        for name in adapter.loggers:
            logging.getLogger(name).setLevel(logging.WARNING)


def banner(app: CloudQ, options: WorkerOptions) -> Iterator[str]:
    """Return the lines that a worker logs when it starts."""
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
