"""The protocols an adapter implements, and the plain values that cross them.

A driver turns one call into one call of its service's SDK. It does not retry, log, serialize or
wrap errors: the portable `Broker` and `Backend` do that once, for every service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

Value = str | bytes | int | float | bool | frozenset[str] | None
"""What a field of an `Item` may hold; an empty set and an absent field are the same."""


class Code(StrEnum):
    """The reactions that a service's error can call for."""

    NOT_FOUND = "not_found"  # no such queue or table
    EXISTS = "exists"
    DENIED = "denied"  # the credentials are known, and may not
    CREDENTIALS = "credentials"  # no credentials, or ones that the service does not know
    THROTTLED = "throttled"  # later is fine
    UNREACHABLE = "unreachable"  # no answer, or the service is ill
    TOO_LARGE = "too_large"
    INVALID = "invalid"  # the request can never work
    LEASE_LOST = "lease_lost"  # the delivery belongs to someone else by now
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A broker's or a backend's URL, taken apart: `scheme://host/path?options`.

    `path` is what follows the host, without its first slash: `sqlite:///a.db` gives `a.db`, and
    `sqlite:////var/a.db` gives `/var/a.db`.
    """

    scheme: str
    host: str = ""
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one queue of a service can do, as data. Times are in seconds, sizes in bytes."""

    batch: int  # messages a send, receive, ack, release or extend
    body: int  # one message's body
    batch_body: int  # all bodies of one send together
    max_delay: float  # native delay of one message; 0 where there is none
    max_lease: float  # longest lease one call can ask for
    max_wait: float  # longest wait of one receive
    # The shortest wait that asks the whole queue: SQS samples its servers at 0.
    min_wait: float = 0.0
    # The shortest lease; `max_lease` again where the queue has one length, whatever is asked.
    min_lease: float = 0.0
    ordered: bool = False  # messages of one group arrive in order, one after the other
    dedup_window: float = 0.0  # how long a `dedup` key keeps a second message out
    # Requests cost money or a network round trip, so batches are worth a short linger.
    billed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message to send. `body` is UTF-8 text; `delay` in seconds; `id` is new for each copy."""

    id: str
    body: bytes
    delay: float = 0.0
    group: str | None = None
    dedup: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One element of a batch that the service refused: its place in the call, and why."""

    index: int
    code: Code
    reason: str


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
    """Dead letters of messages that a function's platform has leased; a driver may have it too."""

    def bury(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Put messages of one queue among its dead letters, with the reason; never loses one.

        `receipt` is what the platform tells of its lease, None where it tells nothing. The
        platform acks afterwards: that its ack then finds nothing must do no harm.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A message that waits for its time, `due` (epoch seconds). `handle` names it; opaque."""

    handle: str
    id: str
    body: bytes
    due: float
    group: str | None = None


@runtime_checkable
class Scheduling(Protocol):
    """Delayed messages that can be listed and taken back; a broker driver may have it too."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """How full a queue is. None where the service does not tell; counts may lag (`exact`)."""

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
    """What a purge did: `count` deleted (None: it does not tell), done `settles` s later."""

    count: int | None
    settles: float = 0.0


@runtime_checkable
class QueueAdmin(Protocol):
    """What an operator does to queues; a broker driver may have it too."""

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


class Key(NamedTuple):
    """Where an item lives: `sort` orders the items of one `partition`."""

    partition: str
    sort: str = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One stored item. `expires` is epoch seconds; an expired item is not there any more."""

    key: Key
    fields: Mapping[str, Value]
    expires: float | None = None


class Op(StrEnum):
    """How a `Check` compares the stored field with its value."""

    ABSENT = "absent"
    EXISTS = "exists"
    EQ = "="
    NE = "<>"
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    CONTAINS = "contains"  # the stored set has the value


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition on one field; with `or_absent` it also holds where the field is absent."""

    field: str
    op: Op
    value: Value = None
    or_absent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One atomic change of one item, made only when every check in `when` holds.

    An item that does not exist (or has expired) is created; `when` then sees no field at all.
    `keep_expires` leaves the expiry as it is; else it becomes `expires`.
    """

    set: Mapping[str, Value] = field(default_factory=dict[str, Value])
    increment: Mapping[str, int | float] = field(default_factory=dict[str, "int | float"])
    add: Mapping[str, frozenset[str]] = field(default_factory=dict[str, "frozenset[str]"])
    discard: Mapping[str, frozenset[str]] = field(default_factory=dict[str, "frozenset[str]"])
    remove: frozenset[str] = frozenset()
    expires: float | None = None
    keep_expires: bool = False
    when: tuple[Check, ...] = ()


class ConditionFailed(Exception):
    """A `Change` was not made because a check did not hold; `current` is the item as it stands."""

    def __init__(self, current: Item | None) -> None:
        super().__init__("a condition of the change did not hold")
        self.current = current


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some items of a partition in the order of their sort keys; `next` continues, None = end."""

    items: Sequence[Item]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """What a store takes: items a `put` or `delete`, keys a `get`, bytes an item."""

    put: int
    get: int
    item: int
    billed: bool = True


class BackendDriver(Protocol):
    """One table with expiry and atomic updates. Every method is safe to call from many threads."""

    limits: StoreLimits

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        """Write whole items, whatever was there."""
        ...

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        """Read items; a missing or expired one is simply not in the answer."""
        ...

    def update(self, key: Key, change: Change) -> Item:
        """Change one item atomically and return it as it now is. Raises `ConditionFailed`."""
        ...

    def query(self, partition: str, *, after: str | None, limit: int) -> Page: ...

    def delete(self, keys: Sequence[Key]) -> Sequence[Failure]: ...

    def error_code(self, error: Exception) -> Code: ...

    def close(self) -> None: ...


@runtime_checkable
class VirtualTime(Protocol):
    """A broker or a store that can go by a clock of the caller's; a driver may have it too."""

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Go by `clock` (epoch seconds) from now on, and wake who waits to look at it.

        Call it again when that clock was moved by hand.
        """
        ...

    def next_due(self) -> float:
        """When the next message that waits, or is leased, can be received; inf for never."""
        ...


@runtime_checkable
class StoreAdmin(Protocol):
    """What an operator does to the store; a backend driver may have it too."""

    def create_store(self) -> None:
        """Make the table (or what the service calls it). An existing one is left as it is."""
        ...

    def check_store(self) -> None:
        """Raise the SDK's own error when the table is missing or out of reach."""
        ...


@runtime_checkable
class Sweeping(Protocol):
    """A store whose expired items go only when they are told to; a backend driver may be one."""

    def sweep(self) -> int:
        """Delete what has expired; how many items that were. What is in use is left alone."""
        ...


@runtime_checkable
class Watch(Protocol):
    """A store that wakes its readers, so that waiting for a result needs no polling."""

    def watch(self) -> Watcher: ...


class Watcher(Protocol):
    """A standing ear on a store. Open it, read the items, then wait: no change is missed."""

    def wait(self, timeout: float) -> bool:
        """Block until something was written since the last wait; False when `timeout` passed."""
        ...

    def close(self) -> None: ...
