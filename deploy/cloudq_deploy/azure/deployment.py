"""An app on Azure, as the commands take it."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloudq.app import CloudQ
from cloudq.errors import ConfigurationError
from cloudq_deploy.azure import costs
from cloudq_deploy.azure.iam import grants
from cloudq_deploy.azure.options import AzureTarget
from cloudq_deploy.azure.package import LIMIT, cargo_of
from cloudq_deploy.azure.plan import Plan
from cloudq_deploy.azure.planner import plan_of
from cloudq_deploy.azure.terraform import configuration
from cloudq_deploy.bundle.archive import Limit, Package
from cloudq_deploy.bundle.build import build
from cloudq_deploy.costs import Assumed, Cost
from cloudq_deploy.options import read


def planned(app: CloudQ, entry: str, folder: Path, given: Mapping[str, object]) -> AzureDeployment:
    """Plan an app for Azure. Raises `ConfigurationError`."""
    if "functions" in given:
        raise ConfigurationError("--functions is not of azure: leave it out")
    target = read(AzureTarget, "azure", folder, given)
    return AzureDeployment(plan=plan_of(app, entry, target), target=target, folder=folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureDeployment:
    """A `Deployment` to Azure."""

    plan: Plan
    target: AzureTarget
    folder: Path

    @property
    def stack(self) -> str:
        """What its names begin with."""
        return self.plan.stack

    @property
    def limit(self) -> Limit:
        """How large its zip may be."""
        return LIMIT

    @property
    def formats(self) -> Mapping[str, Callable[[], str]]:
        """Terraform's JSON."""
        return {"terraform": lambda: jsons.dumps(configuration(self.plan), indent=2)}

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values, with all grants."""
        return self.plan.as_json() | {"grants": [asdict(grant) for grant in grants(self.plan)]}

    def idle(self) -> Sequence[Cost]:
        """A month in which nothing is called."""
        return costs.idle(self.plan)

    def running(self, assumed: Assumed) -> Mapping[str, Sequence[Cost]]:
        """A million tasks of the function app."""
        return {self.plan.function_app.name: costs.million(self.plan, assumed)}

    def assumptions(self, assumed: Assumed) -> str:
        """What the costs take for granted."""
        return costs.told(assumed)

    def check(self) -> None:
        """Raise `ConfigurationError` for a schedule that no timer can run."""
        if self.plan.refused:
            raise ConfigurationError(
                f'{self.plan.refused[0].why}; with schedules = "beat" in '
                "[tool.cloudq.deploy.azure] a beat runs all of them"
            )

    def build(self, output: Path | None, say: Callable[[str], None]) -> Package:
        """Make the zip of the function app. Raises `ConfigurationError`."""
        self.check()  # the timers are in it
        path = output or self.folder / "build" / f"{self.plan.stack}-azure.zip"
        cargo = cargo_of(self.plan)
        return build(self.folder, self.plan.entry, self.target, path, say, cargo)

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Each resource: what it is, its name, its settings."""
        plan, function_app = self.plan, self.plan.function_app
        yield "resource group", plan.resource_group, plan.location
        tier = "Premium" if plan.premium else "Standard"
        yield "namespace", plan.namespace, f"Service Bus {tier}, no keys"
        for queue in plan.queues:
            ordered = ", sessions, duplicates kept out for 10 min" if queue.fifo else ""
            yield (
                "queue",
                queue.full_name,
                f"lock {queue.lock} s, dead letters after {queue.max_delivery_count} deliveries"
                f"{ordered}",
            )
        yield (
            "function app",
            function_app.name,
            f"Flex Consumption, python {function_app.python}, {function_app.memory} MB, "
            f"{function_app.timeout} s, {function_app.concurrency} at a time in each of up to "
            f"{function_app.max_instances} instances, depth {function_app.max_depth}, env "
            f"{', '.join(sorted(function_app.env))}",
        )
        for queue in plan.queues:
            ready = f", {queue.always_ready} always ready" if queue.always_ready else ""
            runs = ", ".join(queue.tasks) or "what is sent there"
            yield "trigger", queue.function, f"{queue.full_name}{ready}; runs {runs}"
        for timer in plan.timers:
            at = f"{timer.expression} UTC -> {timer.queue or 'the queue of its task'}"
            yield "timer", f"cloudq_{timer.name}", at
        for refused in plan.refused:
            yield "timer", refused.name, f"NOT POSSIBLE: {refused.why}"
        yield "storage", plan.account, f"{plan.replication}: the host's, and the zip"
        if plan.table is not None:
            yield "table", plan.table, "results; `cloudq sweep` once a day deletes expired ones"
        yield "identity", plan.identity, "the function app's"
        for grant in grants(plan):
            yield "grant", grant.role, f"{plan.identity} on {grant.kind} {grant.on}: {grant.why}"
        kept = max(plan.log_retention, 30)
        yield "logs", f"{plan.stack}-logs", f"kept {kept} d, with Application Insights"
        for alert in plan.alerts:
            yield "alarm", alert.name, f"{alert.metric} of {alert.of} above {alert.threshold:g}"

    def apply(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Nothing is made: raise `ConfigurationError` that says what to do instead."""
        self.check()
        raise ConfigurationError(
            "apply has no azure: cloudq deploy build azure && cloudq deploy export azure > "
            "main.tf.json && terraform init && terraform apply; nothing was changed"
        )

    def destroy(self, *, data: bool, yes: bool) -> None:
        """Nothing is deleted: raise `ConfigurationError` that says what to do instead."""
        raise ConfigurationError(
            "destroy has no azure: terraform destroy deletes what it made; nothing was changed"
        )
