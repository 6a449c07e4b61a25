"""When periodic tasks are due: the names of `celery.schedules`."""

from __future__ import annotations

from datetime import timedelta

from cloudq.errors import ConfigurationError
from cloudq.schedules.when import crontab, every, solar

__all__ = ["crontab", "schedule", "solar"]


def schedule(run_every: timedelta | float, relative: bool = False) -> every:
    """Every so often, a time or seconds. Raises `ConfigurationError` for `relative`."""
    if relative:
        raise ConfigurationError(
            "schedule(relative=True) counts from the start of a beat, and several may run: give "
            "the entry start="
        )
    return every(run_every)
