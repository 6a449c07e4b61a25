"""Finds the queues and the table that a deleted stack has left, by their names and tags."""

from __future__ import annotations

from collections.abc import Mapping

from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.render.cloudformation import template
from cloudq_deploy.aws.stack.access import Aws, asking
from cloudq_deploy.aws.stack.adopt import Found, adoptable
from cloudq_deploy.aws.stack.resources import Resource


def left_over(aws: Aws, plan: Plan) -> list[Resource]:
    """Return the queues and tables of a plan that exist, and that were part of its stack.

    What has these names and belongs to somebody else is not among them.
    """
    found = adoptable(aws, plan.stack, template(plan, ""), None)
    return [
        Resource(name=each.name, kind=each.kind, physical=_physical(each), status="")
        for each in found
        if _is_of(plan, _tags(aws, each))
    ]


def _is_of(plan: Plan, tags: Mapping[str, str]) -> bool:
    return all(plan.tags[name] == tags.get(name) for name in ("cloudq:app", "cloudq:stack"))


def _physical(found: Found) -> str:
    return next(iter(found.identifier.values()))


def _tags(aws: Aws, found: Found) -> Mapping[str, str]:
    name = _physical(found)
    with asking(f"read the tags of {name}"):
        if "QueueUrl" in found.identifier:
            return aws.sqs.list_queue_tags(QueueUrl=name).get("Tags", {})
        arn = aws.dynamodb.describe_table(TableName=name)["Table"].get("TableArn", "")
        listed = aws.dynamodb.list_tags_of_resource(ResourceArn=arn).get("Tags", [])
        return {tag["Key"]: tag["Value"] for tag in listed}
