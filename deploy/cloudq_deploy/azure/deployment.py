"""A deployment of an app to Azure, through Terraform."""

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
from cloudq_deploy.azure.options import AzureOptions
from cloudq_deploy.azure.package import LIMIT, layout_of
from cloudq_deploy.azure.plan import Plan
from cloudq_deploy.azure.planner import plan_of
from cloudq_deploy.azure.summary import summary
from cloudq_deploy.azure.terraform import configuration
from cloudq_deploy.bundle.archive import Limit, Package
from cloudq_deploy.bundle.build import build
from cloudq_deploy.costs import Assumed, Cost
from cloudq_deploy.options import read_options


def planned(app: CloudQ, entry: str, folder: Path, given: Mapping[str, object]) -> AzureDeployment:
    """Plan an app for Azure. Raises `ConfigurationError`."""
    if "functions" in given:
        raise ConfigurationError(
            "--functions is not for azure, where one function app has all functions: leave it out"
        )
    options = read_options(AzureOptions, "azure", folder, given)
    return AzureDeployment(plan=plan_of(app, entry, options), options=options, folder=folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureDeployment:
    """A `Deployment` to Azure."""

    plan: Plan
    options: AzureOptions
    folder: Path

    @property
    def stack(self) -> str:
        """The name of the stack: names of its resources begin with it."""
        return self.plan.stack

    @property
    def limit(self) -> Limit:
        """The largest zip that an instance has room for."""
        return LIMIT

    @property
    def formats(self) -> Mapping[str, Callable[[], str]]:
        """Terraform's JSON."""
        return {"terraform": self._terraform}

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
        """Estimate a million tasks of the function app, by its name."""
        return {self.plan.function_app.name: costs.million(self.plan, assumed)}

    def assumptions(self, assumed: Assumed) -> str:
        """Describe the assumptions of the estimates."""
        return costs.assumptions(assumed)

    def check(self) -> None:
        """Raise `ConfigurationError` for a schedule that no timer can run."""
        if self.plan.refused:
            raise ConfigurationError(
                f'{self.plan.refused[0].why}; with schedules = "beat" in '
                "[tool.cloudq.deploy.azure] a beat sends all schedules"
            )

    def build(self, output: Path | None, say: Callable[[str], None]) -> Package:
        """Build the zip of the function app. Raises `ConfigurationError`."""
        self.check()  # the zip has the timers
        path = output or self.folder / "build" / f"{self.plan.stack}-azure.zip"
        selection, layout = self.options.selection(), layout_of(self.plan)
        return build(self.folder, self.plan.entry, selection, path, layout, say)

    def write_dockerfile(self, output: Path | None, say: Callable[[str], None]) -> None:
        """Raise `ConfigurationError`: a function app runs a zip."""
        raise ConfigurationError("--image is for aws only: leave it out for azure")

    def apply(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Raise `ConfigurationError` with the commands that deploy to Azure."""
        self.check()
        raise ConfigurationError(
            "apply is not available for azure; nothing was changed. Use Terraform: cloudq deploy "
            "build azure && cloudq deploy export azure > main.tf.json && terraform init && "
            "terraform apply"
        )

    def destroy(self, *, data: bool, yes: bool) -> None:
        """Raise `ConfigurationError` with the command that deletes the stack."""
        raise ConfigurationError(
            "destroy is not available for azure; nothing was changed. Use Terraform: "
            "terraform destroy"
        )
