"""`cloudq deploy apply` and `destroy`: the commands that change a cloud."""

from __future__ import annotations

from typing import Annotated

import typer

from cloudq.cli.options import JsonOption, Target, YesOption, common
from cloudq_deploy.cli.options import (
    Architecture,
    BucketName,
    Cloud,
    Endpoint,
    Functions,
    GoogleProject,
    Profile,
    Region,
    Runtime,
    Stack,
    note_environment,
    planned,
)


@common
def apply_command(
    target: Target,
    cloud: Cloud = "aws",
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    bucket: BucketName = None,
    functions: Functions = None,
    runtime: Runtime = None,
    architecture: Architecture = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over queues and tables that already exist.")
    ] = False,
    ignore_drift: Annotated[
        bool, typer.Option("--ignore-drift", help="Apply even if the stack was changed by hand.")
    ] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Make the cloud equal to the code: show the changes, ask, apply them, wait for the end."""
    deployment = planned(
        cloud,
        target,
        project=google_project,
        profile=profile,
        endpoint_url=endpoint_url,
        bucket=bucket,
        stack=stack,
        region=region,
        functions=functions,
        runtime=runtime,
        architecture=architecture,
        ignore_drift=ignore_drift,
    )
    note_environment(cloud)
    deployment.apply(adopt=adopt, yes=yes, json=json)


@common
def destroy_command(
    target: Target,
    cloud: Cloud = "aws",
    data: Annotated[
        bool,
        typer.Option("--data", help="Also delete the queues and the table, with their contents."),
    ] = False,
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    bucket: BucketName = None,
    yes: YesOption = False,
) -> None:
    """Delete the stack and its code. Keeps the queues and the table, unless --data is given."""
    deployment = planned(
        cloud,
        target,
        project=google_project,
        profile=profile,
        endpoint_url=endpoint_url,
        bucket=bucket,
        stack=stack,
        region=region,
    )
    deployment.destroy(data=data, yes=yes)
