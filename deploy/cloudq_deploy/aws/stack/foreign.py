"""Whether something of a stack's names is there already and is not the stack's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, code_of
from cloudq_deploy.aws.stack.changes import Change

_ABSENT = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    }
)
_KINDS = {
    "AWS::SQS::Queue": "queue",
    "AWS::DynamoDB::Table": "table",
    "AWS::Lambda::Function": "function",
    "AWS::Logs::LogGroup": "log group",
    "AWS::Scheduler::ScheduleGroup": "schedule group",
}
_ADOPT = "take it over with --adopt (a `destroy` leaves queues and tables), or "
_ADVICE = {
    "AWS::SQS::Queue": _ADOPT,
    "AWS::DynamoDB::Table": _ADOPT,
    "AWS::Scheduler::ScheduleGroup": (
        "if `cloudq schedules apply` made it, delete it with its schedules (`aws scheduler "
        "delete-schedule-group --name`), as the stack has them all; else "
    ),
    "AWS::Logs::LogGroup": "delete it, if its lines are of no use; else ",
}


def check_free(aws: Aws, changes: Iterable[Change], template: Mapping[str, Any]) -> None:
    """Raise `DeployError` if something to be added exists: it is somebody else's."""
    looks: dict[str, Callable[[dict[str, Any]], object]] = {
        "AWS::SQS::Queue": lambda own: aws.sqs.get_queue_url(QueueName=own["QueueName"]),
        "AWS::DynamoDB::Table": lambda own: aws.dynamodb.describe_table(TableName=own["TableName"]),
        "AWS::Lambda::Function": lambda own: aws.functions.get_function_configuration(
            FunctionName=own["FunctionName"]
        ),
        # A listing of groups could not be bounded to these.
        "AWS::Logs::LogGroup": lambda own: aws.logs.describe_log_streams(
            logGroupName=own["LogGroupName"], limit=1
        ),
        "AWS::Scheduler::ScheduleGroup": lambda own: aws.scheduler.get_schedule_group(
            Name=own["Name"]
        ),
    }
    for change in changes:
        look = looks.get(change.kind)
        if change.action != "Add" or look is None:
            continue
        own = cast("dict[str, Any]", template["Resources"][change.name]["Properties"])
        name = next(own[key] for key in own if key in _NAMES)
        with asking(f"look whether {name} exists"):
            try:
                look(own)
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    continue
                raise
        raise DeployError(
            f"{_KINDS[change.kind]} {name} exists and is no part of this stack: "
            f"{_ADVICE.get(change.kind, '')}choose other names (--stack, or prefix= of the "
            "broker's URL); nothing was changed"
        )


_NAMES = ("QueueName", "TableName", "FunctionName", "LogGroupName", "Name")
