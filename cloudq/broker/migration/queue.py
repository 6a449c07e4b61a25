"""Moves one queue: its delayed messages, then those that are ready, until none is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event

from cloudq.broker.migration.endpoint import Endpoint, total
from cloudq.broker.migration.journal import Entry, Journal, Step
from cloudq.broker.migration.leftovers import unseen
from cloudq.broker.migration.mover import Item, Mover
from cloudq.broker.migration.report import Moved
from cloudq.broker.migration.scan import Interrupted, Leases, find, patience
from cloudq.driver import Delivery, Scheduled

# Messages to receive at a time: few enough to be moved long before their leases end.
_AT_A_TIME = 100
# Messages that are due within so many seconds are left to be delivered.
_SOON = 1.0
# The end is assumed after so many batches of only messages that stay, with leases that ended.
_KNOWN_IN_A_ROW = 1_000


class LimitReached(Exception):
    """Raised when as many messages were moved as the limit allows."""


@dataclass(slots=True, kw_only=True)
class QueueMove:
    """Moves one queue: finds its messages, and gives them to the mover.

    `limit` is how many messages may still be moved, None for all. `say` is called with messages
    for the user.
    """

    mover: Mover
    lease: float
    wait: bool
    stop: Event
    limit: int | None
    say: Callable[[str], None]
    _waited: bool = False

    @property
    def queue(self) -> str:
        return self.mover.queue

    @property
    def source(self) -> Endpoint:
        return self.mover.source

    @property
    def target(self) -> Endpoint:
        return self.mover.target

    @property
    def journal(self) -> Journal:
        return self.mover.journal

    @property
    def moved(self) -> Moved:
        return self.mover.moved

    def run(self) -> None:
        """Move all that can be moved. Raises `BrokerError` and `Interrupted`: then run it again."""
        self._count()
        self.moved.earlier = self.moved.moved
        self._resolve()
        self._count()
        # Messages found in the target were sent by the run that was killed.
        self.moved.earlier = self.moved.moved
        others_until = self.journal.held_until(self.queue, "source")
        leases = Leases(
            self.source,
            self.queue,
            self.lease,
            self._note_held("source"),
            others_until=others_until,
        )
        try:
            while True:
                before = self.mover.sent
                soon = self._move_delayed()
                others_until = self._move_ready(leases, others_until)
                if not soon and self.mover.sent == before and not self._more_to_come():
                    break
        except LimitReached:
            self._end(leases)
            if total(self.source.stats(self.queue)) != 0:
                return
        except Exception:
            self._end(leases)
            raise
        else:
            self._end(leases)
        self._audit()

    def _end(self, leases: Leases) -> None:
        """Release the messages that are held, and count those that stay."""
        leases.give_back()
        self._count()

    # ---- after a kill

    def _resolve(self) -> None:
        """Find out whether the messages that were being sent are in the target."""
        unsure, oldest = self.journal.unsure(self.queue)
        if not unsure:
            return
        self._wait_until(self.journal.held_until(self.queue, "target"))
        target = self.moved.target
        self.say(
            f"{self.queue}: looks for {len(unsure)} messages of an interrupted batch in {target!r}"
            + ("" if self.target.peeks else "; it leases what is there for that, and gives it back")
        )
        found = find(
            self.target,
            target,
            unsure,
            lease=self.lease,
            note=self._note_held("target"),
            stop=self.stop,
        )
        gone = set(unsure) - found
        self.moved.uncertain += self._hidden(len(gone), oldest)
        self.journal.answered(self.queue, sent=found, refused=gone)

    def _hidden(self, missing: int, oldest: float) -> int:
        """Return how many of the messages that were not found could be in the target anyway."""
        side, queue = self.target, self.moved.target
        limits, stats = side.broker.limits(queue), side.stats(queue)
        # The target drops by itself what it received from us not long ago.
        safe = time.time() + self.lease - oldest < limits.dedup_window
        if not missing or safe:
            return 0
        if stats is not None and stats.leased:
            why = f"{stats.leased} messages of {queue!r} are being worked on"
        elif limits.ordered and not side.peeks:
            why = f"of a group in {queue!r} only the first messages can be seen"
        else:
            return 0
        self.say(f"{self.queue}: {why}, so up to {missing} may be sent again, with the same ids")
        return missing

    def _wait_until(self, moment: float) -> None:
        left = moment - time.time()
        if left <= 0:
            return
        self.say(f"{self.queue}: waits {left:.0f} s for the leases of the interrupted run to end")
        if self.stop.wait(left):
            raise Interrupted

    def _note_held(self, side: str) -> Callable[[float], None]:
        return partial(self.journal.hold, self.queue, side)

    # ---- delayed messages

    def _listed(self) -> bool:
        if not self.source.lists(self.queue):
            return False
        # Both brokers keep delayed messages in one place: there is nothing to move.
        return not (
            self.source.broker.stores_delayed(self.queue)
            and self.target.broker.stores_delayed(self.moved.target)
            and self.queue == self.moved.target
        )

    def _move_delayed(self) -> bool:
        """Move delayed messages; return whether some were left, as they are due soon."""
        if not self._listed():
            return False
        after: str | None = None
        soon = False
        while page := self.source.broker.scheduled(self.queue, count=self._size(), after=after):
            self._check()
            fresh = [message for message in page if message.handle not in self.mover.taken_back]
            soon = self._handle_delayed(fresh) or soon
            after = page[-1].handle
        if soon:
            self.stop.wait(_SOON / 10)
        return soon

    def _handle_delayed(self, page: Sequence[Scheduled]) -> bool:
        soon = False
        entries = [Entry.of(message) for message in page]
        steps = self.journal.steps(self.queue, entries)
        again: list[tuple[Entry, Scheduled]] = []
        items: list[Item] = []
        for message, entry, step in zip(page, entries, steps, strict=True):
            if step is Step.SENT:
                again.append((entry, message))
            elif message.due > time.time() + _SOON:
                items += self.mover.judged(message, entry, due=message.due, place=message.handle)
            else:
                soon = True
        self.mover.take_back(again)
        self.mover.carry(items)
        return soon

    # ---- ready messages

    def _move_ready(self, leases: Leases, others_until: float) -> float:
        """Move messages until none is received any more; those that stay are held until then."""
        ends, wait = patience(self.source, self.queue)
        empty = known = 0
        while empty < ends and known < _KNOWN_IN_A_ROW:
            self._check()
            # There may be more messages, leased by a run that was killed.
            waits = others_until > time.time()
            deliveries = leases.receive(max(wait, 0.2) if waits else wait, self._size())
            if deliveries:
                known = 0 if self._handle_ready(deliveries, leases) else known + 1
                empty = 0
            elif not waits or self._none_leased():
                empty, others_until = empty + 1, 0.0
        return others_until

    def _none_leased(self) -> bool:
        stats = self.source.stats(self.queue)
        return stats is not None and stats.exact and not stats.leased and not stats.ready

    def _handle_ready(self, deliveries: Sequence[Delivery], leases: Leases) -> bool:
        """Move a batch; return whether it had a message that is not known to stay."""
        entries = [Entry.of(delivery) for delivery in deliveries]
        steps = self.journal.steps(self.queue, entries)
        again: list[tuple[Entry, Delivery]] = []
        items: list[Item] = []
        fresh = any(entry not in self.mover.reasons for entry in entries)
        for delivery, entry, step in zip(deliveries, entries, steps, strict=True):
            if step is not None:
                again.append((entry, delivery))
            elif entry not in self.mover.reasons:
                items += self.mover.judged(delivery, entry)
        self.moved.repeats += len(again)
        self.mover.ack(again, leases)
        self.mover.carry(items, leases)
        return fresh

    # ---- both

    def _size(self) -> int:
        """Return how many messages to receive at a time."""
        sides = ((self.source, self.queue), (self.target, self.moved.target))
        size = min(_AT_A_TIME, *(side.broker.limits(queue).batch for side, queue in sides))
        return size if self.limit is None else max(1, min(size, self.limit - self.mover.sent))

    def _check(self) -> None:
        if self.stop.is_set():
            raise Interrupted
        if self.limit is not None and self.mover.sent >= self.limit:
            raise LimitReached

    # ---- what is left

    def _more_to_come(self) -> bool:
        """Tell whether another round is needed: a delayed message is left, or waited for."""
        if self._listed():
            for message in self.source.delayed(self.queue):
                waits = message.handle not in self.mover.taken_back
                if waits and Entry.of(message) not in self.mover.reasons:
                    return True
        if not self.wait:
            return False
        stats = self.source.stats(self.queue)
        left = sum(1 for _ in self.source.delayed(self.queue)) if self._listed() else 0
        more = stats is not None and (stats.delayed or 0) > left
        if more:
            self._check()
            self.stop.wait(0.2)
        # The last of them may have come due after the last receive.
        last, self._waited = self._waited and not more, more
        return more or last

    def _count(self) -> None:
        self.moved.moved, self.moved.delayed = self.journal.count(self.queue)
        self.mover.told()

    def _audit(self) -> None:
        """Count the messages that are left, with the help of the service's counts."""
        self.moved.finished = True
        listed = sum(entry == entry.listed for entry in self.mover.reasons)
        self.moved.left += unseen(
            self.source, self.queue, listed=listed, known=len(self.mover.reasons), stop=self.stop
        )

    @property
    def settled(self) -> bool:
        """Tell whether nothing of this queue needs the journal any more.

        A message that is still leased may have been moved, and may be delivered again.
        """
        stats = self.source.stats(self.queue)
        return self.moved.finished and not (stats is not None and stats.leased)
