"""An app on AWS, as the commands take it."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from cloudq.app import CloudQ
from cloudq.cli.output import confirm, note, say
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws import costs
from cloudq_deploy.aws.options import Target, read_target
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.aws.render import FORMATS
from cloudq_deploy.aws.stack.access import Aws, DeployError
from cloudq_deploy.aws.stack.apply import Code, apply, roll_back
from cloudq_deploy.aws.stack.bucket import Bucket
from cloudq_deploy.aws.stack.destroy import destroy
from cloudq_deploy.aws.stack.state import Standing, check_ours, look
from cloudq_deploy.aws.summary import rows
from cloudq_deploy.aws.terminal import Terminal
from cloudq_deploy.bundle import archive
from cloudq_deploy.bundle.archive import Limit, Package
from cloudq_deploy.bundle.build import build
from cloudq_deploy.bundle.report import tell_package
from cloudq_deploy.costs import Assumed, Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where AWS is, and with whose rights: what the command line says of it."""

    profile: str | None = None
    endpoint_url: str | None = None
    bucket: str | None = None
    ignore_drift: bool = False

    def aws(self, region: str | None) -> Aws:
        """The services of a region."""
        return Aws(region=region, profile=self.profile, endpoint_url=self.endpoint_url)


def planned(app: CloudQ, entry: str, folder: Path, given: Mapping[str, Any]) -> AwsDeployment:
    """Plan an app for AWS. Raises `ConfigurationError`."""
    reach = Reach(**{name: given[name] for name in Reach.__slots__ if name in given})
    options = {name: value for name, value in given.items() if name not in Reach.__slots__}
    target = read_target(folder, options)
    plan = plan_of(app, entry, target, sdk_region=lambda: reach.aws(None).region)
    return AwsDeployment(plan=plan, target=target, folder=folder, reach=reach)


@dataclass(frozen=True, kw_only=True)
class AwsDeployment:
    """A `Deployment` to AWS, by CloudFormation."""

    plan: Plan
    target: Target
    folder: Path
    reach: Reach

    @property
    def stack(self) -> str:
        """The stack's name."""
        return self.plan.stack

    @property
    def limit(self) -> Limit:
        """How large its zip may be."""
        return archive.LAMBDA

    @property
    def formats(self) -> Mapping[str, Callable[[], str]]:
        """CloudFormation, SAM and Terraform."""
        return {name: partial(self._drawn, draw) for name, draw in FORMATS.items()}

    def _drawn(self, draw: Callable[[Plan], dict[str, Any]]) -> str:
        return jsons.dumps(draw(self.plan), indent=2)

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return self.plan.as_json()

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Each resource: what it is, its name, its settings."""
        return rows(self.plan)

    def idle(self) -> Sequence[Cost]:
        """A month in which nothing is called."""
        return costs.idle(self.plan)

    def running(self, assumed: Assumed) -> Mapping[str, Sequence[Cost]]:
        """A million tasks, by function."""
        return {each.name: costs.million(self.plan, each, assumed) for each in self.plan.functions}

    def assumptions(self, assumed: Assumed) -> str:
        """What the costs take for granted."""
        return str(assumed)

    def check(self) -> None:
        """What cannot be was refused while planning."""

    def build(self, output: Path | None, say: Callable[[str], None]) -> Package:
        """Make the zip that all functions run."""
        path = output or self.folder / "build" / f"{self.plan.stack}.zip"
        return build(self.folder, self.plan.entry, self.target, path, say)

    # ---- what stands on AWS

    @cached_property
    def aws(self) -> Aws:
        """The services where the plan is to be made."""
        return self.reach.aws(self.plan.region)

    @cached_property
    def bucket(self) -> Bucket:
        """Where the stack's code lies. Raises `ConfigurationError` without credentials."""
        if not self.aws.account.isdigit():
            raise ConfigurationError(
                f"{self.reach.endpoint_url} says that the account is {self.aws.account!r}"
            )
        return Bucket(self.aws, self.plan.stack, self.reach.bucket)

    def standing(self) -> Standing | None:
        """How the stack stands, if it does. Raises `DeployError` for one of another app."""
        found = look(self.aws, self.plan.stack)
        if found is not None:
            check_ours(found, self.plan.app)
        return found

    def apply(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Have CloudFormation make the stack: shows the changes, asks, follows them to the end.

        Raises `ConfigurationError`, `DeployError`.
        """
        bucket = self.bucket
        self.standing()
        screen = Terminal(yes=yes, json=json)
        outputs = apply(
            self.aws,
            self.plan,
            self._code(json=json),
            screen,
            bucket=bucket,
            adopt=adopt,
            ignore_drift=self.reach.ignore_drift,
        )
        screen.outputs(outputs)
        if outputs and not json:
            _tell_how_to_call(self.plan, self.reach.endpoint_url, outputs.get("Scheduler"))

    def _code(self, *, json: bool) -> Code:
        if self.target.package == "zip":
            package = self.build(None, note)
            if not json:
                tell_package(package, self.limit)
            return Code(digest=package.digest, path=package.path)
        if not self.target.image:
            raise ConfigurationError(
                "package is image: say which, image = ACCOUNT.dkr.ecr...@sha256:..."
            )
        return Code(digest=self.target.image.rpartition(":")[2], image=self.target.image)

    def roll_back(self, *, yes: bool, json: bool) -> None:
        """Go back to what was applied before. Raises `DeployError`."""
        bucket, screen, plan = self.bucket, Terminal(yes=yes, json=json), self.plan
        screen.outputs(roll_back(self.aws, plan.app, plan.stack, plan.tags, screen, bucket=bucket))

    def destroy(self, *, data: bool, yes: bool) -> None:
        """Delete the stack and its code; with `data` queues, table and far calls, too.

        Raises `DeployError`.
        """
        bucket, name = self.bucket, self.plan.stack
        if self.standing() is None:
            raise DeployError(f"there is no stack {name}: nothing was deleted")
        doomed = "with all messages and results" if data else "but its queues and its table"
        confirm(f"Delete the stack {name}, {doomed}?", name, yes=yes)
        far = self.plan.scheduling.far if self.plan.scheduling else None
        left = destroy(self.aws, name, Terminal(yes=True), bucket=bucket, data=data, far=far)
        for each in left:
            say(f"kept {each.physical}")
        say(f"deleted the stack {name}")
        if left:
            note("to delete these too, apply with --adopt and destroy with --data")


def _tell_how_to_call(plan: Plan, endpoint_url: str | None, scheduler: str | None) -> None:
    say("to call its tasks from here:")
    if endpoint_url:
        say(f"  export AWS_ENDPOINT_URL='{endpoint_url}'")
    say(f"  export CLOUDQ_BROKER='{plan.broker}'")
    say(f"  export CLOUDQ_BACKEND='{plan.backend}'")
    if scheduler:
        say(f"  export CLOUDQ_SCHEDULER='{scheduler}'")
