"""Finds messages in a queue without removing any."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from threading import Event

from cloudq.broker.migration.endpoint import Endpoint
from cloudq.broker.migration.journal import Entry, digest
from cloudq.driver import Code, Delivery

Content = tuple[str, bytes]

_EVERYTHING = 10_000_000
# The longest lease, in seconds: a run after a kill waits for no longer than that.
_LONGEST = 900.0
# Messages that are leased and released in a second, at the least.
_SEEN_A_SECOND = 200


class Interrupted(Exception):
    """Raised when the user asked to stop."""


class Leases:
    """Deliveries held for a while: their leases are extended in time, and released at the end."""

    def __init__(
        self,
        side: Endpoint,
        queue: str,
        lease: float,
        note: Callable[[float], None],
        *,
        others_until: float = 0.0,
    ) -> None:
        self._held: dict[Entry, Delivery] = {}
        self._others_until = others_until
        self._side, self._queue, self._note = side, queue, note
        self.lease = side.broker.lease(queue, lease)
        self._noted = 0.0
        self._extend_at = 0.0
        self._lengthen_at = 0.0

    def receive(self, wait: float, count: int) -> list[Delivery]:
        """Receive and hold messages; the end of the lease is journaled first, in case of a kill."""
        self.keep()
        now = time.time()
        self._announce(now + wait + self.lease)
        found = self._side.broker.receive(self._queue, count=count, wait=wait, lease=self.lease)
        if found:  # a driver may give a shorter lease than was asked for
            due = now + min(self.lease, *(delivery.lease for delivery in found)) / 3
            self._extend_at = min(self._extend_at, due) if self._held else due
        entries = [Entry.of(delivery) for delivery in found]
        again = any(entry in self._held for entry in entries)
        self._held |= zip(entries, found, strict=True)
        if again:
            self._lengthen(now)
        return list(found)

    def keep(self) -> None:
        """Extend all leases when a third of their time has passed."""
        now = time.time()
        if not self._held or now < self._extend_at:
            return
        held, refused = list(self._held.values()), 0
        size = self._side.broker.limits(self._queue).batch
        for start in range(0, len(held), size):
            # Extending many takes a while, and each lease counts from its own extension.
            self._announce(time.time() + self.lease)
            lost = self._side.broker.extend(held[start : start + size], lease=self.lease)
            self.let_go([one.delivery for one in lost])
            refused += len(lost)
        self._extend_at = now + self.lease / 3
        if refused:
            self._lengthen(now)

    def _lengthen(self, now: float) -> None:
        """Use longer leases: some ended before they were extended, as there are too many."""
        if now > self._lengthen_at:
            self.lease = self._side.broker.lease(self._queue, min(self.lease * 2, _LONGEST))
            self._lengthen_at = now + self.lease

    def _announce(self, until: float) -> None:
        if until > self._noted:
            # A little more than needed, so that not every receive has to write to the disk.
            self._noted = max(until + self.lease / 4, self._others_until)
            self._note(self._noted)

    def let_go(self, deliveries: Collection[Delivery]) -> None:
        """Hold messages no longer, as they are settled or lost."""
        for delivery in deliveries:
            self._held.pop(Entry.of(delivery), None)

    def give_back(self) -> None:
        """Release all messages that are held."""
        refused = self._side.broker.release(list(self._held.values()))
        self._held = {}
        if all(one.code is Code.LEASE_LOST for one in refused):
            self._note(self._others_until)


def patience(side: Endpoint, queue: str) -> tuple[int, float]:
    """Return how many empty receives in a row are the end of a queue, and how long each waits.

    A cloud's queue is spread over many servers, and one answer comes from some of them.
    """
    limits = side.broker.limits(queue)
    return (3, max(limits.min_wait, 1.0)) if limits.billed else (1, limits.min_wait)


def find(
    side: Endpoint,
    queue: str,
    wanted: Collection[Entry],
    *,
    lease: float,
    note: Callable[[float], None],
    stop: Event,
) -> set[Entry]:
    """Return those of the messages that are in the queue. Raises `Interrupted`.

    Where a service shows messages only by leasing them, all messages seen are held until the end,
    or until the last wanted one was seen, and then released. That counts as a delivery of each.
    """
    missing = {entry.content: entry for entry in wanted}
    found: set[Entry] = set()

    def seen(content: Content) -> None:
        if content in missing:
            found.add(missing.pop(content))

    # A delayed message that comes due meanwhile is found by the second look.
    for message in side.delayed(queue):
        seen((message.id, digest(message.body)))
    if not missing:
        return found
    if side.peeks:
        with side.broker.asking("look into", queue) as admin:
            for peeked in admin.peek(queue, count=_EVERYTHING):
                seen((peeked.id, digest(peeked.body)))
        return found
    stats = side.stats(queue)
    # Long enough to see the whole queue, so that nothing has to be received twice.
    enough = min(lease + ((stats.ready if stats else 0) or 0) / _SEEN_A_SECOND, _LONGEST)
    leases = Leases(side, queue, enough, note)
    try:
        _look(leases, patience(side, queue), side.broker.limits(queue).batch, missing, seen, stop)
    except Exception:
        leases.give_back()
        raise
    leases.give_back()
    return found


def _look(
    leases: Leases,
    patience: tuple[int, float],
    batch: int,
    missing: Collection[Content],
    seen: Callable[[Content], None],
    stop: Event,
) -> None:
    ends, wait = patience
    empty = 0
    while missing and empty < ends:
        if stop.is_set():
            raise Interrupted
        deliveries = leases.receive(wait, batch)
        for delivery in deliveries:
            seen((delivery.id, digest(delivery.body)))
        # Repeated deliveries do not show that all was seen: only empty receives do.
        empty = 0 if deliveries else empty + 1
