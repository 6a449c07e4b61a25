"""Types for the times of a schedule: `crontab`, `every`, `at`, `solar`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from cloudq.amounts import CENTURY, shown
from cloudq.errors import ScheduleError
from cloudq.schedules import cron_fields as fields
from cloudq.schedules.cron_fields import Field

Days = Literal["both", "either"]

SOLAR_EVENTS = (
    "dawn_astronomical",
    "dawn_nautical",
    "dawn_civil",
    "sunrise",
    "solar_noon",
    "sunset",
    "dusk_civil",
    "dusk_nautical",
    "dusk_astronomical",
)


@dataclass(frozen=True, slots=True, init=False)
class crontab:  # noqa: N801 (Celery's name)
    """Times given by the fields of a crontab, in the entry's time zone.

    `crontab(minute=30, hour=7, day_of_week="mon-fri")` follows Celery's rule: a day must match
    both day fields. `crontab("30 7 * * 1-5")` follows cron's: if both day fields are limited
    (do not begin with `*`), a day needs to match only one of them. `crontab.from_string` reads
    such a line by Celery's rule. Raises `ConfigurationError`.
    """

    minute: frozenset[int]
    hour: frozenset[int]
    day_of_week: frozenset[int]
    day_of_month: frozenset[int]
    month_of_year: frozenset[int]
    days: Days
    """A day must match `both` day fields, or `either` of them."""

    def __init__(
        self,
        minute: Field = "*",
        hour: Field = "*",
        day_of_week: Field = "*",
        day_of_month: Field = "*",
        month_of_year: Field = "*",
    ) -> None:
        days: Days = "both"
        if isinstance(minute, str) and len(minute.split()) > 1:
            if not all(other == "*" for other in (hour, day_of_week, day_of_month, month_of_year)):
                raise ScheduleError(
                    f"crontab: {minute!r} is a whole line: leave the other fields out"
                )
            minute, hour, day_of_month, month_of_year, day_of_week = five_fields(minute)
            if not (day_of_month.startswith("*") or day_of_week.startswith("*")):
                days = "either"
        self._fill(minute, hour, day_of_week, day_of_month, month_of_year, days)

    def _fill(
        self, minute: Field, hour: Field, dow: Field, dom: Field, moy: Field, d: Days
    ) -> None:
        put = object.__setattr__
        put(self, "minute", fields.numbers(fields.MINUTE, minute))
        put(self, "hour", fields.numbers(fields.HOUR, hour))
        put(self, "day_of_week", fields.numbers(fields.DAY_OF_WEEK, dow))
        put(self, "day_of_month", fields.numbers(fields.DAY_OF_MONTH, dom))
        put(self, "month_of_year", fields.numbers(fields.MONTH_OF_YEAR, moy))
        if d == "either" and not self._limits_both():
            # One of the two matches every day, as `0-6` does.
            put(self, "day_of_week", fields.DAY_OF_WEEK.all)
            put(self, "day_of_month", fields.DAY_OF_MONTH.all)
        put(self, "days", d if self._limits_both() else "both")
        longest = max(fields.LONGEST_MONTH[month - 1] for month in self.month_of_year)
        if self.days == "both" and min(self.day_of_month) > longest:
            months = fields.text(fields.MONTH_OF_YEAR, self.month_of_year, names=True)
            raise ScheduleError(
                f"crontab: day {min(self.day_of_month)} is never in {months}: it would never run"
            )

    @classmethod
    def from_string(cls, line: str) -> crontab:
        """The times of a line `minute hour day-of-month month day-of-week`, by Celery's rule."""
        minute, hour, dom, moy, dow = five_fields(line)
        return cls(minute, hour, dow, dom, moy)

    @property
    def line(self) -> str:
        """The five fields as a line of cron."""
        return " ".join(
            (
                fields.text(fields.MINUTE, self.minute),
                fields.text(fields.HOUR, self.hour),
                fields.text(fields.DAY_OF_MONTH, self.day_of_month),
                fields.text(fields.MONTH_OF_YEAR, self.month_of_year),
                fields.text(fields.DAY_OF_WEEK, self.day_of_week),
            )
        )

    @property
    def both_days(self) -> bool:
        """Tell whether both day fields are limited and a day must match both."""
        return self.days == "both" and self._limits_both()

    @property
    def either_day(self) -> bool:
        """Tell whether both day fields are limited and a day must match one of them."""
        return self.days == "either"

    def _limits_both(self) -> bool:
        limited = self.day_of_week != fields.DAY_OF_WEEK.all
        return limited and self.day_of_month != fields.DAY_OF_MONTH.all

    def __str__(self) -> str:
        return f"crontab({self.line}{', both days' if self.both_days else ''})"

    def __reduce__(self) -> Any:
        return read_crontab, (self.line, self.days)


def read_crontab(line: str, days: str) -> crontab:
    """Read a stored or pickled crontab. Raises `ConfigurationError`."""
    return crontab(line) if days == "either" else crontab.from_string(line)


def five_fields(line: str) -> list[str]:
    """Split a line of cron. Raises `ConfigurationError` for one that has not five fields."""
    parts = line.split()
    if line.strip().startswith("@"):
        raise ScheduleError(f"crontab: {line!r}: write the five fields, as in '0 0 * * *'")
    if len(parts) != 5:
        raise ScheduleError(
            f"crontab: {line!r} has {len(parts)} fields, not the five of cron: minute, hour, "
            "day of the month, month, day of the week"
        )
    return parts


@dataclass(frozen=True, slots=True, init=False)
class every:  # noqa: N801 (beside crontab)
    """A fixed period, as a `timedelta` or seconds: due at its multiples since 1970, or `start`.

    The due times therefore do not depend on the beat, or on when it was started.
    Raises `ConfigurationError`.
    """

    seconds: float

    def __init__(self, period: float | timedelta) -> None:
        seconds = period.total_seconds() if isinstance(period, timedelta) else period
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ScheduleError(f"every({period!r}): give seconds, or a timedelta")
        if not 0.001 <= seconds <= CENTURY:
            raise ScheduleError(
                f"every({shown(period)}): give a period from a millisecond to a century, in seconds"
            )
        object.__setattr__(self, "seconds", float(seconds))

    def __str__(self) -> str:
        return f"every({self.seconds:g} s)"


# The runs before and after a time, in any zone, are times too.
_FIRST_YEAR, LAST_YEAR = 1900, 9900


def check_year(
    time: datetime, what: str, *, first: int = _FIRST_YEAR, last: int = LAST_YEAR
) -> None:
    """Raise `ConfigurationError` for a time near the ends of the calendar."""
    if not first <= time.year <= last:
        raise ScheduleError(
            f"{what} is {time}: give a time of the years {first} to {last}, or leave it out"
        )


@dataclass(frozen=True, slots=True, init=False)
class at:  # noqa: N801 (beside crontab)
    """A single time; the entry's time zone applies to naive datetimes."""

    time: datetime

    def __init__(self, time: datetime) -> None:
        if not isinstance(time, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ScheduleError(f"at({time!r}): give a datetime")
        check_year(time, "at")
        object.__setattr__(self, "time", time)

    def __str__(self) -> str:
        return f"at({self.time.isoformat(sep=' ')})"


@dataclass(frozen=True, slots=True, init=False)
class solar:  # noqa: N801 (Celery's name)
    """Each day at one of Celery's solar events, for a latitude and longitude in degrees.

    Days without the event, as near the poles, are skipped. Needs `cloudq-tasks[solar]`.
    Raises `ConfigurationError`.
    """

    event: str
    lat: float
    lon: float

    def __init__(self, event: str, lat: float, lon: float) -> None:
        if event not in SOLAR_EVENTS:
            raise ScheduleError(f"solar: no event {event!r}: known: {', '.join(SOLAR_EVENTS)}")
        for name, value, most in (("lat", lat, 90), ("lon", lon, 180)):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
            if not is_number or not -most <= value <= most:
                raise ScheduleError(
                    f"solar: {name} is {shown(value)}: it goes from -{most} to {most}"
                )
        object.__setattr__(self, "event", event)
        object.__setattr__(self, "lat", float(lat))
        object.__setattr__(self, "lon", float(lon))

    def __str__(self) -> str:
        return f"solar({self.event} at {self.lat:g}, {self.lon:g})"


When = crontab | every | at | solar


def when_of(given: object) -> When:
    """Convert to a schedule type; seconds and a timedelta become `every`, as in Celery.

    Raises `ConfigurationError`.
    """
    if isinstance(given, crontab | every | at | solar):
        return given
    if isinstance(given, int | float | timedelta) and not isinstance(given, bool):
        return every(given)
    if isinstance(given, datetime):
        return at(given)
    raise ScheduleError(
        f"a schedule is {given!r}: give crontab(...), every(...), at(...), solar(...), seconds "
        "or a timedelta"
    )
