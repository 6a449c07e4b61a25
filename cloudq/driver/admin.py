"""The protocols of operators' commands on queues and stores, and the values that cross them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cloudq.driver.values import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """The counts of a queue. None where the service does not tell; they may lag (`exact`)."""

    queue: str
    ready: int | None
    delayed: int | None
    leased: int | None
    dead: int | None
    oldest_age: float | None = None  # seconds
    dead_queue: str | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peeked:
    """A message looked at. `handle` names it for `redrive` and `delete_dead`; opaque."""

    id: str
    body: bytes
    attempts: int
    handle: object
    sent_at: float | None = None
    reason: str | None = None  # dead letters only


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """The outcome of a purge: `count` deleted (None: unknown), all gone `settles` seconds later."""

    count: int | None
    settles: float = 0.0


@runtime_checkable
class QueueAdmin(Protocol):
    """Operators' commands on queues; a broker driver may implement it too."""

    def create(self, queue: str, *, lease: float, max_deliveries: int) -> None:
        """Make the queue and its dead-letter queue. Existing ones are left as they are."""
        ...

    def delete(self, queue: str) -> None:
        """Delete the queue and its dead letters."""
        ...

    def list(self, prefix: str = "") -> Sequence[str]: ...

    def stats(self, queue: str) -> QueueStats: ...

    def peek(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at waiting messages without taking them, as far as the service can."""
        ...

    def purge(self, queue: str) -> Purged: ...

    def peek_dead(self, queue: str, *, count: int) -> Sequence[Peeked]: ...

    def redrive(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Send dead letters to their queue again, then delete them from the dead letters."""
        ...

    def delete_dead(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]: ...

    def purge_dead(self, queue: str) -> Purged: ...


@runtime_checkable
class StoreAdmin(Protocol):
    """Operators' commands on the store; a backend driver may implement it too."""

    def create_store(self) -> None:
        """Make the table (or what the service calls it). An existing one is left as it is."""
        ...

    def check_store(self) -> None:
        """Raise the SDK's own error when the table is missing or out of reach."""
        ...


@runtime_checkable
class Sweeping(Protocol):
    """Deletion of expired items, for stores that do not delete them by themselves."""

    def sweep(self) -> int:
        """Delete expired items, and return their number. Items in use are left alone."""
        ...
