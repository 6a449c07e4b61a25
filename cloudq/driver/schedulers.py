"""What an adapter of a cloud's scheduler implements, and the value that crosses.

One that can send single messages at far times is `cloudq.driver.OneTimeScheduler` as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from cloudq.driver.values import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One entry of a cloud's scheduler: it sends `body` to `queue` at the times of `expression`.

    `description` begins with the mark of its owner, the app `owner`. `window`: minutes that a run
    may come later.
    """

    name: str
    expression: str
    timezone: str
    queue: str
    body: str
    description: str
    owner: str = ""
    group: str | None = None
    enabled: bool = True
    start: datetime | None = None
    end: datetime | None = None
    window: int = 0


Fields = Mapping[str, str]
"""A job as the service has it, each part by its name there: what a diff shows."""


class SchedulerDriver(Protocol):
    """A scheduler of a cloud's. `group` is where all the jobs of one app lie.

    Whatever fails raises the SDK's own error, which `error_code` reads; what cannot be needs no
    request and is a `ConfigurationError`.
    """

    dialect: str
    """`eventbridge`, `unix-cron`: what it takes for an expression."""
    slot: str | None
    """What it replaces in a body by the time a run is due; None where it replaces nothing."""
    spread: bool
    """Whether it can send a run up to some minutes late."""
    bounds: bool
    """Whether a job may have a start and an end."""
    group: str | None
    """Where the jobs lie, if its URL says so; None: in a group of the app's name."""

    def name(self, group: str, entry: str) -> str:
        """The job's name for an entry's. Raises `ConfigurationError` for one that cannot be."""
        ...

    def owner(self, group: str) -> str | None:
        """The app whose group it is, "" for nobody's; None where there is no such group."""
        ...

    def fields(self, job: Job) -> Fields:
        """The job as `current` will tell of it when it is there."""
        ...

    def current(self, group: str) -> Mapping[str, Fields]:
        """The jobs of the group that there are, by name, with `description` among the fields."""
        ...

    def create(self, group: str, job: Job) -> None:
        """Make a job, and the group if there is none, as that of `job.owner`."""
        ...

    def update(self, group: str, job: Job) -> None: ...

    def delete(self, group: str, name: str) -> None: ...

    def error_code(self, error: Exception) -> Code: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeEntry:
    """One entry of a cloud's scheduler that sends `body` to `queue` at `time` and is gone then.

    `time` is in whole epoch seconds. `owner` is the app whose group it lies in, `group` the
    ordering key of its message.
    """

    name: str
    time: float
    queue: str
    body: str
    owner: str
    description: str
    group: str | None = None


@runtime_checkable
class OneTimeScheduler(Protocol):
    """Single messages at far times; a driver of a cloud's scheduler may have it too."""

    early: float
    """Seconds before its time that an entry must fire, so that its message is there in time."""

    def takes(self, body: bytes) -> bool:
        """Whether it sends this body, and sends it as it is."""
        ...

    def once(self, group: str, entry: OneTimeEntry) -> None:
        """Make an entry, and the group if there is none; one of its name is as good."""
        ...

    def forget(self, group: str, name: str) -> bool:
        """Delete an entry; False where it has fired, or never was."""
        ...

    def error_code(self, error: Exception) -> Code: ...

    def close(self) -> None: ...
