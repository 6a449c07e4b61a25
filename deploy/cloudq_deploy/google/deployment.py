"""An app on Google Cloud, as the commands take it."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from cloudq_deploy.google.cargo import CARGO
from cloudq_deploy.google.gcloud import script
from cloudq_deploy.google.grants import grants
from cloudq_deploy.google.plan import Plan
from cloudq_deploy.google.planning import plan_of
from cloudq_deploy.google.target import GoogleTarget
from cloudq_deploy.google.terraform import configuration
from cloudq_deploy.shared import read
from cloudq_deploy.wanted import declared_schedules
from cloudq_gcp.client import access
from cloudq_gcp.cloud_scheduler import open_scheduler
from cloudq_gcp.pubsub_requests import Requests

# What `apply` does not make.
_OTHERS = "accounts, rights, the database, the bucket, the functions and what pushes to them"
_SIGNS = {"create": "+", "update": "~", "delete": "-"}


def planned(app: CloudQ, entry: str, folder: Path, given: Mapping[str, object]) -> GoogleDeployment:
    """Plan an app for Google Cloud. Raises `ConfigurationError`."""
    target = read(GoogleTarget, "google", folder, given)
    plan = plan_of(app, entry, target)
    return GoogleDeployment(app=app, plan=plan, target=target, folder=folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleDeployment:
    """A `Deployment` to Google Cloud."""

    app: CloudQ
    plan: Plan
    target: GoogleTarget
    folder: Path

    @property
    def stack(self) -> str:
        """What its names begin with."""
        return self.plan.stack

    @property
    def limit(self) -> Limit:
        """How large its zip may be."""
        return CARGO.limit

    @property
    def formats(self) -> Mapping[str, Callable[[], str]]:
        """Terraform's JSON, and a shell script of what `apply` leaves out."""
        return {
            "terraform": lambda: jsons.dumps(configuration(self.plan), indent=2),
            "gcloud": lambda: script(self.plan),
        }

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values, with all grants."""
        return self.plan.as_json() | {"grants": [asdict(grant) for grant in grants(self.plan)]}

    def idle(self) -> Sequence[Cost]:
        """A month in which nothing is called."""
        return costs.idle(self.plan)

    def running(self, assumed: Assumed) -> Mapping[str, Sequence[Cost]]:
        """A million tasks, by function."""
        return {each.name: costs.million(self.plan, each, assumed) for each in self.plan.functions}

    def assumptions(self, assumed: Assumed) -> str:
        """What the costs take for granted."""
        return costs.told(assumed)

    def check(self) -> None:
        """Raise `ConfigurationError` for a schedule that Cloud Scheduler cannot run."""
        if self.plan.refused:
            raise ConfigurationError(
                f'{self.plan.refused[0].why}; with schedules = "beat" in '
                "[tool.cloudq.deploy.google] a beat runs all of them"
            )

    def build(self, output: Path | None, say: Callable[[str], None]) -> Package:
        """Make the zip that all functions run."""
        path = output or self.folder / "build" / f"{self.plan.stack}-google.zip"
        return build(self.folder, self.plan.entry, self.target, path, say, CARGO)

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Each resource: what it is, its name, its settings."""
        plan = self.plan
        for queue in plan.queues:
            order = ", ordered" if queue.fifo else ""
            only = f", filter {queue.filter}" if queue.filter else ""
            yield "topic", queue.topic, f"of the queue {queue.name}"
            yield (
                "subscription",
                queue.subscription,
                f"pushes to {queue.function}, ack deadline {queue.ack_deadline} s, again after "
                f"{queue.backoff[0]}-{queue.backoff[1]} s, kept {queue.retention // 86_400} d, "
                f"dead letters after {queue.max_attempts} deliveries{order}{only}",
            )
            yield "dead letters", queue.dead_topic, "topic and subscription, kept 31 d"
        for each in plan.functions:
            yield (
                "function",
                each.name,
                f"{each.runtime}, {each.memory} MB, {each.timeout} s, {each.concurrency} at a "
                f"time in each of {each.min_instances} to {each.max_instances} instances, "
                f"{each.ingress}, depth {each.max_depth}, env {', '.join(sorted(each.env))}; runs "
                f"{', '.join(each.tasks) or 'what is sent there'}",
            )
        yield "bucket", plan.bucket, "the functions' zip"
        if plan.store:
            where = f"collection {plan.store.collection}, TTL on {plan.store.ttl}, no indexes"
            yield "database", plan.store.database, where
        for account, of in ((plan.runtime_account, "functions"), (plan.push_account, "pushes")):
            yield "account", plan.email(account), f"of {of}"
        for grant in grants(plan):
            on = f"{grant.kind} {grant.on}"
            on += f", its database {grant.database} alone" if grant.database else ""
            yield "grant", grant.role, f"{grant.who} on {on}: {grant.why}"
        if plan.delays:
            made = (
                "NOT MADE HERE: `cloudq queues create` makes it; its rights are in docs/google.md"
            )
            yield "delays", plan.delays, made
        for job in plan.jobs:
            paused = "" if job.enabled else ", paused"
            yield "schedule", job.name, f"{job.expression} {job.timezone} -> {job.queue}{paused}"
        for refused in plan.refused:
            yield "schedule", refused.name, f"NOT POSSIBLE: {refused.why}"
        yield "logs", "cloud_run_revision", f"kept {plan.log_retention} d"
        for alert in plan.alerts:
            yield "alarm", alert.name, f"{alert.metric} of {alert.of} above {alert.threshold:g}"

    def apply(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Make topics, subscriptions and jobs; say what else there is to be made, and how.

        Raises `ConfigurationError`, `ServiceError`.
        """
        self.check()
        plan = self.plan
        reach = access(parse(f"pubsub://{plan.project}"))
        requests = Requests(reach)
        scheduler = self._scheduler() if plan.jobs or self.target.schedules == "cloud" else None
        try:
            standing = look(plan, requests)
            emulated = reach.emulator is not None
            changes = propose(plan, standing, adopt=adopt, emulator=emulated)
            declared = declared_schedules(self.app)
            jobs = scheduler.plan(declared) if scheduler else None
            steps = jobs.steps if jobs else ()
            if not json:
                _show(changes, steps)
            if changes or steps:
                confirm(f"Apply these changes of {plan.stack}?", plan.stack, yes=yes)
            carry_out(changes, requests, lambda change: note(f"{change.action} {change.name}"))
            if scheduler and jobs:
                scheduler.apply(jobs, lambda step: note(f"{step.action} {step.name}"))
        finally:
            requests.close()
            if scheduler:
                scheduler.close()
        self._tell(changes, steps, json=json)

    def destroy(self, *, data: bool, yes: bool) -> None:
        """Delete the jobs; with `data` the topics and subscriptions, too, with what is in them.

        Raises `ConfigurationError`, `ServiceError`.
        """
        plan = self.plan
        requests, scheduler = Requests(access(parse(f"pubsub://{plan.project}"))), self._scheduler()
        try:
            changes = removal(plan, look(plan, requests)) if data else []
            jobs = scheduler.plan([])
            _show(changes, jobs.steps)
            if changes or jobs.steps:
                confirm(f"Delete these of {plan.stack}?", plan.stack, yes=yes)
            # First what sends, else it would send to nobody.
            scheduler.apply(jobs, lambda step: note(f"{step.action} {step.name}"))
            carry_out(changes, requests, lambda change: note(f"{change.action} {change.name}"))
        finally:
            requests.close()
            scheduler.close()
        kept = "" if data else "topics and subscriptions (--data deletes them), "
        note(f"left as they are: {kept}{_OTHERS}")

    def _scheduler(self) -> Scheduler:
        url = f"cloudscheduler://{self.plan.project}/{self.plan.location}"
        prefix = parse(self.plan.broker).options.get("prefix", "")
        driver = open_scheduler(parse(f"{url}?prefix={prefix}&retries={self.plan.retries}"))
        return Scheduler(self.app.schedules, driver, url=url, owner=self.plan.stack)

    def _tell(self, changes: Sequence[Change], steps: Sequence[Step], *, json: bool) -> None:
        left = _OTHERS
        if json:
            made = [
                {"action": each.action, "kind": each.kind, "name": each.name, "parts": each.parts}
                for each in changes
            ]
            made += [
                {"action": each.action, "kind": "job", "name": each.name, "parts": each.parts}
                for each in steps
            ]
            emit({"changes": made, "left": left})
            return
        say("to call its tasks from here:")
        say(f"  export CLOUDQ_BROKER='{self.plan.broker}'")
        say(f"  export CLOUDQ_BACKEND='{self.plan.backend}'")
        note(
            f"not made by this: {left}; alerts, too. Terraform makes all of it, these topics and "
            "jobs too: cloudq deploy export google -f terraform. Or, for what is left, a script: "
            "cloudq deploy export google -f gcloud"
        )


def _show(changes: Sequence[Change], steps: Sequence[Step]) -> None:
    if not changes and not steps:
        say("no changes")
    for change in changes:
        lost = " with what is in it" if change.action == "delete" else ""
        say(f"{_SIGNS[change.action]} {change.kind:<14}{change.name}{lost}")
        for name, (before, after) in change.parts.items():
            say(f"    {name}: {before} -> {after}" if before else f"    {name}: {after}")
    for step in steps:
        say(f"{_SIGNS[step.action]} {'job':<14}{step.name}")
        for name, (before, after) in step.parts.items():
            say(f"    {name}: {before} -> {after}" if before else f"    {name}: {after}")
