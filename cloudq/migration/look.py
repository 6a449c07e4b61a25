"""Finds out which messages are in a queue, without changing what is in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from threading import Event

from cloudq.driver import Code, Delivery
from cloudq.migration.journal import Entry, digest
from cloudq.migration.side import Side

Content = tuple[str, bytes]

_EVERYTHING = 10_000_000


class Interrupted(Exception):
    """Somebody asked to stop."""


class Leases:
    """Deliveries that are held for a while: extended in time, and given back in the end."""

    def __init__(
        self,
        side: Side,
        queue: str,
        lease: float,
        note: Callable[[float], None],
        *,
        others_until: float = 0.0,
    ) -> None:
        self.held: list[Delivery] = []
        self._others_until = others_until
        self._side, self._queue, self._note = side, queue, note
        self.lease = side.broker.lease(queue, lease)
        self._noted = 0.0
        self._extend_at = 0.0

    def receive(self, wait: float, count: int) -> list[Delivery]:
        """Receive and hold. First it is noted until when: a killed process cannot say so."""
        self.keep()
        now = time.time()
        self._announce(now + wait + self.lease)
        found = self._side.broker.receive(self._queue, count=count, wait=wait, lease=self.lease)
        if found and not self.held:
            self._extend_at = now + self.lease / 3
        self.held += found
        return list(found)

    def keep(self) -> None:
        """Extend all, when a third of their time has passed."""
        now = time.time()
        if not self.held or now < self._extend_at:
            return
        self._announce(now + self.lease)
        refused = self._side.broker.extend(self.held, lease=self.lease)
        self.let_go([one.delivery for one in refused])
        self._extend_at = now + self.lease / 3

    def _announce(self, until: float) -> None:
        if until > self._noted:
            # A little longer, so that not every receive has to wait for the disk.
            self._noted = max(until + self.lease / 4, self._others_until)
            self._note(self._noted)

    def let_go(self, deliveries: Collection[Delivery]) -> None:
        """Hold these no longer, as they are settled or lost."""
        gone = {id(delivery) for delivery in deliveries}
        self.held = [delivery for delivery in self.held if id(delivery) not in gone]

    def give_back(self) -> None:
        """Release all."""
        refused = self._side.broker.release(self.held)
        self.held = []
        if all(one.code is Code.LEASE_LOST for one in refused):
            self._note(self._others_until)


def patience(side: Side, queue: str) -> tuple[int, float]:
    """How many empty receives in a row are the end of a queue, and how long each waits.

    A cloud's queue is many servers, and one answer speaks for some of them.
    """
    limits = side.broker.limits(queue)
    return (3, max(limits.min_wait, 1.0)) if limits.billed else (1, limits.min_wait)


def find(
    side: Side,
    queue: str,
    wanted: Collection[Entry],
    *,
    lease: float,
    note: Callable[[float], None],
    stop: Event,
) -> set[Entry]:
    """Which of the messages are in the queue. Raises `Interrupted`.

    Where a service shows messages only by leasing them, all that were seen are held until the end
    or the last wanted one was seen, and then given back: a delivery of each.
    """
    missing = {entry.content: entry for entry in wanted}
    found: set[Entry] = set()

    def seen(content: Content) -> None:
        if content in missing:
            found.add(missing.pop(content))

    # A delayed message that comes due meanwhile is in the second look.
    for message in side.delayed(queue):
        seen((message.id, digest(message.body)))
    if not missing:
        return found
    if side.peeks:
        with side.broker.asking("look into", queue) as admin:
            for peeked in admin.peek(queue, count=_EVERYTHING):
                seen((peeked.id, digest(peeked.body)))
        return found
    leases = Leases(side, queue, lease, note)
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
    known: set[tuple[str, bytes, float | None]] = set()
    empty = 0
    while missing and empty < ends:
        if stop.is_set():
            raise Interrupted
        fresh = False
        for delivery in leases.receive(wait, batch):
            key = (delivery.id, digest(delivery.body), delivery.sent_at)
            fresh = fresh or key not in known
            known.add(key)
            seen(key[:2])
        empty = 0 if fresh else empty + 1
