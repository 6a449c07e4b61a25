"""The options that the deploy commands share, and the deployment that they lead to."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cloudq.app import CloudQ
from cloudq.cli.options import Target
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.deployment import AwsDeployment, planned
from cloudq_deploy.clouds import CloudName, Deployment, planner

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


# Options of one cloud alone, and what they are called on the command line.
_OF_ONE = {
    **dict.fromkeys(("architecture", "bucket", "ignore_drift", "image", "profile"), "aws"),
    "project": "google",
}


def deployment(
    cloud: CloudName, target: Target, *, endpoint_url: str | None = None, **options: object
) -> Deployment:
    """Load the app and plan it for a cloud. Raises `ConfigurationError` for what cannot be."""
    given = _given(cloud, options)
    if cloud == "aws":
        # Of the environment, too, where it is none of the other clouds'.
        given["endpoint_url"] = endpoint_url
    app, entry = _loaded(target)
    return planner(cloud)(app, entry, Path.cwd(), given)


def on_aws(target: Target, **options: object) -> AwsDeployment:
    """The same for what AWS alone has."""
    app, entry = _loaded(target)
    return planned(app, entry, Path.cwd(), _given("aws", options))


def _given(cloud: CloudName, options: dict[str, object]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value not in (None, False)}
    for name in given:
        only = _OF_ONE.get(name, cloud)
        if only != cloud:
            option = "--" + name.replace("_", "-")
            raise ConfigurationError(f"{option} is of {only} alone: leave it out for {cloud}")
    # What `build` is to write, and no image that functions run.
    given.pop("image", None)
    return given


def _loaded(target: Target) -> tuple[CloudQ, str]:
    app = target.load()
    return app, entry_of(target.path or "", app)


def entry_of(path: str, app: CloudQ) -> str:
    """`module:attribute` of the app, where a path may leave the attribute out."""
    module, _, attribute = path.partition(":")
    if attribute:
        return path
    found = [name for name, value in vars(import_module(module)).items() if value is app]
    return f"{module}:{found[0]}"
