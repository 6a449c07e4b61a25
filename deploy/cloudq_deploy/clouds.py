"""What the commands need of a cloud, and where each is found."""

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
# What of an extra must be installed: the cloud's adapter is imported to plan for it.
_EXTRAS = {"google": "gcp", "azure": "azure"}


class Deployment(Protocol):
    """An app that is planned for a cloud."""

    @property
    def stack(self) -> str: ...

    @property
    def formats(self) -> Mapping[str, Callable[[], str]]:
        """What `export` can print; the first where none is named."""
        ...

    @property
    def limit(self) -> Limit:
        """How large its zip may be."""
        ...

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        ...

    def rows(self) -> Iterable[tuple[str, str, str]]:
        """Each resource: what it is, its name, its settings."""
        ...

    def idle(self) -> Sequence[Cost]:
        """A month in which nothing is called."""
        ...

    def running(self, assumed: Assumed) -> Mapping[str, Sequence[Cost]]:
        """A million tasks, by function."""
        ...

    def assumptions(self, assumed: Assumed) -> str: ...

    def check(self) -> None:
        """Raise `ConfigurationError` for what a plan shows but nobody can make."""
        ...

    def build(self, output: Path | None, say: Callable[[str], None]) -> Package:
        """Make the zip; left to itself in `build`."""
        ...

    def apply(self, *, adopt: bool, yes: bool, json: bool) -> None:
        """Make the cloud equal to the plan, as far as that goes; asks first."""
        ...

    def destroy(self, *, data: bool, yes: bool) -> None:
        """Delete what `apply` made, as far as it was; with `data` what holds messages, too."""
        ...


class Planner(Protocol):
    """Plans an app for one cloud. Raises `ConfigurationError`."""

    def __call__(
        self, app: CloudQ, entry: str, folder: Path, given: Mapping[str, object]
    ) -> Deployment: ...


def planner(cloud: str) -> Planner:
    """The planner of a cloud. Raises `ConfigurationError` where its libraries are missing."""
    try:
        return import_module(f"cloudq_deploy.{cloud}.deployment").planned
    except ModuleNotFoundError as error:
        extra = _EXTRAS[cloud]
        raise ConfigurationError(
            f"planning for {cloud} needs {error.name}: {install_hint('deploy', extra)}"
        ) from error
