"""Lists the resources of a stack."""

from __future__ import annotations

from dataclasses import dataclass

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, asking, message_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource of a stack: `name` in the template, `physical` on AWS."""

    name: str
    kind: str
    physical: str
    status: str

    @property
    def is_data(self) -> bool:
        """Tell whether it holds messages or results."""
        return self.kind in ("AWS::SQS::Queue", "AWS::DynamoDB::Table")


def resources(aws: Aws, stack: str) -> list[Resource]:
    """List all resources of a stack; none where there is no stack."""
    with asking(f"list the resources of stack {stack}"):
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
