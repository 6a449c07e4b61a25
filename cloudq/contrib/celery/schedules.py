"""The schedules of periodic tasks, under the names of `celery.schedules`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from typing import Any, NamedTuple, Self

from cloudq.contrib.celery.missing import names_of
from cloudq.contrib.celery.signatures import current
from cloudq.errors import ConfigurationError
from cloudq.errors import ScheduleError as ParseException
from cloudq.schedules import when
from cloudq.schedules.cron_fields import Field
from cloudq.schedules.next_run import runs

__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
]

_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


class schedstate(NamedTuple):  # noqa: N801 (Celery's name)
    """Tells whether a schedule is due, and in how many seconds to ask again."""

    is_due: bool
    next: float


class BaseSchedule:
    """A schedule that answers the questions of time that programs ask one of Celery's.

    `nowfun` gives the time, else the clock of `app` or of the current app. A beat of cloudq asks
    none of this: see `cloudq schedules`.
    """

    nowfun: Callable[[], datetime] | None = None
    _app: Any = None

    __setattr__ = object.__setattr__  # a program may set nowfun and app

    @property
    def app(self) -> Any:
        """The app whose clock and time zone count: the current one if none was given."""
        return self._app or current()

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def tz(self) -> tzinfo:
        """The time zone of the app."""
        return UTC if self.app is None else self.app.timezone

    @property
    def utc_enabled(self) -> bool:
        """True: times are UTC wherever they are stored or sent."""
        return True

    def to_local(self, dt: datetime) -> datetime:
        """Return the time as it is."""
        return dt

    def now(self) -> datetime:
        """Return the time."""
        if self.nowfun is not None:
            return self.nowfun()
        return datetime.now(UTC) if self.app is None else self.app.now()

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """Return a time with a zone: one without is in UTC, or else in that of the app."""
        if dt.tzinfo is not None:
            return dt
        return dt.replace(tzinfo=UTC if naive_as_utc else self.tz).astimezone(self.tz)

    def _next_after(self, time: datetime) -> datetime:
        """Return the first run after a time."""
        mine: Any = self  # one of the kinds below
        return next(runs(mine, time, self.tz, start=None))

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return how long it is until the run after `last_run_at`; negative if that is past."""
        following = self._next_after(self.maybe_make_aware(last_run_at))
        return following - self.maybe_make_aware(self.now())

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Tell if a run is due after the last one, and in how many seconds the next one is."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=self._next_in())

    def _next_in(self) -> float:
        return max(self.remaining_estimate(self.now()).total_seconds(), 0)


class schedule(BaseSchedule, when.every):  # noqa: N801 (Celery's name)
    """A fixed interval, in seconds if a number. Refuses `relative`.

    A beat runs it at multiples of the interval, whenever the beat was started; what this object
    answers counts from the last run that it is told.
    """

    relative = False

    def __init__(
        self,
        run_every: timedelta | float,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        if relative:
            raise ConfigurationError(
                "schedule(relative=True) counts from the start of a beat, and several may run: "
                "give the entry start="
            )
        super().__init__(run_every)
        self.nowfun, self._app = nowfun, app

    @property
    def run_every(self) -> timedelta:
        """The interval."""
        return timedelta(seconds=self.seconds)

    @property
    def human_seconds(self) -> str:
        """The interval as text: `1.50 minutes`."""
        rounded = round(self.seconds, 2)
        for unit, length in _UNITS:
            if rounded >= length:
                count = rounded / length
                return f"{count:.2f} {unit}{'' if count == 1 else 's'}"
        return "now"

    def _next_after(self, time: datetime) -> datetime:
        # In UTC, since a clock change makes no interval longer.
        return time.astimezone(UTC) + self.run_every

    def _next_in(self) -> float:
        return self.seconds

    def __eq__(self, other: object) -> bool:
        if isinstance(other, when.every):
            return self.seconds == other.seconds
        return self.run_every == other

    __hash__ = when.every.__hash__

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return type(self), (self.run_every, False, self.nowfun)


class crontab(BaseSchedule, when.crontab):  # noqa: N801
    """The times of a crontab, in the time zone of the app or of the entry; see `cloudq.crontab`.

    Its text has the fields as they were given.
    """

    def __init__(
        self,
        minute: Field | None = "*",
        hour: Field | None = "*",
        day_of_week: Field | None = "*",
        day_of_month: Field | None = "*",
        month_of_year: Field | None = "*",
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        given = (minute, hour, day_of_week, day_of_month, month_of_year)
        fields: tuple[Any, ...] = tuple("*" if each is None else each for each in given)
        super().__init__(*fields)
        self._fields = fields
        self.nowfun, self._app = nowfun, app

    @classmethod
    def from_string(cls, line: str) -> Self:
        """The times of a line `minute hour day-of-month month day-of-week`."""
        minute, hour, dom, moy, dow = when.five_fields(line)
        return cls(minute, hour, dow, dom, moy)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, when.crontab):
            return NotImplemented
        mine = getattr(other, "nowfun", self.nowfun) == self.nowfun
        return mine and (self.line, self.days) == (other.line, other.days)

    __hash__ = when.crontab.__hash__

    def __repr__(self) -> str:
        minute, hour, dow, dom, moy = self._fields
        whole = isinstance(minute, str) and len(minute.split()) > 1
        line = minute if whole else f"{minute} {hour} {dom} {moy} {dow}"
        return f"<crontab: {line} (m/h/dM/MY/d)>"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return partial(type(self), *self._fields, nowfun=self.nowfun), ()


class solar(BaseSchedule, when.solar):  # noqa: N801
    """Each day at an event of the sun, for a latitude and longitude; see `cloudq.solar`."""

    def __init__(
        self,
        event: str,
        lat: float,
        lon: float,
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        super().__init__(event, lat, lon)
        self.nowfun, self._app = nowfun, app

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, when.solar):
            return NotImplemented
        return (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)

    __hash__ = when.solar.__hash__

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return type(self), (self.event, self.lat, self.lon)


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """Make a schedule of a number of seconds or a `timedelta`; a schedule gets the app."""
    if isinstance(s, int | float | timedelta):
        return schedule(s, relative, app=app)
    if s is not None:
        s.app = app
    return s


def __getattr__(name: str) -> Any:
    return names_of(__name__, name)
