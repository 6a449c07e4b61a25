"""References between the parts of a CloudFormation template, and settings that they share."""

from __future__ import annotations

from typing import Any

from cloudq_deploy.aws.iam import Arn, Place

Resources = dict[str, dict[str, Any]]

HERE = Place(partition="${AWS::Partition}", region="${AWS::Region}", account="${AWS::AccountId}")
# Resources with data outlive the stack, unless its creation failed.
KEPT = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
RETENTION = 14 * 24 * 3600


def sub(arn: Arn) -> dict[str, str]:
    """Write an ARN in this account and region."""
    return {"Fn::Sub": arn.at(HERE)}


def substituted(value: Any) -> Any:
    """Wrap each string that has a reference in `Fn::Sub`."""
    if isinstance(value, dict):
        return {key: substituted(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [substituted(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, str) and "${AWS::" in value:
        return {"Fn::Sub": value}
    return value


def arn_of(name: str) -> dict[str, list[str]]:
    """Refer to the ARN of a resource of the template."""
    return {"Fn::GetAtt": [name, "Arn"]}
