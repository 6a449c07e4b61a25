"""Turns the schedules of an app's code into entries of EventBridge Scheduler.

They equal the jobs that `cloudq schedules apply` makes, so neither command undoes the other's.
Schedules made at run time, and pauses, are in the store and not in a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from cloudq.app import CloudQ
from cloudq.broker.one_time import group_of
from cloudq.driver.schedulers import Job, SchedulerDriver
from cloudq.errors import ConfigurationError
from cloudq.schedules.cloud_sync import Scheduler
from cloudq.schedules.schedules import Schedule as AppSchedule
from cloudq_aws.eventbridge import Terms
from cloudq_deploy.aws.plan import Schedule
from cloudq_deploy.requirements import declared_schedules

_SERVICE = "EventBridge Scheduler"


def group_name(app: str, stack: str) -> str:
    """The group of a stack's entries: the app's own group if the stack has the app's name."""
    return group_of(app if stack == app else stack)


def schedules_of(app: CloudQ) -> Sequence[Schedule]:
    """Make the entries of the code's schedules; sends no request.

    Raises `ConfigurationError` that names every schedule the service cannot run.
    """
    found = declared_schedules(app)
    if not found:
        return ()
    # The terms of the service are enough to make the jobs; no driver is connected.
    scheduler = Scheduler(app.schedules, cast("SchedulerDriver", Terms()), url=_SERVICE)
    errors: dict[str, None] = {}
    tasks = {
        job: each.entry.task
        for each in found
        if each.entry is not None
        for job in _jobs(scheduler, each, errors)
    }
    _check(errors)
    return [_schedule(job, tasks[name]) for name, job in scheduler.jobs(found).items()]


def _jobs(scheduler: Scheduler, one: AppSchedule, errors: dict[str, None]) -> Iterable[str]:
    try:
        return scheduler.jobs([one])
    except ConfigurationError as error:
        errors[str(error)] = None
        return ()


def _check(errors: Iterable[str]) -> None:
    if errors:
        raise ConfigurationError(
            f"{'; '.join(errors)}. Change them, or let a beat that runs elsewhere send all "
            'schedules: schedules = "beat" in [tool.cloudq.deploy]'
        )


def _schedule(job: Job, task: str) -> Schedule:
    return Schedule(
        name=job.name,
        expression=job.expression,
        queue=job.queue,
        input=job.body,
        timezone=job.timezone,
        enabled=job.enabled,
        group=job.group,
        description=job.description,
        start=job.start,
        end=job.end,
        window=job.window,
        task=task,
    )


def job_of(schedule: Schedule) -> Job:
    """Turn an entry back into the job it was made of."""
    return Job(
        name=schedule.name,
        expression=schedule.expression,
        timezone=schedule.timezone,
        queue=schedule.queue,
        body=schedule.input,
        description=schedule.description,
        group=schedule.group,
        enabled=schedule.enabled,
        start=schedule.start,
        end=schedule.end,
        window=schedule.window,
    )


def of_beat(app: CloudQ) -> dict[str, str]:
    """The times of the code's schedules, for a plan that leaves them to a beat."""
    return {
        name: f"{entry.when} {entry.timezone}" for name, entry in app.schedules.declared().items()
    }
