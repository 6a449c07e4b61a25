"""`cloudq deploy apply`, `status`, `logs`, `invoke`, `rollback` and `destroy`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import typer

from cloudq.cli.options import JsonOption, Target, YesOption, common
from cloudq.cli.output import emit, local, note, say, table
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.plan import Function, Plan
from cloudq_deploy.aws.stack import running
from cloudq_deploy.aws.stack.access import Aws, DeployError
from cloudq_deploy.aws.stack.drift import Drift, drift
from cloudq_deploy.aws.stack.resources import resources
from cloudq_deploy.aws.stack.standing import look
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

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@common
def apply_command(
    target: Target,
    cloud: AnyCloud = "aws",
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
        bool, typer.Option("--adopt", help="Take over queues and tables that exist.")
    ] = False,
    ignore_drift: Annotated[
        bool, typer.Option("--ignore-drift", help="Apply although somebody changed the stack.")
    ] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Make the cloud equal to the code: shows the changes, asks, applies, waits."""
    made = deployment(
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
    made.apply(adopt=adopt, yes=yes, json=json)


@common
def status_command(
    target: Target,
    cloud: Cloud = "aws",
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    with_drift: Annotated[
        bool, typer.Option("--drift", help="Also what somebody changed by hand.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show how the stack stands, its resources and how full its queues are."""
    made = on_aws(target, stack=stack, region=region, profile=profile, endpoint_url=endpoint_url)
    plan, aws = made.plan, made.aws
    standing = look(aws, plan.stack)
    if standing is None:
        raise DeployError(f"there is no stack {plan.stack}: `cloudq deploy apply` makes it")
    found = resources(aws, plan.stack)
    drifts: Sequence[Drift] = drift(aws, plan.stack) if with_drift else ()
    depths = {
        each.physical: _depth(aws, each.physical)
        for each in found
        if each.kind == "AWS::SQS::Queue" and each.status.endswith("_COMPLETE")
    }
    if json:
        emit(
            {
                "stack": asdict(standing),
                "resources": [asdict(each) for each in found],
                "messages": depths,
                "drift": [asdict(each) for each in drifts],
            }
        )
        return
    say(f"{plan.stack}: {standing.status} {standing.reason}".rstrip())
    rows = [
        (each.kind.removeprefix("AWS::"), each.physical, each.status, depths.get(each.physical))
        for each in found
    ]
    table(("KIND", "NAME", "STATUS", "MESSAGES"), rows, empty="no resources")
    for each in drifts:
        say(f"! {each}")
    if with_drift and not drifts:
        note("nothing was changed by hand")


def _depth(aws: Aws, url: str) -> int:
    names: Any = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    reply = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
    return sum(int(value) for value in reply.get("Attributes", {}).values())


@common
def logs_command(
    target: Target,
    cloud: Cloud = "aws",
    function: Annotated[str | None, typer.Option(help="Only of this one.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as they come.")] = False,
    since: Annotated[str, typer.Option(help="As 90s, 10m, 2h, 3d.")] = "10m",
    text: Annotated[str, typer.Option("--grep", help="Only lines with this text.")] = "",
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    json: JsonOption = False,
) -> None:
    """Print the functions' logs."""
    made = on_aws(target, stack=stack, region=region, profile=profile, endpoint_url=endpoint_url)
    plan, aws = made.plan, made.aws
    chosen = [_function(plan, function)] if function else list(plan.functions)
    start = time.time() - _seconds(since)
    for line in running.lines(aws, chosen, since=start, text=text, on=follow):
        if json:
            emit(asdict(line), indent=False)
        else:
            say(f"{local(line.at)} {line.function}: {line.text}")


def _seconds(given: str) -> float:
    try:
        return float(given[:-1]) * _UNITS[given[-1]]
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigurationError(f"--since {given!r}: say it as 90s, 10m, 2h or 3d") from error


def _function(plan: Plan, name: str) -> Function:
    for function in plan.functions:
        if name in (function.name, *function.queues):
            return function
    known = ", ".join(function.name for function in plan.functions)
    raise ConfigurationError(f"there is no function {name!r}: there are {known}")


@common
def invoke_command(
    target: Target,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Its name.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARG]...", help="As JSON, else as text.")
    ] = None,
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
) -> int:
    """Run one task in its function now, past the queue, and print what became of it.

    The exit code is 1 if it failed.
    """
    made = on_aws(target, stack=stack, region=region, profile=profile, endpoint_url=endpoint_url)
    plan, aws = made.plan, made.aws
    function = next((each for each in plan.functions if task in each.tasks), None)
    if function is None:
        known = ", ".join(name for each in plan.functions for name in each.tasks)
        raise ConfigurationError(f"task {task!r} is not registered: there are {known}")
    answer = running.invoke(aws, function, task, [_value(each) for each in arguments or ()], {})
    emit(answer)
    return int(answer.get("state") == "FAILURE")


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


@common
def rollback_command(
    target: Target,
    cloud: Cloud = "aws",
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    bucket: BucketName = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Go back to what was applied before: template and code."""
    made = on_aws(
        target,
        stack=stack,
        region=region,
        profile=profile,
        endpoint_url=endpoint_url,
        bucket=bucket,
    )
    made.roll_back(yes=yes, json=json)


@common
def destroy_command(
    target: Target,
    cloud: AnyCloud = "aws",
    data: Annotated[
        bool, typer.Option("--data", help="Also the queues and the table, with what is in them.")
    ] = False,
    stack: Stack = None,
    region: Region = None,
    google_project: GoogleProject = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    bucket: BucketName = None,
    yes: YesOption = False,
) -> None:
    """Delete the stack and its code. Queues and the table stay, unless --data is given."""
    made = deployment(
        cloud,
        target,
        project=google_project,
        profile=profile,
        endpoint_url=endpoint_url,
        bucket=bucket,
        stack=stack,
        region=region,
    )
    made.destroy(data=data, yes=yes)
