"""Computes the runs of a schedule, in any time zone.

Clock changes follow the rule of Debian's cron. A crontab whose hour is `*` runs by elapsed time: in
both of two repeated hours, and not in a skipped hour. Any other crontab runs once for each local
time it names: skipped times give one run at the moment of the change, and of a repeated time the
first one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from importlib import import_module
from typing import Any

from cronsim import CronSim, CronSimError

from cloudq.errors import ConfigurationError, install_hint
from cloudq.schedules import cron_fields as fields
from cloudq.schedules.when import When, at, crontab, every, solar

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# Days. Near a pole the sun may not rise for months.
_LONGEST_NIGHT = 370
# Distances into the past at which the last run is searched for. A leap day that is a Monday comes
# every 28 years, or 40 across a century year that is not a leap year.
_BACK = tuple(timedelta(days=days) for days in (0.02, 1.2, 8, 32, 367, 9 * 366, 41 * 366))


def runs(
    when: When, after: datetime, zone: tzinfo, *, start: datetime | None
) -> Iterator[datetime]:
    """Yield the runs after `after`, in UTC and in order. `every` counts from `start`."""
    after = after.astimezone(UTC)
    if isinstance(when, crontab):
        everywhere = when.hour == fields.HOUR.all
        yield from (_passing if everywhere else _named)(when, after, zone)
    elif isinstance(when, every):
        yield from _periods(when.seconds, after, start)
    elif isinstance(when, at):
        moment = moment_of(when.time, zone)
        if moment > after:
            yield moment
    else:
        yield from _solar(when, after, zone)


def last_run(
    when: When, until: datetime, zone: tzinfo, *, start: datetime | None
) -> datetime | None:
    """The latest run up to and including `until`, in UTC; None if there is none.

    For `at`, `every` and crontabs; of the sun, looked for in a year.
    """
    until = until.astimezone(UTC)
    if isinstance(when, every):
        period = when.seconds
        base = start.timestamp() if start is not None else 0.0
        count = (until.timestamp() - base) // period
        return None if count < 0 and start is not None else _moment(base + count * period)
    for back in _BACK:
        found = None
        for moment in runs(when, until - back, zone, start=start):
            if moment > until:
                break
            found = moment
        if found is not None:
            return found
    return None


def moment_of(time: datetime, zone: tzinfo) -> datetime:
    """Convert to UTC. `zone` applies to naive times, by the rule for local times above.

    The last moment of all stands for a time that has none, as `datetime.max` west of Greenwich.
    """
    try:
        return time.astimezone(UTC) if time.tzinfo is not None else _resolved(time, zone)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _periods(period: float, after: datetime, start: datetime | None) -> Iterator[datetime]:
    base = start.timestamp() if start is not None else 0.0
    count = (after.timestamp() - base) // period
    if start is not None:
        count = max(count, -1)
    while True:
        count += 1
        moment = _moment(base + count * period)
        if moment > after:  # the division may round
            yield moment


def _moment(stamp: float) -> datetime:
    return datetime.fromtimestamp(round(stamp, 3), UTC)


# ---- crontabs


def _line(when: crontab) -> str:
    """The line for cronsim; without the day of the week if a day must match both fields."""
    minute, hour, dom, month, dow = when.line.split()
    return f"{minute} {hour} {dom} {month} {'*' if when.both_days else dow}"


def _local_times(when: crontab, after: datetime) -> Iterator[datetime]:
    """The matching naive local times after this one, regardless of clock changes."""
    try:
        times = CronSim(_line(when), after)
    except CronSimError as error:  # checked by the value already
        raise ConfigurationError(f"{when} never runs: {error}") from error
    for time in times:
        if not when.both_days or time.isoweekday() % 7 in when.day_of_week:
            yield time


def _named(when: crontab, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield a run for each local time, once."""
    last = after
    for time in _local_times(when, after.astimezone(zone).replace(tzinfo=None)):
        moment = _resolved(time, zone)
        if moment > last:
            last = moment
            yield moment


def _passing(when: crontab, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield each moment whose local time matches, from one clock change to the next."""
    while True:
        offset = _offset(after, zone)
        naive = after.astimezone(zone).replace(tzinfo=None)
        for time in _local_times(when, naive):
            moment = (time - offset).replace(tzinfo=UTC)
            change = _next_change(after, moment, zone)
            if change is not None:
                # Go on from just before the change, since the change itself may be a run.
                after = change - _SECOND
                break
            after = moment
            yield moment
        else:
            return
        yield from _at_change(when, after, zone)
        after += _SECOND


def _at_change(when: crontab, before: datetime, zone: tzinfo) -> Iterator[datetime]:
    change = before + _SECOND
    local = change.astimezone(zone).replace(tzinfo=None)
    first = next(_local_times(when, local - _SECOND), None)
    if first == local:
        yield change


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None  # it has a zone
    return offset


def _next_change(after: datetime, until: datetime, zone: tzinfo) -> datetime | None:
    """The first moment with another offset than `after`, up to `until`; None for no change."""
    low = after
    while low < until:
        high = min(low + _DAY, until)
        if _offset(high, zone) != _offset(after, zone):
            return _change_between(low, high, zone)
        low = high
    return None


def _change_between(low: datetime, high: datetime, zone: tzinfo) -> datetime:
    """The second between `low` and `high` at which the UTC offset changes."""
    before = _offset(low, zone)
    low, high = low.replace(microsecond=0), high
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if _offset(middle, zone) == before:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _resolved(local: datetime, zone: tzinfo) -> datetime:
    """Convert a local time: the first if it is repeated, the clock change if it is skipped."""
    first = local.replace(tzinfo=zone, fold=0)
    moment = first.astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == local:
        return moment
    # Fold 1 uses the offset after the change, which gives a moment before it.
    return _change_between(local.replace(tzinfo=zone, fold=1).astimezone(UTC), moment, zone)


# ---- the sun


def _solar(when: solar, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    event = _sun(when)
    day = after.astimezone(zone).date() - _DAY
    last, missing = after, 0
    while missing < _LONGEST_NIGHT:
        moment = event(day)
        day += _DAY
        missing = missing + 1 if moment is None else 0
        if moment is not None and moment > last:
            last = moment
            yield moment


def _sun(when: solar) -> Callable[[date], datetime | None]:
    try:
        astral: Any = import_module("astral")
        sun: Any = import_module("astral.sun")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{when} needs the package {error.name}: {install_hint('solar')}"
        ) from error
    observer = astral.Observer(when.lat, when.lon, 0.0)
    name, _, degrees = when.event.partition("_")

    def event(day: date) -> datetime | None:
        try:
            if when.event == "solar_noon":
                found = sun.noon(observer, day)
            elif degrees:
                angle = getattr(astral.Depression, degrees.upper())
                found = getattr(sun, name)(observer, day, depression=angle)
            else:
                found = getattr(sun, name)(observer, day)
        except ValueError:  # the sun does not come so low, or so high, on that day
            return None
        return found.astimezone(UTC).replace(microsecond=0)

    return event


def existing(when: crontab, after: datetime, until: datetime, zone: tzinfo) -> frozenset[datetime]:
    """The runs of a scheduler that omits skipped local times and runs repeated ones once."""
    found: set[datetime] = set()
    for time in _local_times(when, after.astimezone(zone).replace(tzinfo=None) - _DAY):
        moment = time.replace(tzinfo=zone, fold=0).astimezone(UTC)
        if moment > until + _DAY:
            break
        if moment.astimezone(zone).replace(tzinfo=None) == time:
            found.add(moment)
    return frozenset(found)
