"""Whether something of a stack's names is there already and is not the stack's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from botocore.exceptions import ClientError

from cloudq_deploy.stack.access import Aws, DeployError, asking, code_of
from cloudq_deploy.stack.changes import Change

_ABSENT = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    }
)
_ADOPTABLE = ("AWS::SQS::Queue", "AWS::DynamoDB::Table")


def check_free(aws: Aws, changes: Iterable[Change], template: Mapping[str, Any]) -> None:
    """Raise `DeployError` if something to be added exists: it is somebody else's."""
    looks: dict[str, Callable[[dict[str, Any]], object]] = {
        "AWS::SQS::Queue": lambda own: aws.sqs.get_queue_url(QueueName=own["QueueName"]),
        "AWS::DynamoDB::Table": lambda own: aws.dynamodb.describe_table(TableName=own["TableName"]),
        "AWS::Lambda::Function": lambda own: aws.functions.get_function_configuration(
            FunctionName=own["FunctionName"]
        ),
        "AWS::Logs::LogGroup": lambda own: _log_group(aws, own["LogGroupName"]),
    }
    for change in changes:
        look = looks.get(change.kind)
        if change.action != "Add" or look is None:
            continue
        own = cast("dict[str, Any]", template["Resources"][change.name]["Properties"])
        name = next(own[key] for key in own if key in _NAMES)
        with asking(f"look whether {name} exists"):
            try:
                found = look(own)
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    continue
                raise
        if found:
            adopt = (
                "take it over with --adopt (a `destroy` leaves queues and tables), or "
                if change.kind in _ADOPTABLE
                else ""
            )
            raise DeployError(
                f"{change.kind.rpartition('::')[2].lower()} {name} exists and is no part of this "
                f"stack: {adopt}choose other names (--stack, or prefix= of the broker's URL); "
                "nothing was changed"
            )


_NAMES = ("QueueName", "TableName", "FunctionName", "LogGroupName")


def _log_group(aws: Aws, name: str) -> bool:
    reply = aws.logs.describe_log_groups(logGroupNamePrefix=name)
    return any(group.get("logGroupName") == name for group in reply["logGroups"])
