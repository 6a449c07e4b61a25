"""An independent reference for runs: every minute of ten years, one after the other.

It knows zones by their offset at each half hour of UTC and nothing of the engine: a clock that is
looked at each minute shows local times; those that it jumps over are seen at the next look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from cloudq.schedules.when import crontab

FIRST, LAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
_HALF_HOUR = 1800
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (a local one)


@cache
def offsets(zone: str) -> list[int]:
    """Minutes east of Greenwich in each half hour from `FIRST` on, two days before it included."""
    info = ZoneInfo(zone)
    start = int((FIRST - timedelta(days=2)).timestamp())
    stamps = range(start, int(LAST.timestamp()), _HALF_HOUR)
    shifts = (datetime.fromtimestamp(stamp, info).utcoffset() for stamp in stamps)
    return [int(shift.total_seconds()) // 60 for shift in shifts if shift is not None]


@cache
def changes(zone: str) -> list[datetime]:
    """The moments at which the clocks of a zone change within the ten years."""
    start = FIRST - timedelta(days=2)
    found = offsets(zone)
    return [
        start + timedelta(seconds=_HALF_HOUR * place)
        for place in range(1, len(found))
        if found[place] != found[place - 1]
    ]


@dataclass(frozen=True)
class Fits:
    """Tells whether a local minute, counted from 1970, fits a crontab."""

    when: crontab
    days: dict[int, bool]

    def __call__(self, minute: int) -> bool:
        day, rest = divmod(minute, 1440)
        if day not in self.days:
            self.days[day] = self._day(_EPOCH + timedelta(days=day))
        if not self.days[day]:
            return False
        return rest // 60 in self.when.hour and rest % 60 in self.when.minute

    def _day(self, day: datetime) -> bool:
        month, week = day.day in self.when.day_of_month, int(day.strftime("%w"))
        if day.month not in self.when.month_of_year:
            return False
        if self.when.days == "either":
            return month or week in self.when.day_of_week
        return month and week in self.when.day_of_week


def reference(when: crontab, zone: str, after: datetime, until: datetime) -> Iterator[datetime]:
    """The runs after a moment and before another, which is `LAST` at the latest."""
    fits = Fits(when, {})
    table = offsets(zone)
    base = int((FIRST - timedelta(days=2)).timestamp()) // 60
    first = int(after.timestamp()) // 60
    by_hours = len(when.hour) < 24
    shown = 0  # the latest local time that a clock has shown
    for minute in range(first - 1440, -int(-until.timestamp() // 60)):
        local = minute + table[(minute - base) // 30]
        if by_hours and local != shown + 1:
            jumped = range(max(shown + 1, local - 180), local + 1) if shown else (local,)
            due = any(fits(each) for each in jumped)
        else:
            due = fits(local)
        shown = max(shown, local)
        if due and minute * 60 > after.timestamp():
            yield datetime.fromtimestamp(minute * 60, UTC)
