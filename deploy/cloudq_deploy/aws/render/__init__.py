"""Draws a plan in the languages of tools: CloudFormation, SAM, Terraform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cloudq_deploy.aws import terraform
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.render import cloudformation, sam

FORMATS: Mapping[str, Callable[[Plan], dict[str, Any]]] = {
    "cloudformation": cloudformation.template,
    "sam": sam.template,
    "terraform": terraform.configuration,
}

__all__ = ["FORMATS"]
