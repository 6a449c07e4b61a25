"""The backend driver over items in memory."""

from __future__ import annotations

import math
import time
from bisect import bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from threading import Condition

from cloudq.driver import (
    Change,
    Code,
    ConditionFailed,
    Failure,
    Item,
    Key,
    Page,
    StoreLimits,
    Value,
)
from cloudq.driver.forks import HOLD, hold_while_forking, renew_after_fork
from cloudq_local.items import Fields, Refusal, changed, holds, size, stored

LIMITS = StoreLimits(put=256, get=256, item=16 << 20, billed=False, shared=False)

# How many writes go by between two sweeps of expired items.
SWEEP_EVERY = 256


class MemoryItems:
    """Items by partition and sort key, behind one condition that every write notifies."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.changed = Condition()
        self.writes = 0
        self._items: dict[Key, Item] = {}
        self._sorts: dict[str, list[str]] = {}
        hold_while_forking(self, MemoryItems._hold, MemoryItems._let_go)
        renew_after_fork(self, MemoryItems._in_child)

    def _hold(self) -> bool:
        return self.changed.acquire(timeout=HOLD)

    def _let_go(self) -> None:
        self.changed.release()

    def _in_child(self) -> None:
        """Keep the items as they were; whoever held the lock is not in this process."""
        self.changed = Condition()

    def find(self, key: Key) -> Item | None:
        """Return the item unless it is missing or expired. Needs the lock."""
        item = self._items.get(key)
        if item is None or (item.expires is not None and item.expires <= self.clock()):
            return None
        return item

    def write(self, item: Item) -> None:
        """Keep the item and wake the watchers. Needs the lock."""
        if item.key not in self._items:
            # Python compares strings by code point, which is the order of their UTF-8 too.
            insort(self._sorts.setdefault(item.key.partition, []), item.key.sort)
        self._items[item.key] = item
        self.writes += 1
        if self.writes % SWEEP_EVERY == 0:
            self._sweep()
        self.changed.notify_all()

    def drop(self, key: Key) -> None:
        """Delete the item, if there is one. Needs the lock."""
        if self._items.pop(key, None) is None:
            return
        sorts = self._sorts[key.partition]
        del sorts[bisect_right(sorts, key.sort) - 1]
        if not sorts:
            del self._sorts[key.partition]

    def sorts(self, partition: str, after: str | None) -> Sequence[str]:
        """Return the sort keys of a partition behind `after`. Needs the lock."""
        sorts = self._sorts.get(partition, [])
        return sorts if after is None else sorts[bisect_right(sorts, after) :]

    def _sweep(self) -> None:
        now = self.clock()
        for key, item in list(self._items.items()):
            if item.expires is not None and item.expires <= now:
                self.drop(key)


class MemoryBackend:
    """A `BackendDriver` and `Watch` whose items live and die with the process."""

    limits = LIMITS

    def __init__(self, items: MemoryItems, *, on_close: Callable[[], None] | None = None) -> None:
        self._items = items
        self._on_close = on_close

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        """Write whole items; one that is over the limit is a `Failure`."""
        failures: list[Failure] = []
        with self._items.changed:
            for index, item in enumerate(items):
                try:
                    fields = _sized(stored(item.fields))
                except Refusal as error:
                    failures.append(Failure(index=index, code=error.code, reason=str(error)))
                    continue
                self._items.write(Item(key=item.key, fields=fields, expires=item.expires))
        return failures

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        """Read items, always as they are now."""
        with self._items.changed:
            found = {key: self._items.find(key) for key in keys}
        return {key: item for key, item in found.items() if item is not None}

    def update(self, key: Key, change: Change) -> Item:
        """Change one item atomically and return it as it now is. Raises `ConditionFailed`."""
        with self._items.changed:
            current = self._items.find(key)
            fields: Mapping[str, Value] = current.fields if current else {}
            if not all(holds(check, fields) for check in change.when):
                raise ConditionFailed(current)
            kept = current.expires if current else None
            item = Item(
                key=key,
                fields=_sized(changed(fields, change)),
                expires=kept if change.keep_expires else change.expires,
            )
            self._items.write(item)
            return item

    def query(self, partition: str, *, after: str | None, limit: int) -> Page:
        """Return items in the order of their sort keys."""
        found: list[Item] = []
        with self._items.changed:
            for sort in self._items.sorts(partition, after):
                item = self._items.find(Key(partition, sort))
                if item is not None and len(found) == limit:
                    return Page(items=found, next=found[-1].key.sort)
                if item is not None:
                    found.append(item)
        return Page(items=found)

    def delete(self, keys: Sequence[Key]) -> Sequence[Failure]:
        """Delete items; one that is not there is deleted already."""
        with self._items.changed:
            for key in keys:
                self._items.drop(key)
        return ()

    def error_code(self, error: Exception) -> Code:
        """Return the code of a `Refusal`; this service has no other error."""
        return error.code if isinstance(error, Refusal) else Code.UNKNOWN

    def close(self) -> None:
        """Leave the shared state."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Use this clock from now on, for all that share the items."""
        with self._items.changed:
            self._items.clock = clock
            self._items.changed.notify_all()

    def next_due(self) -> float:
        """Return `inf`, as items never become due."""
        return math.inf

    def watch(self) -> MemoryWatcher:
        """Return a listener that is woken by every write from now on."""
        return MemoryWatcher(self._items)


class MemoryWatcher:
    """Notices writes by their count."""

    def __init__(self, items: MemoryItems) -> None:
        self._items = items
        self._heard = items.writes
        self._woken = False

    def wait(self, timeout: float) -> bool:
        """Block until something was written since the last wait; False when `timeout` passed."""
        with self._items.changed:
            written = self._items.changed.wait_for(self._is_told, timeout)
            self._heard = self._items.writes
            self._woken = False
            return written

    def wake(self) -> None:
        """End the wait of another thread, or the next one."""
        with self._items.changed:
            self._woken = True
            self._items.changed.notify_all()

    def _is_told(self) -> bool:
        return self._woken or self._items.writes != self._heard

    def close(self) -> None:
        """Do nothing: there are no resources to release."""


def _sized(fields: Fields) -> Fields:
    if size(fields) > LIMITS.item:
        raise Refusal(f"an item of over {LIMITS.item} bytes", code=Code.TOO_LARGE)
    return fields
