"""Finds changes by hand: CloudFormation compares resources with the stack's template."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, asking, message_of
from cloudq_deploy.aws.stack.resources import Resource, resources

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackResourceDriftTypeDef

_AT_A_TIME = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A property that differs from the template; `path` is "" for a deleted resource."""

    name: str
    physical: str
    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        if not self.path:
            return (
                f"{self.name} ({self.physical}) was deleted: to make it again, `destroy`, which "
                "keeps "
                "the data, then `apply --adopt`"
            )
        path = self.path.replace("/", ".")
        return f"{self.name}{path} is {self.actual}, and {self.expected} was applied"


def drift(aws: Aws, stack: str) -> Sequence[Drift]:
    """Find all changes by hand, with one request for each resource. Raises `DeployError`.

    A request for the whole stack is followed by an id that no policy can be limited to.
    """
    listed = resources(aws, stack)
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return [each for found in pool.map(partial(_check, aws, stack), listed) for each in found]


def _check(aws: Aws, stack: str, resource: Resource) -> list[Drift]:
    with asking(f"compare {resource.name} with the template of stack {stack}"):
        try:
            reply = aws.cloudformation.detect_stack_resource_drift(
                StackName=stack, LogicalResourceId=resource.name
            )
        except ClientError as error:
            if "support" in message_of(error):  # CloudFormation does not compare this kind
                return []
            raise
    return [
        each for each in _of_resource(reply["StackResourceDrift"]) if not is_pause(resource, each)
    ]


def is_pause(resource: Resource, drift: Drift) -> bool:
    """Tell whether `cloudq schedules` paused or resumed an entry: no change by hand."""
    return resource.kind == "AWS::Scheduler::Schedule" and drift.path == "/State"


def _of_resource(each: StackResourceDriftTypeDef) -> list[Drift]:
    name, physical = each["LogicalResourceId"], each.get("PhysicalResourceId", "")
    if each["StackResourceDriftStatus"] not in ("MODIFIED", "DELETED"):
        return []
    if each["StackResourceDriftStatus"] == "DELETED":
        return [Drift(name=name, physical=physical, path="", expected="", actual="")]
    return [
        Drift(
            name=name,
            physical=physical,
            path=difference["PropertyPath"],
            expected=difference["ExpectedValue"],
            actual=difference["ActualValue"],
        )
        for difference in each.get("PropertyDifferences", ())
    ]
