"""`cloudq deploy plan`, `build`, `export` and `iam`: what needs no account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cloudq.cli.options import JsonOption, Target, common
from cloudq.cli.output import emit, note, say, table
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.deployer import deployer
from cloudq_deploy.aws.deployment import AwsDeployment
from cloudq_deploy.aws.image import dockerfile
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.policies import Place, document, schedule_groups, statements, trust
from cloudq_deploy.bundle.report import tell_package
from cloudq_deploy.cli.options import (
    AnyCloud,
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
    deployment,
    on_aws,
)
from cloudq_deploy.costs import Assumed, Cost, total


@common
def plan_command(
    target: Target,
    cloud: AnyCloud = "aws",
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    functions: Functions = None,
    runtime: Runtime = None,
    architecture: Architecture = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long a task runs, for costs.")] = 0.1,
    together: Annotated[int, typer.Option(min=1, help="Tasks an invocation, for costs.")] = 5,
    json: JsonOption = False,
) -> None:
    """Show every resource that the app needs, and what they cost. Asks no cloud."""
    assumed = Assumed(seconds=seconds, together=together)
    made = deployment(
        cloud,
        target,
        project=google_project,
        stack=stack,
        region=region,
        functions=functions,
        runtime=runtime,
        architecture=architecture,
    )
    idle, running, told = made.idle(), made.running(assumed), made.assumptions(assumed)
    if json:
        emit(made.as_json() | {"costs": _costs_json(idle, running, told)})
        return
    table(("RESOURCE", "NAME", "SETTINGS"), made.rows(), empty="nothing")
    say("")
    items = [("a month, idle", cost.of, f"{cost.amount:.2f}") for cost in idle]
    for name, found in running.items():
        items += [(f"a million tasks of {name}", cost.of, f"{cost.amount:.2f}") for cost in found]
        items.append((f"a million tasks of {name}", "together", f"{total(found):.2f}"))
    table(("COSTS", "OF", "USD"), items, empty="nothing")
    note(f"assumed: {told}")


def _costs_json(
    idle: Sequence[Cost], running: Mapping[str, Sequence[Cost]], told: str
) -> dict[str, Any]:
    return {
        "currency": "USD",
        "idle_month": [asdict(cost) for cost in idle],
        "million_tasks": {
            name: [asdict(cost) for cost in found] for name, found in running.items()
        },
        "assumed": told,
    }


@common
def build_command(
    target: Target,
    cloud: AnyCloud = "aws",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to; else build/STACK.zip.")
    ] = None,
    image: Annotated[bool, typer.Option("--image", help="Write a Dockerfile instead.")] = False,
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    runtime: Runtime = None,
    architecture: Architecture = None,
    json: JsonOption = False,
) -> None:
    """Make the zip that functions run: the app, and its locked dependencies as wheels."""
    made = deployment(
        cloud,
        target,
        project=google_project,
        image=image,
        stack=stack,
        region=region,
        runtime=runtime,
        architecture=architecture,
    )
    if isinstance(made, AwsDeployment) and image:
        path = output or made.folder / "Dockerfile"
        dockerfile(made.folder, made.plan.entry, made.target, path)
        say(f"wrote {path}: docker build --platform linux/{made.target.docker_platform} .")
        return
    package = made.build(output, note)
    if json:
        emit({**asdict(package), "path": str(package.path)})
        return
    tell_package(package, made.limit)


@common
def export_command(
    target: Target,
    cloud: AnyCloud = "aws",
    format: Annotated[
        str | None,
        typer.Option(
            "-f", "--format", help="cloudformation, sam or terraform; of google also gcloud."
        ),
    ] = None,
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    functions: Functions = None,
    runtime: Runtime = None,
    architecture: Architecture = None,
) -> None:
    """Print the plan for another tool."""
    made = deployment(
        cloud,
        target,
        project=google_project,
        stack=stack,
        region=region,
        functions=functions,
        runtime=runtime,
        architecture=architecture,
    )
    chosen = format or next(iter(made.formats))
    if chosen not in made.formats:
        raise ConfigurationError(f"--format {chosen}: there are {', '.join(made.formats)}")
    made.check()
    typer.echo(made.formats[chosen]())


@common
def iam_command(
    target: Target,
    cloud: Cloud = "aws",
    role: Annotated[
        Literal["producer", "worker", "scheduler", "planner", "operator", "deployer"],
        typer.Option(help="producer, worker, scheduler, planner, operator or deployer."),
    ] = "worker",
    account: Annotated[
        str | None, typer.Option(help="The account's number; else AWS is asked.")
    ] = None,
    unscoped: Annotated[
        bool,
        typer.Option("--unscoped", help="A deployer's right that no resource bounds, too."),
    ] = False,
    with_trust: Annotated[
        bool, typer.Option("--trust", help="Print who may take the role instead.")
    ] = False,
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    bucket: BucketName = None,
) -> None:
    """Print the least policy of a role, on the ARNs of this app's resources."""
    standing = on_aws(
        target, stack=stack, region=region, profile=profile, endpoint_url=endpoint_url
    )
    made = standing.plan
    if account is None:
        account = standing.aws.account
    if not (account.isdigit() and len(account) == 12):
        raise ConfigurationError(f"--account {account}: an account's number has twelve digits")
    place = Place(region=made.region, account=account)
    if role in ("scheduler", "planner") and made.scheduling is None:
        raise ConfigurationError(f"--role {role}: the app has no schedules that AWS is to send")
    if role == "deployer" and not unscoped and not with_trust:
        note(
            "AWS knows no resource of lambda:CreateEventSourceMapping: with --unscoped it is on "
            "all of them, under the condition that it is for these functions. Without that right "
            "an apply changes a stack that stands, and cannot make its event sources"
        )
    emit(_policy(made, role, place, bucket, with_trust=with_trust, unscoped=unscoped))


def _policy(
    plan: Plan, role: str, place: Place, bucket: str | None, *, with_trust: bool, unscoped: bool
) -> dict[str, Any]:
    if with_trust:
        if role == "scheduler":
            return trust("scheduler.amazonaws.com", place, schedule_groups(plan))
        if role == "worker":
            return trust("lambda.amazonaws.com", place)
        raise ConfigurationError(f"--trust: people and programs take {role}, no service does")
    if role == "deployer":
        name = bucket or f"cloudq-deploy-{place.account}-{place.region}"
        return document(deployer(plan, name, unscoped=unscoped), place)
    return document(statements(plan, role), place)  # pyright: ignore[reportArgumentType]
