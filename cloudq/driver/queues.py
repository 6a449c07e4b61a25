"""The protocol of a queue service, and the values that cross it.

A driver turns one call into one call of its service's SDK. It does not retry, log, serialize or
wrap errors: the portable `Broker` and `Backend` do that once, for every service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from cloudq.driver.immutable import immutable
from cloudq.driver.store import BackendDriver, Item
from cloudq.driver.values import Code, Failure

ORDERED_SUFFIX = ".fifo"
"""Ends the name of a queue that keeps the order of its groups, on every service."""

FOREVER = 10 * 365 * 86_400.0
"""The longest delay or lease, in seconds, where a service names no limit."""


def is_ordered(queue: str) -> bool:
    """Tell from its name or URL whether a queue keeps the order of its groups."""
    return queue.endswith(ORDERED_SUFFIX)


def suffixed(queue: str, suffix: str) -> str:
    """Append to a queue's name; the suffix of an ordered queue stays the last."""
    if is_ordered(queue):
        return f"{queue.removesuffix(ORDERED_SUFFIX)}{suffix}{ORDERED_SUFFIX}"
    return queue + suffix


@immutable
class Limits:
    """The limits of one queue of a service, as data. Times are in seconds, sizes in bytes."""

    batch: int  # messages a send, receive, ack, release or extend
    body: int  # one message's body
    batch_body: int  # all bodies of one send together
    max_delay: float  # native delay of one message; 0 where there is none
    max_lease: float  # longest lease one call can ask for
    max_wait: float  # longest wait of one receive
    # The shortest wait that asks the whole queue: at 0, SQS asks only some of its servers.
    min_wait: float = 0.0
    # The shortest lease; the same as `max_lease` where the queue has one fixed length.
    min_lease: float = 0.0
    ordered: bool = False  # messages of one group arrive in order, one after the other
    dedup_window: float = 0.0  # how long a `dedup` key keeps a second message out
    # Requests cost money or a network round trip, so batches are worth a short linger.
    billed: bool = True
    # A receive whose caller has gone waits on, and takes what comes: with a lease of nobody's.
    polls_outlive_callers: bool = False

    def keeps_place(self, group: str | None) -> bool:
        """Say if a message of this group must be tried again itself: a copy would lose its place.

        An ordered queue may also be unable to delay a copy, with or without a group.
        """
        return self.ordered and (group is not None or not self.max_delay)


@immutable
class Outgoing:
    """One message to send. `body` is UTF-8 text; `delay` in seconds; `id` is new for each copy."""

    id: str
    body: bytes
    delay: float = 0.0
    group: str | None = None
    dedup: str | None = None


@immutable
class Delivery:
    """One message as received, leased for `lease` seconds from about when `receive` returned.

    `attempts` counts the deliveries of this message, this one included (1 = first).
    `receipt` is the driver's own handle on the lease: opaque, and picklable.
    """

    queue: str
    id: str
    body: bytes
    receipt: object
    attempts: int
    lease: float
    group: str | None = None
    sent_at: float | None = None  # epoch seconds, where the service tells


class BrokerDriver(Protocol):
    """A queue service. Every method is safe to call from many threads.

    A batch never exceeds `limits(queue).batch`, and its deliveries are of one queue. What is
    refused for single elements comes back as `Failure`s; a call that fails as a whole raises the
    SDK's own error, which `error_code` reads.
    """

    def limits(self, queue: str) -> Limits: ...

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]: ...

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        """Lease up to `count` messages for `lease` s; with none there, wait up to `wait` s."""
        ...

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        """Delete for good. A lease lost to someone else is a Failure where the service knows."""
        ...

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        """End the leases: the messages can be received again `after` seconds from now."""
        ...

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        """Make the leases end `lease` seconds from now."""
        ...

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Move to the queue's dead letters, with the reason. Never loses: copy first, then ack."""
        ...

    def error_code(self, error: Exception) -> Code: ...

    def close(self) -> None: ...


@runtime_checkable
class PlatformDeadLetters(Protocol):
    """Dead-lettering of messages that a function's platform leased; a driver may implement it."""

    def bury(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Put messages of one queue among its dead letters, with the reason; never loses one.

        `receipt` is the platform's handle on the lease, None where it gives none. The platform
        acks afterwards, and must not fail when it finds the message gone.
        """
        ...


@runtime_checkable
class DeadLetterCopies(Protocol):
    """Dead-lettering of a part of a message; a driver may implement it."""

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Put new messages among the dead letters of their queue, with the reason.

        The leases are those of other messages, and stay as they are.
        """
        ...


@runtime_checkable
class EndsReceives(Protocol):
    """Receives that can end early and leave nothing leased; a driver may implement it."""

    def end_receives(self) -> None:
        """Have the receives under way return what they have; later ones wait for nothing."""
        ...


@runtime_checkable
class StoreBeside(Protocol):
    """A broker whose queues may lie in one database with a store; a driver may implement it."""

    def is_beside(self, store: BackendDriver) -> bool:
        """Tell whether one transaction can write to the queues and to this store."""
        ...

    def settle(
        self, store: BackendDriver, items: Sequence[Item], deliveries: Sequence[Delivery]
    ) -> bool:
        """Write whole items to the store beside and ack the deliveries, of any number and queues.

        All in one transaction; False where one of them is refused, and then nothing is written.
        """
        ...


@immutable
class Scheduled:
    """A message that waits for its time, `due` (epoch seconds). `handle` names it; opaque."""

    handle: str
    id: str
    body: bytes
    due: float
    group: str | None = None


@runtime_checkable
class Scheduling(Protocol):
    """Delayed messages that can be listed and taken back; a broker driver may implement it."""

    def schedule(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[str | Failure]:
        """Send delayed messages, as `send` does; each one's handle, or why it was refused."""
        ...

    def unschedule(self, queue: str, handles: Sequence[str]) -> Sequence[Failure]:
        """Take messages back for good; one that has come due meanwhile is a `NOT_FOUND`."""
        ...

    def scheduled(self, queue: str, *, count: int, after: str | None = None) -> Sequence[Scheduled]:
        """Look at up to `count` waiting messages, `after` a handle; in an order that is kept.

        `after` may name one that has been taken back or has come due meanwhile.
        """
        ...


@runtime_checkable
class VirtualTime(Protocol):
    """A broker or a store that can use a clock of the caller's; a driver may implement it."""

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Use `clock` (epoch seconds) from now on, and wake those who wait for a time.

        Call it again whenever that clock was moved by hand.
        """
        ...

    def next_due(self) -> float:
        """The time when the next delayed or leased message can be received; inf for never."""
        ...
