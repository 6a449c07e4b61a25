"""The protocol of a result store, and the values that cross it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from cloudq.driver.immutable import immutable
from cloudq.driver.values import Code, Failure, Value


class Key(NamedTuple):
    """The key of an item: `sort` orders the items of one `partition`."""

    partition: str
    sort: str = "-"


@immutable
class Item:
    """One stored item. `expires` is epoch seconds; an expired item is not there any more."""

    key: Key
    fields: Mapping[str, Value]
    expires: float | None = None


class Op(StrEnum):
    """The comparisons of a stored field with the value of a `Check`."""

    ABSENT = "absent"
    EXISTS = "exists"
    EQ = "="
    NE = "<>"
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    CONTAINS = "contains"  # the stored set has the value


@immutable
class Check:
    """One condition on one field; with `or_absent` it also holds where the field is absent."""

    field: str
    op: Op
    value: Value = None
    or_absent: bool = False


@immutable
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
    """Raised when a check of a `Change` does not hold; `current` is the item as stored."""

    def __init__(self, current: Item | None) -> None:
        super().__init__("a condition of the change did not hold")
        self.current = current


@immutable
class Page:
    """Some items of a partition in the order of their sort keys; `next` continues, None = end."""

    items: Sequence[Item]
    next: str | None = None


@immutable
class StoreLimits:
    """The limits of a store: items per `put` or `delete`, keys per `get`, bytes per item.

    `bills_kilobytes` says that a write of a few bytes costs as much as one of a kilobyte, and more
    than reads do: small records of calls made at one time are then written together.
    """

    put: int
    get: int
    item: int
    billed: bool = True
    bills_kilobytes: bool = False


class BackendDriver(Protocol):
    """One table with expiry and atomic updates. Every method is safe to call from many threads."""

    limits: StoreLimits

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        """Write whole items, in place of any there are."""
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
class ManyUpdates(Protocol):
    """A store that changes many items at the price of one; a backend driver may implement it."""

    def update_all(self, changes: Sequence[tuple[Key, Change]]) -> Sequence[Item | None]:
        """Change each item as `update` does, up to `limits.put`; None where a check did not hold.

        The changes of an error are not made, none of them.
        """
        ...


@runtime_checkable
class Watch(Protocol):
    """A store that wakes its readers, so that waiting for a result needs no polling."""

    def watch(self) -> Watcher: ...


class Watcher(Protocol):
    """A listener on a store. Open it, read the items, then wait: no change is missed."""

    def wait(self, timeout: float) -> bool:
        """Block until something was written since the last wait; False when `timeout` passed."""
        ...

    def wake(self) -> None:
        """End the wait of another thread, or the next one, as if something had been written."""
        ...

    def close(self) -> None: ...
