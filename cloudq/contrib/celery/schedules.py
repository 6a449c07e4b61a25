"""When periodic tasks are due, as data: the names of `celery.schedules`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

Field = str | int | tuple[int, ...] | list[int] | frozenset[int] | set[int]


@dataclass(frozen=True)
class crontab:  # noqa: N801 (Celery's name)
    """Times by the fields of a crontab, in the app's time zone. Nothing fires it yet."""

    minute: Field = "*"
    hour: Field = "*"
    day_of_week: Field = "*"
    day_of_month: Field = "*"
    month_of_year: Field = "*"


@dataclass(frozen=True)
class schedule:  # noqa: N801 (Celery's name)
    """Every so often, a time or seconds. Nothing fires it yet."""

    run_every: timedelta | float


def solar(event: str, lat: float, lon: float) -> NoReturn:
    """Refuses: the clouds' schedulers know no sun."""
    raise NotImplementedError(
        f"solar({event!r}): no cloud's scheduler knows the sun: compute the times, and send the "
        "task with eta="
    )
