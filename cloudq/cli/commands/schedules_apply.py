"""`cloudq schedules plan` and `apply`: bring the cloud's scheduler in line with the code."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from cloudq.amounts import counted
from cloudq.cli.options import JsonOption, Target, YesOption, common
from cloudq.cli.output import confirm, emit, note, say
from cloudq.driver.adapters import adapter
from cloudq.operations import schedules as operations
from cloudq.schedules.cloud_sync import Plan, Scheduler, Step

SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler", metavar="URL", help="The cloud's scheduler. Default: the setting scheduler."
    ),
]

_SIGNS = {"create": "+", "update": "~", "delete": "-"}


@common
def plan(target: Target, scheduler: SchedulerOption = None, json: JsonOption = False) -> int:
    """Show what `apply` would change in the cloud's scheduler.

    Only schedules made by `apply` are compared. The exit code is 1 if there are changes.
    """
    with _opened(target, scheduler) as cloud:
        found = cloud.plan()
    if json:
        emit(_as_json(found))
    else:
        _show(found)
    return 1 if found.steps else 0


@common
def apply(
    target: Target,
    scheduler: SchedulerOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Update the cloud's scheduler to match the schedules of the app."""
    with _opened(target, scheduler) as cloud:
        found = cloud.plan()
        if not json:
            _show(found)
        if found.steps:
            changes = counted(len(found.steps), "change")
            confirm(f"Apply {changes} to {found.group}?", found.group, yes=yes)
            cloud.apply(found, _print_nothing if json else _told)
    if json:
        emit(_as_json(found))


@contextmanager
def _opened(target: Target, url: str | None) -> Generator[Scheduler]:
    app = target.load()
    without = adapter(url or app.conf.scheduler or app.conf.broker).no_scheduler
    if without is not None:
        for line in operations.timers(app):
            note(line)
    with app, operations.opened(app, url) as cloud:
        yield cloud


def _show(plan: Plan) -> None:
    for step in plan.steps:
        say(f"{_SIGNS[step.action]} {step.action} {step.name}")
        if step.action == "delete":
            continue
        for name, (have, want) in step.parts.items():
            say(f"    {name}: {want}" if have is None else f"    {name}: {have} -> {want}")
    if not plan.steps:
        say(f"no changes: {counted(len(plan.equal), 'schedule')} in {plan.group}: up to date")
    for name in plan.foreign:
        note(f"{name} in {plan.group} does not belong to this app and is left unchanged")
    for name, why in plan.over.items():
        note(f"{name} has no more runs: {why}; give it a later time, or remove it")


def _print_nothing(step: Step) -> None:
    """Keep standard output free for the JSON."""


def _told(step: Step) -> None:
    done = {"create": "created", "update": "updated", "delete": "deleted"}
    say(f"{done[step.action]} {step.name}")


def _as_json(plan: Plan) -> dict[str, object]:
    return {
        "group": plan.group,
        "changes": [
            {"action": s.action, "name": s.name, "parts": {k: list(v) for k, v in s.parts.items()}}
            for s in plan.steps
        ],
        "equal": list(plan.equal),
        "foreign": list(plan.foreign),
        "over": dict(plan.over),
    }
