"""The names of `celery.utils.log` that programs use."""

from __future__ import annotations

import logging
from typing import Any

from cloudq.contrib.celery.missing import names_of
from cloudq.monitoring import task_logger

__all__ = ["LOG_LEVELS", "base_logger", "get_logger", "get_task_logger", "mlevel"]

LOG_LEVELS: dict[Any, Any] = {
    **logging.getLevelNamesMapping(),
    "FATAL": logging.FATAL,
    **{level: name for name, level in logging.getLevelNamesMapping().items()},
}
"""The levels by their names, and their names by the levels."""

base_logger = logging.getLogger("celery")
_OF_TASKS = logging.getLogger("celery.task")


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger of this name, below `celery.task`: settings of logging name that.

    Its records carry the running task's name and id; see `cloudq.get_task_logger`.
    """
    logger = task_logger.get_task_logger(name)
    above: logging.Logger | None = logger
    while above is not None and above is not _OF_TASKS:
        above = above.parent
    if above is None and logger not in (base_logger, logging.root):
        logger.parent = _OF_TASKS
    return logger


def get_logger(name: str | logging.Logger) -> logging.Logger:
    """Return a logger by its name."""
    return logging.getLogger(name) if isinstance(name, str) else name


def mlevel(level: int | str | None) -> int | None:
    """Return a level as its number."""
    return LOG_LEVELS[level.upper()] if isinstance(level, str) else level


def __getattr__(name: str) -> Any:
    return names_of(__name__, name)
