"""The options that deployments to all clouds share, and their tables in pyproject.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cloudq.errors import ConfigurationError
from cloudq_deploy.bundle.build import Selection
from cloudq_deploy.pyproject import OTHER_TABLES, RUNTIMES, checked, own_runtime, read_table

AWS_ONLY = (
    *("architecture", "functions", "package", "image", "batch_size", "batch_window"),
    *(
        "max_concurrency",
        "tracing",
        "layers",
        "alarm_topic",
        "kms_key",
        "tags",
        "services",
        "permissions_boundary",
    ),
)
"""Options that `[tool.cloudq.deploy]` takes for AWS beside the shared ones."""

# Options of `[tool.cloudq.deploy]` that hold for the other clouds too; its others are for AWS.
_FOR_ALL_CLOUDS = frozenset(
    {
        *("alarms", "env", "exclude", "functions", "include", "log_retention", "memory", "oldest"),
        *("requirements", "runtime", "stack", "timeout"),
    }
)

IgnoredHints = tuple[
    Literal["batch_size", "batch_window", "max_concurrency", "reserved_concurrency"], ...
]
"""Names of hints that a task's decorator has for another cloud."""


class Options(BaseModel):
    """Options of a deployment. A hint in a task's decorator overrides the option of its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: str | None = Field(default=None, description="prefix of all names; else the app's name")
    region: str | None = Field(default=None, description="region; else the broker's or the SDK's")
    runtime: str = Field(default_factory=own_runtime, description="else the Python running here")
    memory: int = Field(default=512, description="MB")
    timeout: int | None = Field(
        default=None, description="seconds; else the longest time limit and 10 s, else 60"
    )
    log_retention: int = Field(default=30, ge=1, description="days")
    alarms: bool = True
    oldest: int = Field(default=900, gt=0, description="seconds: an older message raises an alarm")
    schedules: Literal["cloud", "beat"] = Field(
        default="cloud", description="sender of periodic tasks: the cloud, or a beat"
    )
    env: dict[str, str] = Field(default={}, description="variables of all functions")
    include: tuple[str, ...] = Field(
        default=(), description="files to pack, as globs; else all Python packages"
    )
    exclude: tuple[str, ...] = Field(default=(), description="files to leave out, as globs")
    requirements: str | None = Field(
        default=None, description="the lock file; else requirements.lock, requirements.txt"
    )

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, runtime: str) -> str:
        if runtime not in RUNTIMES:
            raise ValueError(f"{runtime!r} is none of {', '.join(RUNTIMES)}")
        return runtime

    @property
    def python(self) -> str:
        """The version of Python, such as 3.13."""
        return self.runtime.removeprefix("python")

    def selection(self) -> Selection:
        """The part of the options that decides the contents of the zip."""
        return Selection(
            python=self.python,
            include=self.include,
            exclude=self.exclude,
            requirements=self.requirements,
        )


O = TypeVar("O", bound=Options)  # noqa: E741


def read_options(model: type[O], cloud: str, folder: Path, given: Mapping[str, Any]) -> O:
    """Read the options of a deployment to Google or Azure from the project in `folder`.

    The cloud's own table overrides `[tool.cloudq.deploy]`, and `given` overrides both. Raises
    `ConfigurationError`.
    """
    table = read_table(folder)
    known = (*Options.model_fields, *AWS_ONLY, *OTHER_TABLES)
    unknown = table.keys() - set(known)
    if unknown:
        raise ConfigurationError(
            f"[tool.cloudq.deploy] {min(unknown)}: there is no such option; known: "
            f"{', '.join(known)}"
        )
    own = table.get(cloud, {})
    if not isinstance(own, dict):
        raise ConfigurationError(
            f"[tool.cloudq.deploy] {cloud} is {own!r}: write it as a table, "
            f"[tool.cloudq.deploy.{cloud}]"
        )
    inherited = _FOR_ALL_CLOUDS & set(model.model_fields)
    common = {name: value for name, value in table.items() if name in inherited}
    stated = {str(name).replace("-", "_"): value for name, value in own.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return checked(model, common | stated, given, f"[tool.cloudq.deploy.{cloud}]")
