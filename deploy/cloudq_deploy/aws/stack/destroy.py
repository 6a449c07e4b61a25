"""Deletes a stack, and its queues and its table only on request."""

from __future__ import annotations

from collections.abc import Sequence

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, code_of
from cloudq_deploy.aws.stack.apply import Terminal
from cloudq_deploy.aws.stack.bucket import Bucket
from cloudq_deploy.aws.stack.resources import Resource, resources
from cloudq_deploy.aws.stack.state import look
from cloudq_deploy.aws.stack.watch import follow, seen

_GONE = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    }
)


def destroy(
    aws: Aws,
    stack: str,
    terminal: Terminal,
    *,
    bucket: Bucket,
    data: bool,
    one_time_group: str | None = None,
) -> Sequence[Resource]:
    """Delete the stack and its code; returns the resources that are kept. Raises `DeployError`.

    With `data`, also deletes the queues, the table and `one_time_group`, the schedule group of the
    long-delayed calls, which belongs to no stack.
    """
    state = look(aws, stack)
    listed = resources(aws, stack) if state else []
    kept = [each for each in listed if each.is_data and each.status != "DELETE_COMPLETE"]
    if state is not None:
        with asking(f"delete stack {stack}"):
            # A deleted stack can only be found by its id.
            [found] = aws.cloudformation.describe_stacks(StackName=stack)["Stacks"]
            known = seen(aws, stack)
            aws.cloudformation.delete_stack(StackName=stack)
        try:
            status, why = follow(aws, found.get("StackId", stack), known, terminal.tell)
        except KeyboardInterrupt:
            terminal.note(
                f"interrupted: AWS goes on deleting stack {stack}, and keeps its queues, its table "
                "and its code. `cloudq deploy status` shows when the stack is gone; to delete the "
                "rest then, run `cloudq deploy destroy --data`"
            )
            raise
        if status != "DELETE_COMPLETE":
            raise DeployError(
                f"stack {stack} could not be deleted: {why or status}; `cloudq deploy status` "
                "shows "
                "the resources that are left"
            )
    if data:
        destroy_left(aws, kept, terminal)
        if one_time_group is not None and _deleted_group(aws, one_time_group):
            terminal.note(f"deleted {one_time_group}")
    bucket.clear()
    return [] if data else [each for each in kept if _is_there(aws, each)]


def destroy_left(aws: Aws, left: Sequence[Resource], terminal: Terminal) -> None:
    """Delete the queues and tables that a deleted stack has left. Raises `DeployError`."""
    for each in left:
        _delete(aws, each)
        terminal.note(f"deleted {each.physical}")


def _deleted_group(aws: Aws, group: str) -> bool:
    with asking(f"delete the schedule group {group}"):
        try:
            aws.scheduler.delete_schedule_group(Name=group)
        except aws.scheduler.exceptions.ResourceNotFoundException:
            return False
    return True


def _delete(aws: Aws, resource: Resource) -> None:
    with asking(f"delete {resource.physical}"):
        try:
            if resource.kind == "AWS::DynamoDB::Table":
                aws.dynamodb.delete_table(TableName=resource.physical)
            else:
                aws.sqs.delete_queue(QueueUrl=resource.physical)
        except ClientError as error:
            if code_of(error) not in _GONE:
                raise


def _is_there(aws: Aws, resource: Resource) -> bool:
    with asking(f"look for {resource.physical}"):
        try:
            if resource.kind == "AWS::DynamoDB::Table":
                aws.dynamodb.describe_table(TableName=resource.physical)
            else:
                aws.sqs.get_queue_attributes(QueueUrl=resource.physical)
        except ClientError as error:
            if code_of(error) in _GONE:
                return False
            raise
    return True
