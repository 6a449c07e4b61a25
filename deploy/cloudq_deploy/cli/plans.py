"""`cloudq deploy plan`, `build`, `export` and `iam`: what needs no account."""

from __future__ import annotations

import json as jsons
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cloudq.cli.common import JsonOption, Target, common
from cloudq.cli.output import emit, note, say
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws import costs
from cloudq_deploy.aws.deployer import deployer
from cloudq_deploy.aws.image import dockerfile
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.policies import Place, document, schedule_groups, statements, trust
from cloudq_deploy.aws.render import FORMATS
from cloudq_deploy.aws.stack.access import Aws
from cloudq_deploy.bundle.archive import Package
from cloudq_deploy.bundle.build import build as build_zip
from cloudq_deploy.cli import elsewhere
from cloudq_deploy.cli.elsewhere import tell_package
from cloudq_deploy.cli.options import (
    AnyCloud,
    Architecture,
    BucketName,
    Cloud,
    Endpoint,
    Functions,
    GoogleProject,
    Profile,
    Project,
    Region,
    Runtime,
    Stack,
    project,
    without_project,
)
from cloudq_deploy.costs import Assumed

_ACCOUNT = "ACCOUNT"


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
    if cloud != "aws":
        other = elsewhere.deployment(
            cloud,
            target,
            project=google_project,
            stack=stack,
            region=region,
            functions=functions,
            runtime=runtime,
            architecture=architecture,
        )
        elsewhere.show(other, assumed, json=json)
        return
    without_project(google_project)
    made = project(
        target,
        stack=stack,
        region=region,
        functions=functions,
        runtime=runtime,
        architecture=architecture,
    ).plan
    idle = costs.idle(made)
    running = {each.name: costs.million(made, each, assumed) for each in made.functions}
    if json:
        emit(made.as_json() | {"costs": elsewhere.costs_json(idle, running, str(assumed))})
        return
    elsewhere.show_tables(_rows(made), idle, running, str(assumed))


def _rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    for queue in plan.queues:
        yield (
            "queue",
            queue.full_name,
            f"visibility {queue.visibility} s, kept 14 d, {queue.encryption}, dead letters after "
            f"{queue.max_receive_count} receives",
        )
        yield "dead letters", queue.dead_name, f"kept 14 d, {queue.encryption}"
    for each in plan.functions:
        more = (
            f", reserved {each.reserved_concurrency}"
            if each.reserved_concurrency is not None
            else ""
        )
        more += f", {each.provisioned} kept warm" if each.provisioned else ""
        more += f", {len(each.layers)} layers" if each.layers else ""
        env = ", ".join(sorted(each.env))
        yield (
            "function",
            each.name,
            f"{each.runtime} {each.architecture} {each.package}, {each.memory} MB, {each.timeout} s"
            f"{more}, recursive loop {each.recursive_loop} (depth {each.max_depth}), tracing "
            f"{each.tracing}, env {env}; runs {', '.join(each.tasks) or 'what is sent there'}",
        )
        yield "role", each.role, "its queues, the table, its log: `cloudq deploy iam`"
        yield "log", each.log_group, f"kept {each.log_retention} d"
    for feed in plan.mappings:
        limit = f", at most {feed.max_concurrency} at a time" if feed.max_concurrency else ""
        yield (
            "event source",
            f"{feed.queue} -> {feed.function}",
            f"batches of {feed.batch_size}, window {feed.window} s, {feed.report}{limit}",
        )
    if plan.table:
        yield "table", plan.table.name, f"{plan.table.billing}, TTL on {plan.table.ttl}"
    for schedule in plan.schedules:
        yield (
            "schedule",
            schedule.name,
            f"{schedule.expression} {schedule.timezone} -> {schedule.queue}"
            + ("" if schedule.enabled else ", disabled"),
        )
    if plan.scheduling:
        yield "schedule group", plan.scheduling.group, "all of the app's schedules"
        yield "role", plan.scheduling.role, "EventBridge Scheduler's: sends to the queues"
        yield "queue", plan.scheduling.dead_name, "what it could not send, kept 14 d"
        if plan.scheduling.far:
            yield "schedule group", plan.scheduling.far, "far calls; the first of them makes it"
    for name, when in plan.beat.items():
        yield "needs a beat", name, f"{when}: run `cloudq beat`, which the stack has not"
    for alarm in plan.alarms:
        yield "alarm", alarm.name, f"{alarm.metric} of {alarm.of} above {alarm.threshold:g}"


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
    if cloud != "aws":
        other = elsewhere.deployment(
            cloud,
            target,
            project=google_project,
            image=image,
            stack=stack,
            region=region,
            runtime=runtime,
            architecture=architecture,
        )
        elsewhere.build(other, output, json=json)
        return
    without_project(google_project)
    made = project(target, stack=stack, region=region, runtime=runtime, architecture=architecture)
    if image:
        path = output or made.folder / "Dockerfile"
        dockerfile(made.folder, made.entry, made.target, path)
        say(f"wrote {path}: docker build --platform linux/{made.target.docker_platform} .")
        return
    package = zip_of(made, output)
    if json:
        emit({**asdict(package), "path": str(package.path)})
        return
    tell_package(package)


def zip_of(made: Project, output: Path | None = None) -> Package:
    """The project's zip, newly made."""
    path = output or made.folder / "build" / f"{made.plan.stack}.zip"
    return build_zip(made.folder, made.entry, made.target, path, note)


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
    if cloud != "aws":
        other = elsewhere.deployment(
            cloud,
            target,
            project=google_project,
            stack=stack,
            region=region,
            functions=functions,
            runtime=runtime,
            architecture=architecture,
        )
        elsewhere.export(other, format)
        return
    without_project(google_project)
    format = format or "cloudformation"
    if format not in FORMATS:
        raise ConfigurationError(f"--format {format}: there are {', '.join(FORMATS)}")
    made = project(
        target,
        stack=stack,
        region=region,
        functions=functions,
        runtime=runtime,
        architecture=architecture,
    )
    typer.echo(jsons.dumps(FORMATS[format](made.plan), indent=2))


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
    made = project(target, stack=stack, region=region).plan
    if account is None:
        account = Aws(region=made.region, profile=profile, endpoint_url=endpoint_url).account
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
