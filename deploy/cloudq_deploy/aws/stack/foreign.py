"""Refuses to add resources whose names are taken by resources outside of the stack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
_NAMES = ("QueueName", "TableName", "FunctionName", "LogGroupName", "Name")
_ADOPT = "take it over with --adopt (`destroy` keeps queues and tables), or "
_ADVICE = {
    "AWS::SQS::Queue": _ADOPT,
    "AWS::DynamoDB::Table": _ADOPT,
    "AWS::Scheduler::ScheduleGroup": (
        "if `cloudq schedules apply` made it, delete it with its schedules (`aws scheduler "
        "delete-schedule-group --name`), since the stack has the same ones; else "
    ),
    "AWS::Logs::LogGroup": "delete it if its lines are not needed; else ",
}


def _look(aws: Aws, kind: str, name: str) -> None:
    """Read a resource. Raises the SDK's error where there is none."""
    match kind:
        case "AWS::SQS::Queue":
            aws.sqs.get_queue_url(QueueName=name)
        case "AWS::DynamoDB::Table":
            aws.dynamodb.describe_table(TableName=name)
        case "AWS::Lambda::Function":
            aws.functions.get_function_configuration(FunctionName=name)
        case "AWS::Logs::LogGroup":
            # No policy could limit a listing of groups to these.
            aws.logs.describe_log_streams(logGroupName=name, limit=1)
        case _:
            aws.scheduler.get_schedule_group(Name=name)


def check_free(aws: Aws, changes: Iterable[Change], template: Mapping[str, Any]) -> None:
    """Raise `DeployError` if a resource to be added exists, because somebody else owns it."""
    check_names(aws, [change.name for change in changes if change.action == "Add"], template)


def check_names(aws: Aws, names: Iterable[str], template: Mapping[str, Any]) -> None:
    """Raise `DeployError` if one of these resources of a template exists already."""
    for resource in names:
        kind = template["Resources"][resource]["Type"]
        if kind not in _KINDS:
            continue
        own: dict[str, Any] = template["Resources"][resource]["Properties"]
        name = next(own[key] for key in own if key in _NAMES)
        with asking(f"look for {name}"):
            try:
                _look(aws, kind, name)
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    continue
                raise
        raise DeployError(
            f"{_KINDS[kind]} {name} exists already and is not part of this stack: "
            f"{_ADVICE.get(kind, '')}choose other names (--stack, or prefix= of the "
            "broker's URL); nothing was changed"
        )
