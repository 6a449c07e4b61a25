"""The protocols of a cloud's scheduler, and the values that cross them.

A driver for periodic jobs may also send single messages: `OneTimeScheduler`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol, runtime_checkable

from cloudq.driver.immutable import immutable
from cloudq.driver.values import Code


@immutable
class Job:
    """One entry of a cloud's scheduler: it sends `body` to `queue` at the times of `expression`.

    `description` begins with a mark that names the app `owner`. A run may be up to `window`
    minutes late.
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
    """A cloud's scheduler of periodic jobs. All jobs of one app are in one `group`.

    A failed request raises the SDK's own error, which `error_code` reads. A job that the service
    cannot have raises `ConfigurationError` without a request.
    """

    dialect: str
    """The language of its expressions: `eventbridge` or `unix-cron`."""
    slot: str | None
    """The text in a body that it replaces by the time a run is due; None if there is none."""
    spread: bool
    """Whether it can send a run up to some minutes late."""
    bounds: bool
    """Whether a job may have a start and an end."""
    group: str | None
    """The group that its URL names; None for a group of the app's name."""

    def name(self, group: str, entry: str) -> str:
        """Return the job's name for an entry's. Raises `ConfigurationError` if none is possible."""
        ...

    def owner(self, group: str) -> str | None:
        """Return the app that owns the group, "" for none; None where there is no such group."""
        ...

    def fields(self, job: Job) -> Fields:
        """Return the job as `current` will show it once it exists."""
        ...

    def current(self, group: str) -> Mapping[str, Fields]:
        """Return the existing jobs of the group by name, with `description` among the fields."""
        ...

    def create(self, group: str, job: Job) -> None:
        """Create a job, and its group if there is none, owned by `job.owner`."""
        ...

    def update(self, group: str, job: Job) -> None: ...

    def delete(self, group: str, name: str) -> None: ...

    def error_code(self, error: Exception) -> Code: ...

    def close(self) -> None: ...


@immutable
class OneTimeEntry:
    """One entry of a cloud's scheduler that sends `body` to `queue` at `time`, once.

    `time` is in whole epoch seconds, `owner` is the app, `group` is the message's ordering key.
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
    """Single messages at distant times; the driver of a cloud's scheduler may implement it."""

    early: float
    """Seconds that an entry must fire early, so that its message is in the queue in time."""

    def takes(self, body: bytes) -> bool:
        """Tell whether it accepts this body, and sends it unchanged."""
        ...

    def once(self, group: str, entry: OneTimeEntry) -> None:
        """Create an entry, and its group if there is none. An existing one of that name is kept."""
        ...

    def forget(self, group: str, name: str) -> bool:
        """Delete an entry; False where it has fired, or never existed."""
        ...

    def error_code(self, error: Exception) -> Code: ...

    def close(self) -> None: ...
