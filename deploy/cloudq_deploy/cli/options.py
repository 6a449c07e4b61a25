"""The options that the deploy commands share, and the planning that they start."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from cloudq.app import CloudQ
from cloudq.cli.options import Target
from cloudq.cli.output import note
from cloudq.errors import ConfigurationError
from cloudq.text import masked_url
from cloudq_deploy.deployment import CloudName, Deployment, planner

Cloud = Annotated[CloudName, typer.Argument(metavar="[aws|google|azure]", help="The cloud.")]
GoogleProject = Annotated[
    str | None,
    typer.Option("--project", help="Google's project. Default: GOOGLE_CLOUD_PROJECT."),
]
Stack = Annotated[str | None, typer.Option(help="Name of the stack. Default: the app's name.")]
Region = Annotated[
    str | None, typer.Option(help="Region. Default: the broker's, else the SDK's own.")
]
Profile = Annotated[str | None, typer.Option(help="Profile in the AWS configuration files.")]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        envvar="AWS_ENDPOINT_URL",
        help="Address to use in place of AWS, such as a local server's.",
    ),
]
BucketName = Annotated[
    str | None,
    typer.Option("--bucket", help="Bucket for the code. Default: cloudq-deploy-ACCOUNT-REGION."),
]
Runtime = Annotated[
    str | None, typer.Option(help="Such as python3.13. Default: the Python running here.")
]
Architecture = Annotated[str | None, typer.Option(help="arm64 or x86_64.")]
Functions = Annotated[
    str | None, typer.Option(help="queue: one function per queue; one: one function for all.")
]

# Options that only one cloud has, by their names in Python.
_ONE_CLOUD = {
    **dict.fromkeys(("architecture", "bucket", "ignore_drift", "image", "profile"), "aws"),
    "project": "google",
}


def planned(
    cloud: CloudName, target: Target, *, endpoint_url: str | None = None, **options: object
) -> Deployment:
    """Load the app and plan it for a cloud. Raises `ConfigurationError`."""
    given = given_options(cloud, options)
    if cloud == "aws":
        # The other clouds ignore it: it may come from the environment.
        given["endpoint_url"] = endpoint_url
    app, entry = loaded(target)
    return planner(cloud)(app, entry, Path.cwd(), given)


def note_environment(cloud: CloudName) -> None:
    """Say which variables name the queues and the table: they may be left from something else."""
    heeded = [
        f"{name}={masked_url(os.environ[name])}"
        for name in ("CLOUDQ_BROKER", "CLOUDQ_BACKEND")
        if os.environ.get(name)
    ]
    if heeded and cloud == "aws":
        note(f"queues and table are named by {' and '.join(heeded)}: unset it for the stack's own")


def given_options(cloud: CloudName, options: dict[str, object]) -> dict[str, Any]:
    """Keep the options that were given. Raises `ConfigurationError` for one of another cloud."""
    given = {name: value for name, value in options.items() if value not in (None, False)}
    for name in given:
        only = _ONE_CLOUD.get(name, cloud)
        if only != cloud:
            option = "--" + name.replace("_", "-")
            raise ConfigurationError(f"{option} is for {only} only: leave it out for {cloud}")
    # `--image` of `build` asks for a Dockerfile; it is not the address of an image.
    given.pop("image", None)
    return given


def loaded(target: Target) -> tuple[CloudQ, str]:
    """Load the app, and find its `module:attribute`."""
    app = target.load()
    return app, _entry(target.path or "", app)


def _entry(path: str, app: CloudQ) -> str:
    # A path may leave the attribute out; then it is found by the app itself.
    module, _, attribute = path.partition(":")
    if attribute:
        return path
    found = [name for name, value in vars(import_module(module)).items() if value is app]
    return f"{module}:{found[0]}"
