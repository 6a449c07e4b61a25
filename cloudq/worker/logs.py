"""Logging of worker processes: one line a record, as text or as JSON. Called by programs only."""

from __future__ import annotations

import logging
import sys

import orjson

from cloudq.driver.adapters import declared

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, process, and what `extra` gave."""

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
        return orjson.dumps(fields, default=str).decode()


class Lines(logging.Formatter):
    """One line a record; those of a task logger name the task and its id."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        line = super().formatMessage(record)
        task = getattr(record, "task_name", "")
        return f"{line} [{task} {getattr(record, 'task_id', '')}]" if task else line


def configure(level: str, format: str) -> None:
    """Send every record of `level` and above to standard error, as `text` or as `json`."""
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
