"""The interface of a deployment that the commands use, the same for every cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from cloudq.app import CloudQ
from cloudq.errors import ConfigurationError, install_hint
from cloudq_deploy.bundle.archive import Limit, Package
from cloudq_deploy.costs import Assumed, Cost

CloudName = Literal["aws", "google", "azure"]
# The extra that has a cloud's adapter, which planning for the cloud imports.
_EXTRAS = {"google": "gcp", "azure": "azure"}


class Deployment(Protocol):
    """An app that is planned for a cloud."""

    @property
    def stack(self) -> str:
        """The name of the stack: names of its resources begin with it."""
        ...

    @property
    def formats(self) -> Mapping[str, Callable[[], str]]:
        """The formats of `export`, by name, each with its renderer; the first is the default."""
        ...

    @property
    def limit(self) -> Limit:
        """The largest zip that the cloud accepts."""
        ...

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        ...

    def summary(self) -> Iterable[tuple[str, str, str]]:
        """Yield each resource of the plan: its kind, its name, its settings."""
        ...

    def idle_costs(self) -> Sequence[Cost]:
        """Estimate a month in which no task is called."""
        ...

    def task_costs(self, assumed: Assumed) -> Mapping[str, Sequence[Cost]]:
        """Estimate a million tasks of each function, by the function's name."""
        ...

    def assumptions(self, assumed: Assumed) -> str:
        """Describe the assumptions of the estimates."""
        ...

    def check(self) -> None:
        """Raise `ConfigurationError` for a part of the plan that the cloud cannot make."""
        ...

    def build(self, output: Path | None, say: Callable[[str], None]) -> Package:
        """Build the zip, at `output` or else in the folder `build`; `say` prints remarks."""
        ...

    def write_dockerfile(self, output: Path | None, say: Callable[[str], None]) -> None:
        """Write a Dockerfile in place of the zip; `say` prints the command that builds it."""
        ...

    def apply(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Make the cloud equal to the plan. Asks first, unless `yes`.

        With `adopt`, queues and tables that already exist become part of the stack.
        """
        ...

    def destroy(self, *, data: bool, yes: bool) -> None:
        """Delete what `apply` made. Asks first, unless `yes`.

        Queues and tables are deleted only with `data`.
        """
        ...


Planner = Callable[[CloudQ, str, Path, Mapping[str, object]], Deployment]
"""Plans an app for a cloud: takes the app, its `module:attribute`, the project's folder, and the
options of the command line. Raises `ConfigurationError`."""


def planner(cloud: CloudName) -> Planner:
    """Find the planner of a cloud.

    Raises `ConfigurationError` where the libraries of the cloud's adapter are missing.
    """
    try:
        return import_module(f"cloudq_deploy.{cloud}.deployment").planned
    except ModuleNotFoundError as error:
        extra = _EXTRAS[cloud]
        raise ConfigurationError(
            f"planning for {cloud} needs {error.name}: {install_hint('deploy', extra)}"
        ) from error
