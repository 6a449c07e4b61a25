"""How parts of a CloudFormation template refer to each other, and what all of them say."""

from __future__ import annotations

from typing import Any

from cloudq_deploy.aws.iam import Arn, Place

Resources = dict[str, dict[str, Any]]

HERE = Place(partition="${AWS::Partition}", region="${AWS::Region}", account="${AWS::AccountId}")
# What is data outlives the stack, but not a stack that never came to be.
KEPT = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
RETENTION = 14 * 24 * 3600


def sub(arn: Arn) -> dict[str, str]:
    """An ARN in this account and region."""
    return {"Fn::Sub": arn.at(HERE)}


def substituted(value: Any) -> Any:
    """The value with `Fn::Sub` around each text that refers to something."""
    if isinstance(value, dict):
        return {key: substituted(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [substituted(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, str) and "${AWS::" in value:
        return {"Fn::Sub": value}
    return value


def arn_of(name: str) -> dict[str, list[str]]:
    """The ARN of a resource of the template."""
    return {"Fn::GetAtt": [name, "Arn"]}
