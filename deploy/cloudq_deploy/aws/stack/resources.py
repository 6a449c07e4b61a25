"""What is in a stack."""

from __future__ import annotations

from dataclasses import dataclass

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, asking, message_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource of a stack, by its own name in AWS."""

    name: str
    kind: str
    physical: str
    status: str

    @property
    def is_data(self) -> bool:
        return self.kind in ("AWS::SQS::Queue", "AWS::DynamoDB::Table")


def resources(aws: Aws, stack: str) -> list[Resource]:
    """All of a stack's resources; none where there is no stack."""
    with asking(f"list the resources of the stack {stack}"):
        try:
            pages = list(
                aws.cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
            )
        except ClientError as error:
            if "does not exist" in message_of(error):
                return []
            raise
    return [
        Resource(
            name=each["LogicalResourceId"],
            kind=each["ResourceType"],
            physical=each.get("PhysicalResourceId", ""),
            status=each["ResourceStatus"],
        )
        for page in pages
        for each in page["StackResourceSummaries"]
    ]
