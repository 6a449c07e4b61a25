"""What a deployment is told beyond the decorators: `[tool.cloudq.deploy]` and the command line."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cloudq_deploy.pyproject import OTHERS, RUNTIMES, checked, own_runtime, written

_RETENTIONS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653)
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def own_architecture() -> str:
    """The architecture of this machine, as Lambda calls it."""
    return _ARCHITECTURES.get(platform.machine().lower(), "x86_64")


class Target(BaseModel):
    """Every option of a deployment; what the decorators say of one function stands above them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: str | None = Field(default=None, description="name of the stack; else the app's")
    region: str | None = Field(default=None, description="else the broker's, else the SDK's")
    runtime: str = Field(default_factory=own_runtime, description="else that of the Python here")
    architecture: Literal["arm64", "x86_64"] = Field(
        default="arm64", description="arm64 costs a fifth less"
    )
    functions: Literal["queue", "one"] = Field(
        default="queue", description="one function a queue, or one for all"
    )
    package: Literal["zip", "image"] = "zip"
    image: str | None = Field(default=None, description="address of the image, with package=image")
    memory: int = Field(default=512, description="MB")
    timeout: int | None = Field(
        default=None, description="seconds; else a task's time limit and 10 s, or 60"
    )
    batch_size: int = Field(default=10, description="messages in an invocation")
    batch_window: int = Field(default=0, description="seconds to gather them in")
    max_concurrency: int | None = Field(
        default=None, description="invocations a queue feeds at a time"
    )
    log_retention: int = Field(default=30, description="days")
    tracing: Literal["PassThrough", "Active"] = Field(
        default="PassThrough", description="Active: X-Ray traces"
    )
    layers: tuple[str, ...] = Field(default=(), description="ARNs of layers, with their versions")
    schedules: Literal["cloud", "beat"] = Field(
        default="cloud", description="who sends periodic tasks: EventBridge Scheduler, or a beat"
    )
    alarms: bool = True
    alarm_topic: str | None = Field(default=None, description="ARN of the SNS topic they go to")
    oldest: int = Field(default=900, gt=0, description="seconds: an older message is an alarm")
    kms_key: str | None = Field(default=None, description="of queues and table; else AWS's own")
    env: dict[str, str] = Field(default={}, description="variables of all functions")
    tags: dict[str, str] = Field(default={}, description="tags of the stack and all in it")
    include: tuple[str, ...] = Field(
        default=(), description="files to pack, as globs; else all Python packages"
    )
    exclude: tuple[str, ...] = Field(default=(), description="files not to pack, as globs")
    services: tuple[str, ...] = Field(
        default=(),
        description="AWS services of botocore to pack, sqs and dynamodb among them; else all",
    )
    requirements: str | None = Field(
        default=None, description="the lock file; else requirements.lock, requirements.txt"
    )

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, runtime: str) -> str:
        if runtime not in RUNTIMES:
            raise ValueError(f"{runtime!r} is none of {', '.join(RUNTIMES)}")
        return runtime

    @field_validator("architecture", mode="before")
    @classmethod
    def _as_machines_say(cls, architecture: object) -> object:
        # As `uname -m` has it, here and there.
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
            raise ValueError("letters, digits and -, a letter first, 128 at most")
        return name

    @property
    def python(self) -> str:
        """The version of Python, as 3.13."""
        return self.runtime.removeprefix("python")

    @property
    def docker_platform(self) -> str:
        """The architecture as docker calls it."""
        return {"x86_64": "amd64", "arm64": "arm64"}[self.architecture]


def read_target(folder: Path, given: Mapping[str, Any]) -> Target:
    """The project's `[tool.cloudq.deploy]` with `given` above it. Raises `ConfigurationError`."""
    stated = {name: value for name, value in written(folder).items() if name not in OTHERS}
    return checked(Target, stated, given, "[tool.cloudq.deploy]")
