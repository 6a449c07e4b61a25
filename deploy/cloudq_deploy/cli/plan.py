"""`cloudq deploy plan`, `build` and `export`: the commands that need no account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cloudq.cli.options import JsonOption, Target, common
from cloudq.cli.output import emit, note, say, say_block, table
from cloudq.errors import ConfigurationError
from cloudq.text import AsIs
from cloudq_deploy.bundle.report import report
from cloudq_deploy.cli.options import (
    Architecture,
    Cloud,
    Functions,
    GoogleProject,
    Region,
    Runtime,
    Stack,
    note_environment,
    planned,
)
from cloudq_deploy.costs import Assumed, Cost, total


@common
def plan_command(
    target: Target,
    cloud: Cloud = "aws",
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    functions: Functions = None,
    runtime: Runtime = None,
    architecture: Architecture = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Time that a task runs, for the costs.")
    ] = 0.1,
    together: Annotated[
        int, typer.Option(min=1, help="Tasks in one invocation, for the costs.")
    ] = 5,
    json: JsonOption = False,
) -> None:
    """Show every resource that the app needs, and its costs. Sends no request to the cloud."""
    assumed = Assumed(seconds=seconds, together=together)
    deployment = planned(
        cloud,
        target,
        project=google_project,
        stack=stack,
        region=region,
        functions=functions,
        runtime=runtime,
        architecture=architecture,
    )
    idle, tasks = deployment.idle_costs(), deployment.task_costs(assumed)
    assumptions = deployment.assumptions(assumed)
    if json:
        emit(deployment.as_json() | {"costs": _costs_json(idle, tasks, assumptions)})
        return
    table(("RESOURCE", "NAME", "SETTINGS"), deployment.summary(), empty="no resources")
    say("")
    items = [("a month, idle", cost.of, f"{cost.amount:.2f}") for cost in idle]
    for name, costs in tasks.items():
        items += [(f"a million tasks of {name}", cost.of, f"{cost.amount:.2f}") for cost in costs]
        items.append((f"a million tasks of {name}", "together", f"{total(costs):.2f}"))
    table(("COSTS", "OF", "USD"), items, empty="no costs")
    note(f"assumed: {assumptions}")
    note_environment(cloud)


def _costs_json(
    idle: Sequence[Cost], tasks: Mapping[str, Sequence[Cost]], assumptions: str
) -> dict[str, Any]:
    return {
        "currency": "USD",
        "idle_month": [asdict(cost) for cost in idle],
        "million_tasks": {name: [asdict(cost) for cost in costs] for name, costs in tasks.items()},
        "assumed": assumptions,
    }


@common
def build_command(
    target: Target,
    cloud: Cloud = "aws",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write. Default: build/STACK.zip."),
    ] = None,
    image: Annotated[
        bool, typer.Option("--image", help="Write a Dockerfile instead; AWS only.")
    ] = False,
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    runtime: Runtime = None,
    architecture: Architecture = None,
    json: JsonOption = False,
) -> None:
    """Build the zip that the functions run: the app, and its locked dependencies as wheels."""
    deployment = planned(
        cloud,
        target,
        project=google_project,
        image=image,
        stack=stack,
        region=region,
        runtime=runtime,
        architecture=architecture,
    )
    if image:
        deployment.write_dockerfile(output, say)
        return
    package = deployment.build(output, note)
    if json:
        emit({**asdict(package), "path": str(package.path)})
        return
    report(package, deployment.limit)


@common
def export_command(
    target: Target,
    cloud: Cloud = "aws",
    format: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--format",
            help="aws: cloudformation, sam or terraform; google: terraform or gcloud; "
            "azure: terraform.",
        ),
    ] = None,
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    functions: Functions = None,
    runtime: Runtime = None,
    architecture: Architecture = None,
) -> None:
    """Print the plan in the format of another tool."""
    deployment = planned(
        cloud,
        target,
        project=google_project,
        stack=stack,
        region=region,
        functions=functions,
        runtime=runtime,
        architecture=architecture,
    )
    chosen = format or next(iter(deployment.formats))
    if chosen not in deployment.formats:
        raise ConfigurationError(
            f"--format {chosen}: {cloud} has {', '.join(deployment.formats)}: choose one of them"
        )
    deployment.check()
    say_block(AsIs(deployment.formats[chosen]()))
