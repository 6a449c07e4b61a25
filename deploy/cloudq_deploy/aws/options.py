"""The options of a deployment to AWS: `[tool.cloudq.deploy]` and the command line."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from cloudq_deploy.bundle.build import Selection
from cloudq_deploy.options import Options
from cloudq_deploy.pyproject import OTHER_TABLES, checked, read_table

_RETENTIONS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653)
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def own_architecture() -> str:
    """The architecture of this machine, by Lambda's name for it."""
    return _ARCHITECTURES.get(platform.machine().lower(), "x86_64")


class AwsOptions(Options):
    """All options of a deployment to AWS."""

    architecture: Literal["arm64", "x86_64"] = Field(
        default="arm64", description="arm64 costs a fifth less"
    )
    functions: Literal["queue", "one"] = Field(
        default="queue", description="queue: one function per queue; one: one function for all"
    )
    package: Literal["zip", "image"] = "zip"
    image: str | None = Field(default=None, description="address of the image, with package=image")
    batch_size: int = Field(default=10, description="messages in an invocation")
    batch_window: int = Field(default=0, description="seconds to wait for a full batch")
    max_concurrency: int | None = Field(
        default=None, description="invocations that a queue starts at a time"
    )
    tracing: Literal["PassThrough", "Active"] = Field(
        default="PassThrough", description="Active: X-Ray traces"
    )
    layers: tuple[str, ...] = Field(default=(), description="ARNs of layers, with their versions")
    alarm_topic: str | None = Field(
        default=None, description="ARN of the SNS topic that alarms are sent to"
    )
    kms_key: str | None = Field(
        default=None, description="ARN of the key for queues and table; else AWS's own keys"
    )
    permissions_boundary: str | None = Field(
        default=None,
        pattern=r"^arn:aws[a-z-]*:iam::(\d{12}|aws):policy/[A-Za-z0-9+=,.@/_-]+$",
        description="ARN of the policy that bounds the rights of all roles, and of the deployer",
    )
    tags: dict[str, str] = Field(default={}, description="tags of the stack and all in it")
    services: tuple[str, ...] = Field(
        default=(),
        description="botocore's services to pack, among them sqs and dynamodb; else all",
    )

    @field_validator("architecture", mode="before")
    @classmethod
    def _by_any_name(cls, architecture: object) -> object:
        # `uname -m` says amd64 on one system and x86_64 on another.
        return _ARCHITECTURES.get(str(architecture), architecture)

    @field_validator("log_retention")
    @classmethod
    def _known_retention(cls, days: int) -> int:
        if days not in _RETENTIONS:
            raise ValueError(f"{days} days: CloudWatch keeps logs for {_RETENTIONS} days")
        return days

    @field_validator("stack")
    @classmethod
    def _stack_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,127}", name):
            raise ValueError("use letters, digits and -, a letter first, 128 at most")
        return name

    @property
    def docker_platform(self) -> str:
        """The architecture, by docker's name for it."""
        return {"x86_64": "amd64", "arm64": "arm64"}[self.architecture]

    def selection(self) -> Selection:
        """The part of the options that decides the contents of the zip."""
        chosen = super().selection()
        return replace(chosen, architecture=self.architecture, services=self.services)


def read_aws_options(folder: Path, given: Mapping[str, Any]) -> AwsOptions:
    """Read `[tool.cloudq.deploy]` of the project in `folder`; `given` overrides it.

    Raises `ConfigurationError`.
    """
    table = read_table(folder)
    stated = {name: value for name, value in table.items() if name not in OTHER_TABLES}
    return checked(AwsOptions, stated, given, "[tool.cloudq.deploy]")
