"""Deletes a stack; its queues and its table only if that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, code_of
from cloudq_deploy.aws.stack.apply import Screen
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
    aws: Aws, stack: str, screen: Screen, *, bucket: Bucket, data: bool, far: str | None = None
) -> Sequence[Resource]:
    """Delete the stack and its code; what is kept. Raises `DeployError`.

    `far` is the schedule group of the app's far calls, if it has such: data, but of no stack.
    """
    standing = look(aws, stack)
    listed = resources(aws, stack) if standing else []
    kept = [each for each in listed if each.is_data and each.status != "DELETE_COMPLETE"]
    if standing is not None:
        with asking(f"delete the stack {stack}"):
            # By its id a stack is found when it is deleted, too.
            [found] = aws.cloudformation.describe_stacks(StackName=stack)["Stacks"]
            known = seen(aws, stack)
            aws.cloudformation.delete_stack(StackName=stack)
        try:
            status, why = follow(aws, found.get("StackId", stack), known, screen.tell)
        except KeyboardInterrupt:
            screen.note(
                f"interrupted: AWS goes on deleting the stack {stack}, and leaves its queues, its "
                "table and its code: `cloudq deploy status` shows when it is gone; to delete the "
                "rest, apply with --adopt and destroy with --data"
            )
            raise
        if status != "DELETE_COMPLETE":
            raise DeployError(
                f"the stack {stack} could not be deleted: {why or status}; what is left of it: "
                "`cloudq deploy status`"
            )
    if data:
        for each in kept:
            _delete(aws, each)
            screen.note(f"deleted {each.physical}")
        if far is not None and _deleted_group(aws, far):
            screen.note(f"deleted {far}")
    bucket.clear()
    return [] if data else [each for each in kept if _is_there(aws, each)]


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
    with asking(f"look at {resource.physical}"):
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
