"""The options that the deploy commands share, and the plan that they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from cloudq.app import CloudQ
from cloudq.cli.common import Target as AppTarget
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.planning import plan_of
from cloudq_deploy.aws.stack.access import Aws
from cloudq_deploy.aws.stack.bucket import Bucket
from cloudq_deploy.aws.target import Target, read_target
from cloudq_deploy.clouds import CloudName

Cloud = Annotated[Literal["aws"], typer.Argument(metavar="[aws]", help="The cloud.")]
AnyCloud = Annotated[CloudName, typer.Argument(metavar="[aws|google|azure]", help="The cloud.")]
GoogleProject = Annotated[
    str | None, typer.Option("--project", help="Of google; else GOOGLE_CLOUD_PROJECT.")
]
Stack = Annotated[str | None, typer.Option(help="Name of the stack; else the app's.")]
Region = Annotated[str | None, typer.Option(help="Else the broker's, else that of the SDK.")]
Profile = Annotated[str | None, typer.Option(help="A profile of AWS's shared files.")]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url", envvar="AWS_ENDPOINT_URL", help="In place of AWS, such as a local one."
    ),
]
BucketName = Annotated[
    str | None, typer.Option("--bucket", help="For code; else cloudq-deploy-ACCOUNT-REGION.")
]
Runtime = Annotated[str | None, typer.Option(help="As python3.13; else that of the Python here.")]
Architecture = Annotated[str | None, typer.Option(help="arm64 or x86_64.")]
Functions = Annotated[str | None, typer.Option(help="One a queue, or one for all: queue, one.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The app of the current directory, and what is to become of it."""

    app: CloudQ
    entry: str
    target: Target
    plan: Plan
    folder: Path


def project(
    given: AppTarget,
    *,
    aws: Aws | None = None,
    stack: str | None = None,
    region: str | None = None,
    **options: object,
) -> Project:
    """Load the app and plan it. Raises `ConfigurationError` for what cannot be."""
    app = given.load()
    folder = Path.cwd()
    target = read_target(folder, {"stack": stack, "region": region, **options})
    if aws is not None and target.region is None and aws.region:
        target = target.model_copy(update={"region": aws.region})
    entry = entry_of(given.path or "", app)
    return Project(
        app=app, entry=entry, target=target, plan=plan_of(app, entry, target), folder=folder
    )


def entry_of(path: str, app: CloudQ) -> str:
    """`module:attribute` of the app, where a path may leave the attribute out."""
    module, _, attribute = path.partition(":")
    if attribute:
        return path
    found = [name for name, value in vars(import_module(module)).items() if value is app]
    return f"{module}:{found[0]}"


def reach(
    plan: Plan, *, profile: str | None, endpoint_url: str | None, bucket: str | None
) -> tuple[Aws, Bucket]:
    """AWS where the plan is to be made, with credentials. Raises `ConfigurationError`."""
    aws = Aws(region=plan.region, profile=profile, endpoint_url=endpoint_url)
    if not aws.account.isdigit():
        raise ConfigurationError(f"{endpoint_url} says that the account is {aws.account!r}")
    return aws, Bucket(aws, plan.stack, bucket)


def without_project(google_project: str | None) -> None:
    """Raise `ConfigurationError` where AWS is given a project of Google's."""
    if google_project is not None:
        raise ConfigurationError("--project is of google alone: leave it out for aws")
