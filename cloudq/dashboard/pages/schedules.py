"""The data of the schedules: when they run, and what the cloud's scheduler holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.pages.rows import pretty
from cloudq.dashboard.visit import Visit
from cloudq.operations import schedules
from cloudq.schedules.cloud_sync import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A schedule. `next` and `last` are epoch seconds, `next_local` in the schedule's own zone."""

    name: str
    when: str
    timezone: str
    task: str
    state: str
    next: float | None
    next_local: str | None
    last: float | None
    runs: int
    stored: bool
    arguments: str | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The schedules, and the beat that sends them."""

    rows: Sequence[Row]
    leader: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change that would bring the cloud's scheduler in line.

    `parts` are as "name: have -> want", or names alone where the values are hidden.
    """

    action: str
    name: str
    parts: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The differences between the cloud's scheduler and the code, or why it was not asked.

    `equal` counts what is in line, `foreign` names what belongs to no schedule of this app.
    """

    group: str
    changes: Sequence[Change]
    equal: int
    foreign: Sequence[str]
    problem: str | None
    timers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The schedules; `cloud` is None unless the scheduler was asked. It may be at `scheduler`."""

    found: Part[Found]
    cloud: Part[Cloud] | None
    scheduler: str | None
    can_act: bool


def data(watch: Watch, visit: Visit) -> Page:
    """Look at the schedules, and at the cloud's scheduler if that is asked for."""
    app = watch.app
    found = watch.part(("schedules", visit.operates), _found, app, visit)
    cloud: Part[Cloud] | None = None
    if visit.query.get("cloud"):
        cloud = watch.part(("cloud", visit.operates), _cloud, app, visit, ttl=30.0)
    return Page(
        found=found,
        cloud=cloud,
        scheduler=app.conf.scheduler,
        can_act=app.conf.backend_url is not None,
    )


def _found(app: CloudQ, visit: Visit) -> Found:
    listed = schedules.schedules(app)
    return Found(rows=[_row(row, visit) for row in listed.schedules], leader=listed.leader)


def _row(row: schedules.ScheduleRow, visit: Visit) -> Row:
    has_arguments = bool(row.args or row.kwargs)
    return Row(
        name=row.name,
        when=row.when,
        timezone=row.timezone,
        task=row.task,
        state=row.state,
        next=None if row.next is None else row.next.timestamp(),
        next_local=None if row.next is None else row.next.strftime("%a %Y-%m-%d %H:%M:%S %Z"),
        last=None if row.last is None else row.last.timestamp(),
        runs=row.runs,
        stored=row.stored,
        arguments=pretty([row.args, row.kwargs]) if has_arguments and visit.operates else None,
        problem=row.problem,
    )


def _cloud(app: CloudQ, visit: Visit) -> Cloud:
    held = schedules.cloud(app)
    plan = held.plan
    return Cloud(
        group=plan.group if plan is not None else "",
        changes=[change_of(step, visit) for step in plan.steps] if plan is not None else (),
        equal=len(plan.equal) if plan is not None else 0,
        foreign=plan.foreign if plan is not None else (),
        problem=held.problem,
        timers=held.timers,
    )


def change_of(step: Step, visit: Visit) -> Change:
    """Tell of a step; to who only looks the names of what differs, since it may be the message."""
    if not visit.operates:
        return Change(action=step.action, name=step.name, parts=list(step.parts))
    parts = step.parts.items() if step.action != "delete" else ()
    return Change(
        action=step.action,
        name=step.name,
        parts=[
            f"{name}: {have} -> {want}" if have is not None else f"{name}: {want}"
            for name, (have, want) in parts
        ],
    )
