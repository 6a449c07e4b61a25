"""Logging of worker processes: one line a record, as text or as JSON, and a worker's banner."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import cloudq
from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.app.near import near_queue
from cloudq.driver.adapters import declared
from cloudq.driver.ends import pass_ends
from cloudq.text import block, describe, json_text, masked, masked_url, one_line, text_of
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool_kinds import PoolKind

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

# The values of one record that are written, so that a line has an end.
_MOST_VALUES = 10_000


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, process, and the fields of `extra`.

    No record is lost: what JSON lacks is written as text. Secrets are masked.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[object, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "process": record.process,
        }
        if record.exc_info:
            fields["exception"] = _trace(self, record)
        if record.stack_info:
            fields["stack"] = record.stack_info
        for name, value in vars(record).items():
            if name not in _STANDARD:
                # A field of `extra` does not pass for one of the record's own.
                fields[f"{name}_" if name in fields else name] = value
        return json_text(fields, most=_MOST_VALUES)


class Lines(logging.Formatter):
    """One line a record, and indented ones for a traceback: no text can pass for another record.

    Those of a task's logger name the task and its id. Secrets are masked.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message = _message(record)
        record.asctime = self.formatTime(record, self.datefmt)
        line = self.formatMessage(record)
        task = getattr(record, "task_name", "")
        if task:
            line += f" [{text_of(task)} {text_of(getattr(record, 'task_id', ''))}]"
        lines = [one_line(masked(line))]
        if record.exc_info:
            lines.append(block(masked(_trace(self, record)), indent="  "))
        if record.stack_info:
            lines.append(block(masked(record.stack_info), indent="  "))
        return "\n".join(lines)


def _message(record: logging.LogRecord) -> str:
    """Return the record's message; one that cannot be formatted with what was formatted."""
    try:
        return record.getMessage()
    except BaseException as error:  # `log.info("%d", "x")`, or a repr of the user's
        pass_ends(error)
        said = f"{text_of(record.msg)} {text_of(record.args)}"
        return f"{said} (the message cannot be formatted: {describe(error)})"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    assert record.exc_info  # both callers have looked
    try:
        return formatter.formatException(record.exc_info)
    except BaseException as error:  # an exception of the user's that cannot be shown
        pass_ends(error)
        kind = record.exc_info[0]
        name = kind.__name__ if kind is not None else "an error"
        return f"{name}: its traceback cannot be made: {describe(error)}"


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
    yield f"broker   {masked_url(app.conf.broker)}"
    kept = app.conf.backend_url
    yield f"backend  {masked_url(kept) if kept else 'none: results are not kept'}"
    yield f"queues   {queues}"
    own = {*app.queues(), *app.queues(priorities=False)}
    for name, _ in options.queues:
        meant = near_queue(name, own)
        if meant is not None:
            yield f"         no task has the queue {name}: is {meant} meant?"
    yield (
        f"slots    {_processes(options)} x {counted(options.threads, 'thread')}"
        + (f", {options.pool}" if options.pool is not PoolKind.PROCESSES else "")
        + (f", replaced after {counted(recycled, 'task')}" if recycled else "")
    )
    yield f"leases   {options.lease:g} s, kept extended; grace at stop {options.grace:g} s"
    yield f"tasks    {len(app.tasks)}: {', '.join(sorted(app.tasks)) or 'none: is include set?'}"


def _processes(options: WorkerOptions) -> str:
    if options.autoscale is not None:
        most, least = options.autoscale
        return f"{least} to {most} processes"
    return counted(options.processes, "process", "processes")
