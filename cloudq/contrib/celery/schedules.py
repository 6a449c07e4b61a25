"""The schedules of periodic tasks, under the names of `celery.schedules`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cloudq.contrib.celery.missing import names_of
from cloudq.errors import ConfigurationError
from cloudq.errors import ScheduleError as ParseException
from cloudq.schedules.when import crontab, every, solar

__all__ = ["ParseException", "crontab", "maybe_schedule", "schedule", "solar"]


def schedule(run_every: timedelta | float, relative: bool = False) -> every:
    """Make a schedule with a fixed interval, in seconds if a number. Refuses `relative`."""
    if relative:
        raise ConfigurationError(
            "schedule(relative=True) counts from the start of a beat, and several may run: give "
            "the entry start="
        )
    return every(run_every)


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """Make a schedule of a number of seconds or a `timedelta`; one is returned as it is."""
    return schedule(s, relative) if isinstance(s, int | float | timedelta) else s


def __getattr__(name: str) -> Any:
    return names_of(__name__, name)
