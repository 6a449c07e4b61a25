"""What somebody changed by hand: CloudFormation compares resources with the stack's template."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloudq_deploy.stack.access import Aws, DeployError, asking

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackResourceDriftTypeDef

_POLL = 0.5
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A property of a resource that is not as the template says; `path` is "" if it is deleted."""

    name: str
    physical: str
    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        if not self.path:
            return f"{self.name} ({self.physical}) was deleted"
        path = self.path.replace("/", ".")
        return f"{self.name}{path} is {self.actual}, applied was {self.expected}"


def drift(aws: Aws, stack: str) -> Sequence[Drift]:
    """All that has drifted. Raises `DeployError`."""
    with asking(f"compare the stack {stack} with what is there"):
        id = aws.cloudformation.detect_stack_drift(StackName=stack)["StackDriftDetectionId"]
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            reply = aws.cloudformation.describe_stack_drift_detection_status(
                StackDriftDetectionId=id
            )
            if reply["DetectionStatus"] != "DETECTION_IN_PROGRESS":
                break
            time.sleep(_POLL)
        else:
            raise DeployError(
                f"CloudFormation did not compare the stack {stack} in {_PATIENCE:g} s: try again, "
                "or --ignore-drift"
            )
        return _found(aws, stack)


def _found(aws: Aws, stack: str) -> list[Drift]:
    found: list[Drift] = []
    more: dict[str, Any] = {}
    while True:
        page = aws.cloudformation.describe_stack_resource_drifts(
            StackName=stack, StackResourceDriftStatusFilters=["MODIFIED", "DELETED"], **more
        )
        for each in page["StackResourceDrifts"]:
            found += _of_resource(each)
        token = page.get("NextToken")
        if not token:
            return found
        more = {"NextToken": token}


def _of_resource(each: StackResourceDriftTypeDef) -> list[Drift]:
    name, physical = each["LogicalResourceId"], each.get("PhysicalResourceId", "")
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
