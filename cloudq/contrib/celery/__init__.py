"""Celery's names over cloudq: a project moves by changing its imports and its broker's URL.

    from cloudq.contrib.celery import Celery, shared_task, group, chain, chord, crontab

Nothing is implemented here: names, settings and options are translated by tables, and what does
not carry over raises with the reason. docs/how-to/move-from-celery.md has the tables.
"""

from __future__ import annotations

from typing import NamedTuple

from cloudq.contrib.celery import canvas, exceptions, missing, result, schedules, signals, states
from cloudq.contrib.celery.app import Celery
from cloudq.contrib.celery.current import (
    AsyncResult,
    GroupResult,
    bugreport,
    chunks,
    current_app,
    current_task,
    maybe_signature,
    signature,
    xmap,
    xstarmap,
)
from cloudq.contrib.celery.current import signature as subtask
from cloudq.contrib.celery.exceptions import (
    ChordError,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    TimeoutError,
)
from cloudq.contrib.celery.results import CeleryEagerResult as EagerResult
from cloudq.contrib.celery.rules import IgnoredByCloudQ
from cloudq.contrib.celery.schedules import crontab, schedule, solar
from cloudq.contrib.celery.signatures import Signature, chain, chord, group
from cloudq.contrib.celery.task import Task, shared_task
from cloudq.contrib.celery.utils.log import get_task_logger
from cloudq.messages.message import new_id as uuid
from cloudq.results.groups import ResultSet

missing.install()

__all__ = [
    "VERSION",
    "AsyncResult",
    "Celery",
    "ChordError",
    "EagerResult",
    "GroupResult",
    "Ignore",
    "IgnoredByCloudQ",
    "MaxRetriesExceededError",
    "Reject",
    "ResultSet",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "Task",
    "TimeLimitExceeded",
    "TimeoutError",
    "bugreport",
    "canvas",
    "chain",
    "chord",
    "chunks",
    "crontab",
    "current_app",
    "current_task",
    "exceptions",
    "get_task_logger",
    "group",
    "maybe_signature",
    "result",
    "schedule",
    "schedules",
    "shared_task",
    "signals",
    "signature",
    "solar",
    "states",
    "subtask",
    "uuid",
    "version_info",
    "version_info_t",
    "xmap",
    "xstarmap",
]


class version_info_t(NamedTuple):  # noqa: N801 (Celery's name)
    """A version of Celery."""

    major: int
    minor: int
    micro: int
    releaselevel: str = ""
    serial: str = ""


VERSION = version_info = version_info_t(5, 7, 0)
"""The version of Celery whose names these are, and whose behaviour."""

__version__ = "5.7.0"
