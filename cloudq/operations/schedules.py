"""Schedules as an operator sees and steers them: next and last runs, pauses, the cloud's copy."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, cast

from cloudq.app import CloudQ
from cloudq.driver import loader as plugins
from cloudq.driver.adapters import adapter
from cloudq.driver.schedulers import SchedulerDriver
from cloudq.errors import ConfigurationError
from cloudq.operations.audit import Actor, write
from cloudq.schedules.cloud_cron import ncrontab
from cloudq.schedules.cloud_sync import Plan, Scheduler
from cloudq.schedules.entry import Entry, utc
from cloudq.schedules.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """A schedule. `next` and `last` are times in its own zone; None for none.

    `state` is "on", "at run time" (made there), "paused", "off" or "over"; `stored` ones were made
    at run time. `problem` is set for one that cannot be read, and then nothing else is known.
    """

    name: str
    when: str = ""
    timezone: str = ""
    task: str = ""
    state: str = ""
    next: datetime | None = None
    last: datetime | None = None
    runs: int = 0
    stored: bool = False
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleList:
    """The schedules of an app by name, and the beat that sends them, None if none leads."""

    schedules: Sequence[ScheduleRow]
    leader: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSchedules:
    """The difference between what the cloud's scheduler holds and what the code says.

    `plan` has the changes that would bring it in line; None where there is no scheduler, for the
    reason `problem`. `timers` are lines for clouds whose functions have timers instead.
    """

    plan: Plan | None = None
    problem: str | None = None
    timers: Sequence[str] = ()


def schedules(app: CloudQ) -> ScheduleList:
    """Show the schedules of the code and those made at run time.

    Two reads of the store. Raises `BackendError`, and `ConfigurationError` for a wrong schedule.
    """
    now = utc(app.runtime.clock())
    found = sorted(app.schedules.all().values(), key=attrgetter("name"))
    leader = app.schedules.states.leader() if app.backend is not None else None
    return ScheduleList(schedules=[row_of(app, each, now) for each in found], leader=leader)


def row_of(app: CloudQ, scheduled: Schedule, now: datetime) -> ScheduleRow:
    """Return the row of a schedule, as of now, without what is secret in its arguments."""
    entry, state = scheduled.entry, scheduled.state
    if entry is None:
        return ScheduleRow(name=scheduled.name, state="broken", problem=scheduled.error)
    args, kwargs = app.runtime.redaction.shown(entry.task, entry.args, entry.kwargs)
    following = next(entry.runs(now), None) if scheduled.active else None
    return ScheduleRow(
        name=entry.name,
        when=str(entry.when),
        timezone=entry.timezone,
        task=entry.task,
        state=_state(scheduled, entry, now),
        next=None if following is None else following.astimezone(entry.zone),
        last=None if state.sent is None else utc(state.sent).astimezone(entry.zone),
        runs=state.runs,
        stored=entry.stored,
        args=args,
        kwargs=kwargs,
        options=dict(entry.options),
    )


def due_next(rows: Sequence[ScheduleRow], count: int = 5) -> list[ScheduleRow]:
    """Return the schedules that run next, the first first."""
    due = [row for row in rows if row.next is not None]
    return sorted(due, key=attrgetter("next"))[:count]


def next_runs(
    app: CloudQ, name: str, *, count: int = 10, after: datetime | None = None
) -> list[datetime]:
    """Return the next due times of a schedule in its own zone. Raises `ConfigurationError`."""
    entry = app.schedules.entry(name)
    start = utc(app.runtime.clock()) if after is None else entry.bound(after)
    assert start is not None  # `after` is not None
    return [moment.astimezone(entry.zone) for moment in islice(entry.runs(start), count)]


# ---- actions


def run_now(app: CloudQ, name: str, *, by: Actor) -> str:
    """Send a schedule's task now, in addition to its runs; return the task's id."""
    id = app.schedules.run_now(name).id
    write(app, by, "run now", f"schedule {name}", count=1, outcome=f"runs as {id}")
    return id


def pause(app: CloudQ, name: str, *, by: Actor) -> None:
    """Stop a schedule's runs until `resume`; beats notice within seconds, a cloud at `apply`."""
    app.schedules.pause(name)
    write(app, by, "pause", f"schedule {name}", count=1)


def resume(app: CloudQ, name: str, *, by: Actor) -> None:
    """Start a schedule's runs again; those missed in the pause are not sent."""
    app.schedules.resume(name)
    write(app, by, "resume", f"schedule {name}", count=1)


def delete(app: CloudQ, name: str, *, by: Actor) -> None:
    """Delete a schedule that was made at run time. Raises `ConfigurationError` for others."""
    app.schedules.delete(name)
    write(app, by, "delete", f"schedule {name}", count=1)


# ---- the cloud's


def cloud(app: CloudQ, url: str | None = None) -> CloudSchedules:
    """Compare the cloud's scheduler with the code; without one, say so. Raises `ServiceError`."""
    url = url or app.conf.scheduler
    without = adapter(url or app.conf.broker).no_scheduler
    if without is not None:
        return CloudSchedules(problem=without, timers=timers(app))
    if url is None:
        return CloudSchedules(problem="this app has no cloud scheduler: a beat sends its schedules")
    with opened(app, url) as scheduler:
        return CloudSchedules(plan=scheduler.plan())


def timers(app: CloudQ) -> list[str]:
    """Return each schedule as the timer of a function, for clouds that have no scheduler."""
    lines: list[str] = []
    for entry in app.schedules.declared().values():
        try:
            lines += [
                f'{entry.name}: Timer(schedule="{line}", task="{entry.task}"), {entry.timezone}'
                for line in ncrontab(entry)
            ]
        except ConfigurationError as error:
            lines.append(str(error))
    return lines


@contextmanager
def opened(app: CloudQ, url: str | None = None) -> Generator[Scheduler]:
    """Open the cloud's scheduler of an app. Raises `ConfigurationError` without one."""
    url = url or app.conf.scheduler
    without = adapter(url or app.conf.broker).no_scheduler
    if without is not None:
        raise ConfigurationError(without)
    if url is None:
        known = [adapter(entry.name).example for entry in plugins.installed("scheduler")]
        raise ConfigurationError(
            "no scheduler given: use --scheduler URL, or set scheduler="
            f", for example {' or '.join(filter(None, known))}"
        )
    driver = cast("SchedulerDriver", plugins.open_scheduler(url))
    scheduler = Scheduler(app.schedules, driver, url=url.partition("?")[0])
    try:
        yield scheduler
    finally:
        scheduler.close()


def _state(scheduled: Schedule, entry: Entry, now: datetime) -> str:
    if scheduled.state.paused:
        return "paused"
    if not entry.enabled:
        return "off"
    if entry.over(now):
        return "over"
    return "at run time" if entry.stored else "on"
