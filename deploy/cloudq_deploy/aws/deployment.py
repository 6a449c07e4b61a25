"""A deployment of an app to AWS, through CloudFormation."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cloudq.app import CloudQ
from cloudq.cli.output import confirm, note, say
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws import costs, terraform
from cloudq_deploy.aws.image import write_dockerfile
from cloudq_deploy.aws.options import AwsOptions, own_architecture, read_aws_options
from cloudq_deploy.aws.package import LAYOUT, LIMIT
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.planner import plan_of
from cloudq_deploy.aws.remembered import again, metadata
from cloudq_deploy.aws.render import cloudformation, sam
from cloudq_deploy.aws.stack.access import Aws, DeployError
from cloudq_deploy.aws.stack.apply import Code, apply, check_first, roll_back
from cloudq_deploy.aws.stack.bucket import Bucket
from cloudq_deploy.aws.stack.destroy import destroy, destroy_left
from cloudq_deploy.aws.stack.leftovers import left_over
from cloudq_deploy.aws.stack.state import StackState, check_ours, look, template_of
from cloudq_deploy.aws.summary import summary
from cloudq_deploy.aws.terminal import CommandLine
from cloudq_deploy.bundle.archive import Limit, Package
from cloudq_deploy.bundle.build import Layout, build
from cloudq_deploy.bundle.report import report
from cloudq_deploy.costs import Assumed, Cost
from cloudq_deploy.pyproject import own_runtime, read_table

FORMATS: Mapping[str, Callable[[Plan], dict[str, Any]]] = {
    "cloudformation": cloudformation.template,
    "sam": sam.template,
    "terraform": terraform.configuration,
}
"""Renderers of a plan in the formats of other tools; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The options of the command line about AWS itself: address, credentials, bucket."""

    profile: str | None = None
    endpoint_url: str | None = None
    bucket: str | None = None
    ignore_drift: bool = False

    def aws(self, region: str | None) -> Aws:
        """The services of a region."""
        return Aws(region=region, profile=self.profile, endpoint_url=self.endpoint_url)

    def sdk_region(self) -> str | None:
        """The region that the SDK is configured for."""
        return self.aws(None).region


def planned(app: CloudQ, entry: str, folder: Path, given: Mapping[str, Any]) -> AwsDeployment:
    """Plan an app for AWS. Raises `ConfigurationError`."""
    access = Access(**{name: given[name] for name in Access.__slots__ if name in given})
    rest = {name: value for name, value in given.items() if name not in Access.__slots__}
    options = read_aws_options(folder, rest)
    plan = plan_of(app, entry, options, sdk_region=access.sdk_region)
    return AwsDeployment(
        plan=plan, options=options, folder=folder, access=access, app=app, given=given
    )


@dataclass(frozen=True, kw_only=True)
class AwsDeployment:
    """A `Deployment` to AWS."""

    plan: Plan
    options: AwsOptions
    folder: Path
    access: Access
    app: CloudQ
    given: Mapping[str, Any]

    @property
    def stack(self) -> str:
        """The name of the stack."""
        return self.plan.stack

    @property
    def limit(self) -> Limit:
        """The largest zip that Lambda accepts."""
        return LIMIT

    @property
    def formats(self) -> Mapping[str, Callable[[], str]]:
        """CloudFormation, SAM and Terraform."""
        return {name: partial(self._rendered, render) for name, render in FORMATS.items()}

    def _rendered(self, render: Callable[[Plan], dict[str, Any]]) -> str:
        return jsons.dumps(render(self.plan), indent=2)

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return self.plan.as_json()

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
        """Do nothing: the planner refuses what AWS cannot make."""

    def build(self, output: Path | None, say: Callable[[str], None]) -> Package:
        """Build the zip that all functions run."""
        path = output or self.folder / "build" / f"{self.plan.stack}.zip"
        selection = self.options.selection()
        return build(self.folder, self.plan.entry, selection, path, self._layout, say)

    @property
    def _layout(self) -> Layout:
        return replace(LAYOUT, more=self.plan.extras)

    def write_dockerfile(self, output: Path | None, say: Callable[[str], None]) -> None:
        """Write a Dockerfile for functions that run an image."""
        path = output or self.folder / "Dockerfile"
        write_dockerfile(self.folder, self.plan.entry, self.options.selection(), path, self._layout)
        platform = f"linux/{self.options.docker_platform}"
        say(f"wrote {path}; build the image with: docker build --platform {platform} -f {path} .")

    # ---- on AWS

    @cached_property
    def aws(self) -> Aws:
        """The services of the plan's region."""
        return self.access.aws(self.plan.region)

    @cached_property
    def bucket(self) -> Bucket:
        """The bucket of the stack's code. Raises `ConfigurationError` without credentials."""
        if not self.aws.account.isdigit():
            raise ConfigurationError(
                f"{self.access.endpoint_url} answers that the account is {self.aws.account!r}, "
                "which is no AWS account: check --endpoint-url"
            )
        return Bucket(self.aws, self.plan.stack, self.access.bucket)

    def state(self) -> StackState | None:
        """Read the state of the stack; None where there is none.

        Raises `DeployError` for a stack of another app.
        """
        found = look(self.aws, self.plan.stack)
        if found is not None:
            check_ours(found, self.plan.app)
        return found

    def apply(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Have CloudFormation make the stack: show the changes, ask, follow them to the end.

        Raises `ConfigurationError`, `DeployError`.
        """
        _ = self.bucket  # the credentials are right
        state = self.state()
        if state is not None and not state.review:
            self._as_before().make(adopt=adopt, yes=yes, json=json)
            return
        if not adopt:
            check_first(self.aws, self.plan)
        self.make(adopt=adopt, yes=yes, json=json)

    def _as_before(self) -> AwsDeployment:
        """Return the deployment with the options that the last apply was given, if they stand."""
        stated = read_table(self.folder)
        found = again(template_of(self.aws, self.stack), self.given, stated)
        if not found:
            return self
        options = " ".join(f"--{name} {value}" for name, value in found.items())
        note(f"as the last apply: {options} (give another, or change [tool.cloudq.deploy])")
        return planned(self.app, self.plan.entry, self.folder, {**self.given, **found})

    def make(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Build the code, and make the stack equal to the plan. Raises as `apply`."""
        self._note_stand_in()
        bucket, terminal = self.bucket, CommandLine(yes=yes, json=json)
        outputs = apply(
            self.aws,
            self.plan,
            self._code(json=json),
            terminal,
            bucket=bucket,
            adopt=adopt,
            ignore_drift=self.access.ignore_drift,
            metadata=metadata(self.given, read_table(self.folder), self.options),
        )
        terminal.outputs(outputs)
        if outputs and not json:
            self._say_how_to_call(outputs.get("Scheduler"))

    def _note_stand_in(self) -> None:
        """Warn of a stand-in on this machine, which runs functions as this machine can."""
        host = urlsplit(self.access.endpoint_url or "").hostname
        here = (own_runtime(), own_architecture())
        runtime, architecture = self.options.runtime, self.options.architecture
        if host in ("localhost", "127.0.0.1", "::1") and (runtime, architecture) != here:
            note(
                f"{self.access.endpoint_url} is a stand-in: it runs functions with its own Python "
                f"on this machine ({' '.join(here)}), and packages with compiled parts for "
                f"{runtime} {architecture} may not load there: --runtime {here[0]} "
                f"--architecture {here[1]}"
            )

    def _code(self, *, json: bool) -> Code:
        if self.options.package == "zip":
            package = self.build(None, note)
            if not json:
                report(package, self.limit)
            return Code(digest=package.digest, path=package.path)
        if not self.options.image:
            raise ConfigurationError(
                'package = "image" needs the address of the image: set image = '
                '"ACCOUNT.dkr.ecr...@sha256:..." in [tool.cloudq.deploy]'
            )
        return Code(digest=self.options.image.rpartition(":")[2], image=self.options.image)

    def _say_how_to_call(self, scheduler: str | None) -> None:
        say("to call its tasks from here:")
        if self.access.endpoint_url:
            say(f"  export AWS_ENDPOINT_URL='{self.access.endpoint_url}'")
        say(f"  export CLOUDQ_BROKER='{self.plan.broker}'")
        say(f"  export CLOUDQ_BACKEND='{self.plan.backend}'")
        if self.plan.payload_store:
            say(f"  export CLOUDQ_PAYLOAD_STORE='{self.plan.payload_store}'")
        if scheduler:
            say(f"  export CLOUDQ_SCHEDULER='{scheduler}'")

    def roll_back(self, *, yes: bool, json: bool) -> None:
        """Go back to the template and the code before the last apply. Raises `DeployError`."""
        bucket, terminal, plan = self.bucket, CommandLine(yes=yes, json=json), self.plan
        outputs = roll_back(self.aws, plan.app, plan.stack, plan.tags, terminal, bucket=bucket)
        terminal.outputs(outputs)

    def destroy(self, *, data: bool, yes: bool) -> None:
        """Delete the stack and its code; with `data` also queues, table and long-delayed calls.

        Raises `DeployError`.
        """
        bucket, name = self.bucket, self.plan.stack
        if self.state() is None:
            self._destroy_left(data=data, yes=yes)
            return
        kept = "Its queues and table are kept."
        fate = "All its messages and results are deleted too." if data else kept
        confirm(f"Delete stack {name}? {fate}", name, yes=yes)
        group = self.plan.scheduling.one_time_group if self.plan.scheduling else None
        left = destroy(
            self.aws, name, CommandLine(yes=True), bucket=bucket, data=data, one_time_group=group
        )
        for each in left:
            say(f"kept {each.physical}")
        say(f"deleted stack {name}")
        if left:
            note("to delete these too: cloudq deploy destroy --data")

    def _destroy_left(self, *, data: bool, yes: bool) -> None:
        """Delete the queues and the table that the stack has left, after its own end."""
        name = self.plan.stack
        left = left_over(self.aws, self.plan) if data else []
        if not left:
            raise DeployError(f"there is no stack {name}: nothing was deleted")
        for each in left:
            say(f"left by stack {name}: {each.physical}")
        confirm("Delete these, with all their messages and results?", name, yes=yes)
        destroy_left(self.aws, left, CommandLine(yes=True))
