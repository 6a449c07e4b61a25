"""Takes existing queues and tables into a stack, by an import of CloudFormation.

The import comes before the apply itself. `destroy` keeps queues and tables, so the next apply
finds them. Only resources that hold data are taken over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, asking, code_of
from cloudq_deploy.aws.stack.state import StackState, template_of

_QUEUE, _TABLE = "AWS::SQS::Queue", "AWS::DynamoDB::Table"
_ABSENT = frozenset(
    {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "ResourceNotFoundException"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An existing resource of a template; CloudFormation finds it by `identifier`."""

    name: str
    kind: str
    identifier: Mapping[str, str]


def adoptable(
    aws: Aws, stack: str, template: Mapping[str, Any], state: StackState | None
) -> Sequence[Found]:
    """Find the queues and tables of the template that exist outside of the stack."""
    inside: Mapping[str, Any] = {}
    if state is not None and not state.review:
        inside = template_of(aws, stack)["Resources"]
    found = [
        _find(aws, name, resource)
        for name, resource in template["Resources"].items()
        if name not in inside and resource["Type"] in (_QUEUE, _TABLE)
    ]
    return [each for each in found if each is not None]


def _find(aws: Aws, name: str, resource: Mapping[str, Any]) -> Found | None:
    own, kind = resource["Properties"], resource["Type"]
    with asking(f"look for {name}"):
        try:
            if kind == _QUEUE:
                url = aws.sqs.get_queue_url(QueueName=own["QueueName"])["QueueUrl"]
                return Found(name=name, kind=kind, identifier={"QueueUrl": url})
            aws.dynamodb.describe_table(TableName=own["TableName"])
            return Found(name=name, kind=kind, identifier={"TableName": own["TableName"]})
        except ClientError as error:
            if code_of(error) in _ABSENT:
                return None
            raise


def importing(
    aws: Aws,
    stack: str,
    template: Mapping[str, Any],
    found: Sequence[Found],
    state: StackState | None,
) -> dict[str, Any]:
    """Make the template of the import: the stack's present resources and the found ones.

    An import may add nothing else.
    """
    first = state is None or state.review
    kept = ("AWSTemplateFormatVersion", "Description")
    base: dict[str, Any] = {name: template[name] for name in kept}
    if not first:
        base = template_of(aws, stack)
    resources: dict[str, Any] = {**base.get("Resources", {})}
    present = {*resources, *(each.name for each in found)}
    for each in found:
        own = json.loads(json.dumps(template["Resources"][each.name]))
        redrive = own["Properties"].get("RedrivePolicy")
        if redrive and redrive["deadLetterTargetArn"]["Fn::GetAtt"][0] not in present:
            del own["Properties"]["RedrivePolicy"]  # the next apply sets it
        resources[each.name] = own
    return {**base, "Resources": resources}
