"""Loggers whose records carry the name and id of the running task."""

from __future__ import annotations

import logging

from cloudq.tasks.request import current_request
from cloudq.text import HIDING, hidden


class InTask(logging.Filter):
    """Gives records `task_name` and `task_id`, empty outside of a running task.

    What is secret in its call is hidden in their texts.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "task_id"):
            request = current_request.get()
            record.task_name = request.task if request else ""
            record.task_id = request.id if request else ""
            if HIDING.get() is not None:
                _hide(record)
        return True


def _hide(record: logging.LogRecord) -> None:
    """Put the texts of a record in place of what they are made of, without secrets of the call."""
    try:
        record.msg, record.args = hidden(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = hidden(logging.Formatter().formatException(record.exc_info))
    except Exception:  # of what the program logs; its handlers tell of it
        return


_IN_TASK = InTask()


def get_task_logger(name: str) -> logging.Logger:
    """The logger of this name; its records carry the running task's name and id.

    A format may use `%(task_name)s` and `%(task_id)s` for them; a worker's own log shows both.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_IN_TASK)  # adding it again has no effect
    return logger
