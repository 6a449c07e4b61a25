"""A deployment of an app to Google Cloud."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cloudq.app import CloudQ
from cloudq.cli.output import confirm, emit, note, say
from cloudq.driver.loader import parse
from cloudq.errors import ConfigurationError
from cloudq.schedules.cloud_sync import Scheduler, Step
from cloudq_deploy.bundle.archive import Limit, Package
from cloudq_deploy.bundle.build import build
from cloudq_deploy.costs import Assumed, Cost
from cloudq_deploy.google import costs
from cloudq_deploy.google.apply import Change, carry_out, look, propose, removal
from cloudq_deploy.google.gcloud import script
from cloudq_deploy.google.iam import grants
from cloudq_deploy.google.options import GoogleOptions
from cloudq_deploy.google.package import LAYOUT
from cloudq_deploy.google.plan import Plan
from cloudq_deploy.google.planner import plan_of
from cloudq_deploy.google.summary import summary
from cloudq_deploy.google.terraform import configuration
from cloudq_deploy.options import read_options
from cloudq_deploy.requirements import declared_schedules
from cloudq_gcp.client import access
from cloudq_gcp.cloud_scheduler import open_scheduler
from cloudq_gcp.pubsub_requests import Requests

# The resources that `apply` does not make.
_OTHERS = "accounts, rights, the database, the buckets, the functions and the pushes to them"
_SIGNS = {"create": "+", "update": "~", "delete": "-"}


def planned(app: CloudQ, entry: str, folder: Path, given: Mapping[str, object]) -> GoogleDeployment:
    """Plan an app for Google Cloud. Raises `ConfigurationError`."""
    options = read_options(GoogleOptions, "google", folder, given)
    plan = plan_of(app, entry, options)
    return GoogleDeployment(app=app, plan=plan, options=options, folder=folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleDeployment:
    """A `Deployment` to Google Cloud."""

    app: CloudQ
    plan: Plan
    options: GoogleOptions
    folder: Path

    @property
    def stack(self) -> str:
        """The name of the stack: names of its resources begin with it."""
        return self.plan.stack

    @property
    def limit(self) -> Limit:
        """The largest zip that Cloud Run functions accept."""
        return LAYOUT.limit

    @property
    def formats(self) -> Mapping[str, Callable[[], str]]:
        """Terraform's JSON, and a shell script for the resources that `apply` leaves out."""
        return {"terraform": self._terraform, "gcloud": partial(script, self.plan)}

    def _terraform(self) -> str:
        return jsons.dumps(configuration(self.plan), indent=2)

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values, with all grants."""
        return self.plan.as_json() | {"grants": [asdict(grant) for grant in grants(self.plan)]}

    def summary(self) -> Iterator[tuple[str, str, str]]:
        """Yield each resource of the plan: its kind, its name, its settings."""
        return summary(self.plan)

    def idle_costs(self) -> Sequence[Cost]:
        """Estimate a month in which no task is called."""
        return costs.idle(self.plan)

    def task_costs(self, assumed: Assumed) -> Mapping[str, Sequence[Cost]]:
        """Estimate a million tasks of each function, by the function's name."""
        return {each.name: costs.million(self.plan, each, assumed) for each in self.plan.functions}

    def assumptions(self, assumed: Assumed) -> str:
        """Describe the assumptions of the estimates."""
        return costs.assumptions(assumed)

    def check(self) -> None:
        """Raise `ConfigurationError` for a schedule that Cloud Scheduler cannot run."""
        if self.plan.refused:
            raise ConfigurationError(
                f'{self.plan.refused[0].why}; with schedules = "beat" in '
                "[tool.cloudq.deploy.google] a beat sends all schedules"
            )

    def build(self, output: Path | None, say: Callable[[str], None]) -> Package:
        """Build the zip that all functions run."""
        path = output or self.folder / "build" / f"{self.plan.stack}-google.zip"
        selection = self.options.selection()
        layout = replace(LAYOUT, more=self.plan.extras)
        return build(self.folder, self.plan.entry, selection, path, layout, say)

    def write_dockerfile(self, output: Path | None, say: Callable[[str], None]) -> None:
        """Raise `ConfigurationError`: functions on Google run a zip."""
        raise ConfigurationError("--image is for aws only: leave it out for google")

    # ---- on Google Cloud

    def apply(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Make topics, subscriptions and jobs; say which resources are left, and their commands.

        Raises `ConfigurationError`, `ServiceError`.
        """
        self.check()
        plan = self.plan
        connection = access(parse(f"pubsub://{plan.project}"))
        requests = Requests(connection)
        scheduler = self._scheduler() if plan.jobs or self.options.schedules == "cloud" else None
        try:
            emulated = connection.emulator is not None
            changes = propose(plan, look(plan, requests), adopt=adopt, emulator=emulated)
            jobs = scheduler.plan(declared_schedules(self.app)) if scheduler else None
            steps = jobs.steps if jobs else ()
            if not json:
                _show(changes, steps)
            if changes or steps:
                confirm(f"Apply these changes to {plan.stack}?", plan.stack, yes=yes)
            carry_out(changes, requests, _tell)
            if scheduler and jobs:
                scheduler.apply(jobs, _tell)
        finally:
            requests.close()
            if scheduler:
                scheduler.close()
        self._report(changes, steps, json=json)

    def destroy(self, *, data: bool, yes: bool) -> None:
        """Delete the jobs; with `data` also topics and subscriptions, with their messages.

        Raises `ConfigurationError`, `ServiceError`.
        """
        plan = self.plan
        requests, scheduler = Requests(access(parse(f"pubsub://{plan.project}"))), self._scheduler()
        try:
            changes = removal(plan, look(plan, requests)) if data else []
            jobs = scheduler.plan([])
            _show(changes, jobs.steps)
            if changes or jobs.steps:
                confirm(f"Delete these resources of {plan.stack}?", plan.stack, yes=yes)
            # Jobs first: they send to the topics.
            scheduler.apply(jobs, _tell)
            carry_out(changes, requests, _tell)
        finally:
            requests.close()
            scheduler.close()
        kept = "" if data else "topics and subscriptions (--data deletes them), "
        note(f"not deleted: {kept}{_OTHERS}")

    def _scheduler(self) -> Scheduler:
        url = f"cloudscheduler://{self.plan.project}/{self.plan.location}"
        prefix = parse(self.plan.broker).options.get("prefix", "")
        driver = open_scheduler(parse(f"{url}?prefix={prefix}&retries={self.plan.retries}"))
        return Scheduler(self.app.schedules, driver, url=url, owner=self.plan.stack)

    def _report(self, changes: Sequence[Change], steps: Sequence[Step], *, json: bool) -> None:
        if json:
            emit({"changes": _as_json(changes, steps), "left": _OTHERS})
            return
        say("to call its tasks from here:")
        say(f"  export CLOUDQ_BROKER='{self.plan.broker}'")
        say(f"  export CLOUDQ_BACKEND='{self.plan.backend}'")
        if self.plan.payloads:
            say(f"  export CLOUDQ_PAYLOAD_STORE='{self.plan.payloads.url}'")
        note(
            f"not made by apply: {_OTHERS}, and alerts. Make all but the alerts with the script of "
            "`cloudq deploy export google -f gcloud`. Or make everything, with these topics and "
            "jobs, with Terraform: `cloudq deploy export google -f terraform`"
        )


def _tell(change: Change | Step) -> None:
    note(f"{change.action} {change.name}")


def _as_json(changes: Sequence[Change], steps: Sequence[Step]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"action": each.action, "kind": each.kind, "name": each.name, "parts": each.parts}
        for each in changes
    ]
    made += [
        {"action": each.action, "kind": "job", "name": each.name, "parts": each.parts}
        for each in steps
    ]
    return made


def _show(changes: Sequence[Change], steps: Sequence[Step]) -> None:
    if not changes and not steps:
        say("no changes")
    for change in changes:
        lost = " with its messages" if change.action == "delete" else ""
        say(f"{_SIGNS[change.action]} {change.kind:<14}{change.name}{lost}")
        _show_parts(change.parts)
    for step in steps:
        say(f"{_SIGNS[step.action]} {'job':<14}{step.name}")
        _show_parts(step.parts)


def _show_parts(parts: Mapping[str, tuple[str | None, str | None]]) -> None:
    for name, (before, after) in parts.items():
        say(f"    {name}: {before} -> {after}" if before else f"    {name}: {after}")
