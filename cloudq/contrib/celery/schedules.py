"""The schedules of periodic tasks, under the names of `celery.schedules`."""

from __future__ import annotations

from datetime import timedelta

from cloudq.errors import ConfigurationError
from cloudq.schedules.when import crontab, every, solar

__all__ = ["crontab", "schedule", "solar"]


def schedule(run_every: timedelta | float, relative: bool = False) -> every:
    """Make a schedule with a fixed interval, in seconds if a number. Refuses `relative`."""
    if relative:
        raise ConfigurationError(
            "schedule(relative=True) counts from the start of a beat, and several may run: give "
            "the entry start="
        )
    return every(run_every)
