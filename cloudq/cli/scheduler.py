"""`cloudq schedules plan` and `apply`: the cloud's own scheduler made equal to the code."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, cast

import typer

from cloudq import plugins
from cloudq.cli.common import JsonOption, Target, YesOption, common
from cloudq.cli.output import confirm, emit, note, say
from cloudq.errors import ConfigurationError
from cloudq.schedules.cloud import Plan, Scheduler, Step
from cloudq.schedules.driver import SchedulerDriver

SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler", metavar="URL", help="eventbridge:// or cloudscheduler://; else the setting."
    ),
]

_SIGNS = {"create": "+", "update": "~", "delete": "-"}


@common
def plan(target: Target, scheduler: SchedulerOption = None, json: JsonOption = False) -> int:
    """Show what `apply` would change in the cloud's scheduler.

    Only what it made itself is looked at. The exit code is 1 where there is something to change.
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
    """Make the cloud's scheduler equal to the schedules of the app."""
    with _opened(target, scheduler) as cloud:
        found = cloud.plan()
        if not json:
            _show(found)
        if found.steps:
            confirm(f"Make {len(found.steps)} changes in {found.group}?", found.group, yes=yes)
            cloud.apply(found, (lambda step: None) if json else _told)
    if json:
        emit(_as_json(found))


@contextmanager
def _opened(target: Target, url: str | None) -> Generator[Scheduler]:
    app = target.load()
    url = url or app.conf.scheduler
    if url is None:
        raise ConfigurationError(
            "which scheduler? say --scheduler eventbridge://REGION?role=ARN, or set scheduler="
        )
    driver = cast("SchedulerDriver", plugins.open_scheduler(url))
    with app:
        cloud = Scheduler(app, driver, url=url.partition("?")[0])
        try:
            yield cloud
        finally:
            cloud.close()


def _show(plan: Plan) -> None:
    for step in plan.steps:
        say(f"{_SIGNS[step.action]} {step.action} {step.name}")
        if step.action == "delete":
            continue
        for name, (have, want) in step.parts.items():
            say(f"    {name}: {want}" if have is None else f"    {name}: {have} -> {want}")
    if not plan.steps:
        say(f"no changes: {len(plan.equal)} schedules in {plan.group} are as they should be")
    for name in plan.foreign:
        note(f"{name} in {plan.group} is not of this app, and is left alone")


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
    }
