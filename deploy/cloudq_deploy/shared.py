"""The options that a deployment to Google or Azure has in common, and where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cloudq.errors import ConfigurationError
from cloudq.tasks.function_hints import FunctionHints
from cloudq_deploy.aws.target import Target
from cloudq_deploy.pyproject import OTHERS, RUNTIMES, checked, own_runtime, written

# What `[tool.cloudq.deploy]` says for all clouds; the rest of it is of AWS alone.
_FOR_ALL = frozenset(
    {
        *("alarms", "env", "exclude", "functions", "include", "log_retention", "memory", "oldest"),
        *("requirements", "runtime", "stack", "timeout"),
    }
)


class Shared(BaseModel):
    """Options of a deployment; what the decorators say of a function stands above them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack: str | None = Field(default=None, description="what names begin with; else the app's")
    region: str | None = Field(default=None, description="the location")
    runtime: str = Field(default_factory=own_runtime, description="else that of the Python here")
    memory: int = Field(default=512, description="MB")
    timeout: int | None = Field(
        default=None, description="seconds; else a task's time limit and 10 s, or 60"
    )
    log_retention: int = Field(default=30, ge=1, description="days")
    alarms: bool = True
    oldest: int = Field(default=900, gt=0, description="seconds: an older message is an alarm")
    schedules: Literal["cloud", "beat"] = Field(
        default="cloud", description="who runs periodic tasks: the cloud, or a beat"
    )
    ignore: tuple[
        Literal["batch_size", "batch_window", "max_concurrency", "reserved_concurrency"], ...
    ] = Field(default=(), description="hints of decorators that are meant for another cloud")
    env: dict[str, str] = Field(default={}, description="variables of all functions")
    include: tuple[str, ...] = Field(default=(), description="files to pack, as globs")
    exclude: tuple[str, ...] = Field(default=(), description="files not to pack, as globs")
    requirements: str | None = Field(default=None, description="the lock file")

    @field_validator("runtime")
    @classmethod
    def _known_runtime(cls, runtime: str) -> str:
        if runtime not in RUNTIMES:
            raise ValueError(f"{runtime!r} is none of {', '.join(RUNTIMES)}")
        return runtime

    def heeded(self, hints: FunctionHints) -> FunctionHints:
        """Hints without those that are to be ignored."""
        return replace(hints, **dict.fromkeys(self.ignore))

    @property
    def python(self) -> str:
        """The version of Python, as 3.13."""
        return self.runtime.removeprefix("python")

    @property
    def architecture(self) -> str:
        """The only one that these clouds' functions run on."""
        return "x86_64"

    @property
    def services(self) -> tuple[str, ...]:
        """None: they are of AWS."""
        return ()


S = TypeVar("S", bound=Shared)


def read(model: type[S], cloud: str, folder: Path, given: Mapping[str, Any]) -> S:
    """The table of a cloud, above what is said for all clouds; `given` is above both.

    Raises `ConfigurationError`.
    """
    found = written(folder)
    unknown = found.keys() - set(Target.model_fields) - set(OTHERS)
    if unknown:
        raise ConfigurationError(
            f"[tool.cloudq.deploy] {min(unknown)}: there is no such option; known: "
            f"{', '.join((*Target.model_fields, *OTHERS))}"
        )
    own = found.get(cloud, {})
    if not isinstance(own, dict):
        raise ConfigurationError(f"[tool.cloudq.deploy] {cloud} is {own!r}: it is a table")
    common = {
        name: value for name, value in found.items() if name in _FOR_ALL & set(model.model_fields)
    }
    stated = {str(name).replace("-", "_"): value for name, value in own.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return checked(model, common | stated, given, f"[tool.cloudq.deploy.{cloud}]")
