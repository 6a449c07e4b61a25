"""The commands of `cloudq deploy` that only AWS has: status, logs, invoke, rollback, iam."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloudq.amounts import span
from cloudq.cli.arguments import read_words
from cloudq.cli.options import JsonOption, Target, YesOption, common
from cloudq.cli.output import emit, local, note, say, table
from cloudq.errors import ConfigurationError, did_you_mean
from cloudq.text import AsIs, iso_time
from cloudq_deploy.aws.iam import ROLES, Place, document, schedule_groups, statements, trust
from cloudq_deploy.aws.iam_deployer import deployer
from cloudq_deploy.cli.options import (
    BucketName,
    Endpoint,
    Profile,
    Region,
    Stack,
    given_options,
    loaded,
)

# What imports AWS's SDK, which takes a second or so, is imported by the commands: a help needs
# none of it.
if TYPE_CHECKING:
    from cloudq_deploy.aws.deployment import AwsDeployment
    from cloudq_deploy.aws.plan import Function, Plan
    from cloudq_deploy.aws.stack.access import Aws
    from cloudq_deploy.aws.stack.drift import Drift
    from cloudq_deploy.aws.stack.resources import Resource

OnlyAws = Annotated[
    Literal["aws"], typer.Argument(metavar="[aws]", help="The cloud: this command is for AWS only.")
]


def _planned(target: Target, **options: object) -> AwsDeployment:
    from cloudq_deploy.aws.deployment import planned

    app, entry = loaded(target)
    return planned(app, entry, Path.cwd(), given_options("aws", options))


# ---- status


@common
def status_command(
    target: Target,
    cloud: OnlyAws = "aws",
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    with_drift: Annotated[
        bool, typer.Option("--drift", help="Also show what was changed by hand.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the state of the stack, its resources, and the messages in its queues."""
    from cloudq_deploy.aws.stack.access import DeployError
    from cloudq_deploy.aws.stack.drift import drift
    from cloudq_deploy.aws.stack.resources import resources
    from cloudq_deploy.aws.stack.state import look

    made = _planned(target, stack=stack, region=region, profile=profile, endpoint_url=endpoint_url)
    name, aws = made.stack, made.aws
    state = look(aws, name)
    if state is None:
        raise DeployError(f"there is no stack {name}: make it with `cloudq deploy apply`")
    found = resources(aws, name)
    drifts: Sequence[Drift] = drift(aws, name) if with_drift else ()
    depths = _depths(aws, found)
    if json:
        emit(
            {
                "stack": asdict(state),
                "resources": [asdict(each) for each in found],
                "messages": depths,
                "drift": [asdict(each) for each in drifts],
            }
        )
        return
    say(f"{name}: {state.status} {state.reason}".rstrip())
    rows = [
        (each.kind.removeprefix("AWS::"), each.physical, each.status, depths.get(each.physical))
        for each in found
    ]
    table(("KIND", "NAME", "STATUS", "MESSAGES"), rows, empty="no resources")
    for each in drifts:
        say(f"! {each}")
    if with_drift and not drifts:
        note("nothing was changed by hand")


def _depths(aws: Aws, found: Sequence[Resource]) -> Mapping[str, int]:
    return {
        each.physical: _depth(aws, each.physical)
        for each in found
        if each.kind == "AWS::SQS::Queue" and each.status.endswith("_COMPLETE")
    }


def _depth(aws: Aws, url: str) -> int:
    names: Any = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    reply = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
    return sum(int(value) for value in reply.get("Attributes", {}).values())


# ---- logs


@common
def logs_command(
    target: Target,
    cloud: OnlyAws = "aws",
    function: Annotated[
        str | None, typer.Option(help="Only this function, by its name or its queue's.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Keep printing new lines, until Ctrl-C.")
    ] = False,
    since: Annotated[str, typer.Option(help="Age of the oldest lines: 90s, 10m, 2h, 3d.")] = "10m",
    text: Annotated[str, typer.Option("--grep", help="Only lines that contain this text.")] = "",
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    json: JsonOption = False,
) -> None:
    """Print the functions' logs. --json prints one object per line."""
    from cloudq_deploy.aws.stack import running

    made = _planned(target, stack=stack, region=region, profile=profile, endpoint_url=endpoint_url)
    plan, aws = made.plan, made.aws
    chosen = [_function(plan, function)] if function else list(plan.functions)
    start = time.time() - _seconds(since)
    for line in running.lines(aws, chosen, since=start, text=text, follow=follow):
        if json:
            emit(asdict(line) | {"at": iso_time(line.at)}, indent=False)
        else:
            say(f"{local(line.at)} {line.function}: {line.text}")


def _seconds(given: str) -> float:
    found = span(given)
    if found is None:
        raise ConfigurationError(f"--since {given!r}: write it as 90s, 10m, 2h or 3d")
    return found


def _function(plan: Plan, name: str) -> Function:
    for function in plan.functions:
        if name in (function.name, *function.queues):
            return function
    known = ", ".join(function.name for function in plan.functions)
    raise ConfigurationError(f"there is no function {name!r}: the stack has {known}")


# ---- invoke


@common
def invoke_command(
    target: Target,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARG]...", help="Arguments of the task, as JSON or as text."),
    ] = None,
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
) -> int:
    """Run one task in its function now, without the queue, and print its result.

    The exit code is 1 if the task failed.
    """
    from cloudq_deploy.aws.stack import running

    made = _planned(target, stack=stack, region=region, profile=profile, endpoint_url=endpoint_url)
    plan, aws = made.plan, made.aws
    function = next((each for each in plan.functions if task in each.tasks), None)
    if function is None:
        known = [name for each in plan.functions for name in each.tasks]
        hint = did_you_mean(task, known, otherwise=f"the app has {', '.join(known)}")
        raise ConfigurationError(f"task {task!r} is not registered: {hint}")
    args, kwargs = read_words(made.app, task, arguments or ())
    answer = running.invoke(aws, function, task, args, kwargs)
    emit(AsIs(answer))
    return int(answer.get("state") == "FAILURE")


# ---- rollback


@common
def rollback_command(
    target: Target,
    cloud: OnlyAws = "aws",
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    bucket: BucketName = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Go back to the template and the code before the last apply."""
    made = _planned(
        target,
        stack=stack,
        region=region,
        profile=profile,
        endpoint_url=endpoint_url,
        bucket=bucket,
    )
    made.roll_back(yes=yes, json=json)


# ---- iam


@common
def iam_command(
    target: Target,
    cloud: OnlyAws = "aws",
    role: Annotated[
        Literal["producer", "worker", "scheduler", "planner", "operator", "deployer"],
        typer.Option(help="producer, worker, scheduler, planner, operator or deployer."),
    ] = "worker",
    account: Annotated[
        str | None, typer.Option(help="Number of the account. Default: AWS is asked for it.")
    ] = None,
    unscoped: Annotated[
        bool,
        typer.Option("--unscoped", help="Include the deployer's one right on all resources."),
    ] = False,
    with_trust: Annotated[
        bool, typer.Option("--trust", help="Print the role's trust policy instead.")
    ] = False,
    stack: Stack = None,
    region: Region = None,
    profile: Profile = None,
    endpoint_url: Endpoint = None,
    bucket: BucketName = None,
) -> None:
    """Print the least-privilege policy of a role, for the ARNs of this app's resources."""
    made = _planned(target, stack=stack, region=region, profile=profile, endpoint_url=endpoint_url)
    plan = made.plan
    place = Place(region=plan.region, account=_account(made, account))
    if role in ("scheduler", "planner") and plan.scheduling is None:
        raise ConfigurationError(
            f"--role {role}: the app has no schedules that EventBridge Scheduler sends: choose "
            "another role"
        )
    if role == "deployer" and not unscoped and not with_trust:
        note(
            "lambda:CreateEventSourceMapping is left out, because AWS cannot limit it to a "
            "resource. With this policy an apply can change a stack, but cannot make its event "
            "source mappings. --unscoped adds it on all resources, for this stack's functions only"
        )
    emit(AsIs(_policy(plan, role, place, bucket, with_trust=with_trust, unscoped=unscoped)))


def _account(made: AwsDeployment, given: str | None) -> str:
    account = made.aws.account if given is None else given
    if not (account.isdigit() and len(account) == 12):
        raise ConfigurationError(
            f"--account {account}: the number of an AWS account has twelve digits"
        )
    return account


def _policy(
    plan: Plan, role: str, place: Place, bucket: str | None, *, with_trust: bool, unscoped: bool
) -> dict[str, Any]:
    if with_trust:
        if role == "scheduler":
            return trust("scheduler.amazonaws.com", place, schedule_groups(plan))
        if role == "worker":
            return trust("lambda.amazonaws.com", place)
        raise ConfigurationError(
            f"--trust: the role {role} is taken by people and programs, and by no AWS service, so "
            "its trust policy is yours to write"
        )
    if role == "deployer":
        name = bucket or f"cloudq-deploy-{place.account}-{place.region}"
        return document(deployer(plan, name, unscoped=unscoped), place)
    return document(statements(plan, ROLES[role]), place)
