"""Translates schedules for each cloud's scheduler, and finds runs that it does differently.

EventBridge Scheduler: docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html. Cloud
Scheduler: cloud.google.com/scheduler/docs/configuring/cron-job-schedules. NCRONTAB: the page on
timer triggers of Azure Functions. A schedule that one expression cannot describe gets several; a
run that two of them send has one id, and so runs once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from cloudq.errors import ConfigurationError
from cloudq.schedules import cron_fields as fields
from cloudq.schedules import next_run as engine
from cloudq.schedules.entry import Entry
from cloudq.schedules.when import at, crontab, every

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def eventbridge(entry: Entry) -> list[str]:
    """Expressions of EventBridge Scheduler: cron of six fields, rate, at.

    Raises `ConfigurationError` for a schedule that it cannot express.
    """
    when = entry.when
    if isinstance(when, crontab):
        return [f"cron({line})" for line in _eventbridge_crons(entry, when)]
    if isinstance(when, every):
        for size, unit in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
            if when.seconds % size == 0:
                count = int(when.seconds // size)
                return [f"rate({count} {unit}{'s' if count > 1 else ''})"]
        raise _refusal(
            entry, "EventBridge Scheduler", "its rates are in whole minutes: run a beat for it"
        )
    if isinstance(when, at):
        time = engine.moment_of(when.time, entry.zone).astimezone(entry.zone)
        return [f"at({time.strftime('%Y-%m-%dT%H:%M:%S')})"]
    raise _refusal(entry, "EventBridge Scheduler", "it has no solar schedules: run a beat for it")


def _eventbridge_crons(entry: Entry, when: crontab) -> list[str]:
    minute, hour, dom, month, _ = when.line.split()
    # EventBridge counts days from SUN=1, cron from SUN=0, so days are written by name.
    dow = fields.text(fields.DAY_OF_WEEK, when.day_of_week, names=True)

    def cron(day: str, week: str) -> str:
        return f"{minute} {hour} {day} {month} {week} *"

    if when.either_day:
        return [cron(dom, "?"), cron("?", dow)]
    if when.both_days:
        weeks = _whole_weeks(when.day_of_month)
        if weeks is None:
            raise _refusal(
                entry,
                "EventBridge Scheduler",
                "it takes a day of the week only with the first to fourth week of a month "
                "(day_of_month 1-7, 8-14, 15-21, 22-28): let the task check one of the two",
            )
        # `2#1` is the first Monday; an expression takes one such day.
        days = sorted(when.day_of_week)
        return [cron("?", f"{day + 1}#{week}") for week in weeks for day in days]
    return [cron("?", dow)] if dow != "*" else [cron(dom, "?")]


def _whole_weeks(days: frozenset[int]) -> list[int] | None:
    """The weeks of a month (1 to 4) that the days make up exactly; None if they do not."""
    weeks = [week for week in range(1, 5) if 7 * week in days]
    whole = (day for week in weeks for day in range(7 * week - 6, 7 * week + 1))
    return weeks if frozenset(whole) == days else None


def unix_cron(entry: Entry) -> list[str]:
    """The expression of Cloud Scheduler. Raises `ConfigurationError` if there is none."""
    when, cloud = entry.when, "Cloud Scheduler"
    if isinstance(when, crontab):
        if when.both_days:
            raise _refusal(
                entry,
                cloud,
                "with a day of the month and a day of the week, either is enough to run: let the "
                "task check one of the two",
            )
        return [when.line]
    if isinstance(when, every):
        return [_periodic(entry, when, cloud)]
    raise _refusal(entry, cloud, "it knows crontabs only: run a beat for it")


def ncrontab(entry: Entry) -> list[str]:
    """Expressions of Azure Functions' timers, six fields with the seconds first.

    Raises `ConfigurationError` for a schedule that they cannot express.
    """
    when, cloud = entry.when, "a timer of Azure Functions"
    if isinstance(when, crontab):
        minute, hour, dom, month, dow = when.line.split()
        if when.either_day:  # in one NCRONTAB expression a day must match both
            return [f"0 {minute} {hour} {dom} {month} *", f"0 {minute} {hour} * {month} {dow}"]
        return [f"0 {when.line}"]
    if isinstance(when, every):
        if when.seconds in range(1, _MINUTE) and 60 % when.seconds == 0:
            return [f"*/{int(when.seconds)} * * * * *"] if when.seconds > 1 else ["* * * * * *"]
        return [f"0 {_periodic(entry, when, cloud)}"]
    raise _refusal(entry, cloud, "it knows crontabs only: run a beat for it")


def _periodic(entry: Entry, when: every, cloud: str) -> str:
    """A period as a crontab in UTC; it must divide an hour or a day."""
    minutes = when.seconds / _MINUTE
    if entry.start is None and minutes == int(minutes):
        if 60 % minutes == 0:
            return f"{_step(int(minutes), 60)} * * * *"
        if (24 * 60) % minutes == 0 and minutes % 60 == 0:
            return f"0 {_step(int(minutes) // 60, 24)} * * *"
    raise _refusal(entry, cloud, "its periods must divide an hour or a day: run a beat for it")


def _step(count: int, of: int) -> str:
    return "*" if count == 1 else "0" if count == of else f"*/{count}"


def _refusal(entry: Entry, cloud: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"schedule {entry.name!r}: {cloud} cannot run {entry.when}: {why}")


# ---- differences between clouds and the beat


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A run that a cloud does differently from the beat; `what` describes how."""

    cloud: str
    moment: datetime
    what: str

    def told(self, zone: tzinfo) -> str:
        """The difference as one line of text."""
        shown = self.moment.astimezone(zone).strftime("%a %Y-%m-%d %H:%M:%S %Z")
        return f"{self.cloud}: {shown}: {self.what}"

    def as_json(self, zone: tzinfo) -> dict[str, str]:
        """The difference as a JSON object, with the time in this zone."""
        shown = self.moment.astimezone(zone).isoformat()
        return {"cloud": self.cloud, "run": shown, "what": self.what}


_SKIPPED = "not run: the clocks skip this time"
_ONCE = "not run: it runs a local time that comes twice once"
_UNSURE = "may be left out, or run twice: the clocks change, and it promises nothing then"
_SAYS: tuple[tuple[str, Callable[[Entry], list[str]]], ...] = (
    ("EventBridge Scheduler", eventbridge),
    ("Cloud Scheduler", unix_cron),
)


def clouds_at(entry: Entry, after: datetime, until: datetime) -> list[Difference]:
    """List the runs of a crontab that clouds do differently from a beat, in order of time."""
    when = entry.when
    if not isinstance(when, crontab):
        return []
    able = {cloud for cloud, say in _SAYS if _can(say, entry)}
    found: list[Difference] = []
    existing = engine.existing(when, after, until, entry.zone)
    for moment in entry.runs(after):
        if moment > until:
            break
        twice = _comes_twice(moment, entry.zone)
        lacking = moment not in existing
        if lacking and "EventBridge Scheduler" in able:
            what = _ONCE if twice else _SKIPPED
            found.append(Difference(cloud="EventBridge Scheduler", moment=moment, what=what))
        if (lacking or twice) and "Cloud Scheduler" in able:
            found.append(Difference(cloud="Cloud Scheduler", moment=moment, what=_UNSURE))
    return found


def _can(say: Callable[[Entry], list[str]], entry: Entry) -> bool:
    try:
        say(entry)
    except ConfigurationError:
        return False
    return True


def _comes_twice(moment: datetime, zone: tzinfo) -> bool:
    time = moment.astimezone(zone)
    both = {time.replace(fold=fold).astimezone(UTC) for fold in (0, 1)}
    return len(both) == 2 and all(
        each.astimezone(zone).replace(tzinfo=None) == time.replace(tzinfo=None) for each in both
    )
