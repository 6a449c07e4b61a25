"""Moves messages in batches: checks them, sends them, and then deletes them at the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloudq.broker.migration.compatibility import Compatibility
from cloudq.broker.migration.endpoint import OF_THE_MESSAGE, UNSURE, Endpoint
from cloudq.broker.migration.journal import Entry, Journal
from cloudq.broker.migration.records import note_handles
from cloudq.broker.migration.report import Moved
from cloudq.broker.migration.scan import Leases
from cloudq.driver import Delivery, Failure, Outgoing, Scheduled
from cloudq.errors import BrokerError
from cloudq.results.backend import Backend

_BEHIND = "comes after one of its group that stays"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A message on its way."""

    entry: Entry
    origin: Delivery | Scheduled
    outgoing: Outgoing


@dataclass(slots=True, kw_only=True)
class Mover:
    """Moves messages of one queue from `source` to `target`; each step is journaled first.

    `reasons` has the reason of each message that stays, `taken_back` the handles of delayed
    messages that were deleted at the source, and `sent` the number of those sent in this run.
    """

    source: Endpoint
    target: Endpoint
    journal: Journal
    fit: Compatibility
    moved: Moved
    backend: Backend | None
    told: Callable[[], None]
    sent: int = 0
    reasons: dict[Entry, str] = field(default_factory=dict[Entry, str])
    taken_back: set[str] = field(default_factory=set[str])
    _stuck: set[str] = field(default_factory=set[str])

    @property
    def queue(self) -> str:
        return self.moved.queue

    def judged(
        self, origin: Delivery | Scheduled, entry: Entry, *, due: float = 0.0, place: str = ""
    ) -> list[Item]:
        """Return the message as an item to move, or an empty list if it stays."""
        verdict = self.fit.judge(entry, origin.body, group=origin.group, due=due, place=place)
        if isinstance(verdict, Outgoing) and verdict.group in self._stuck:
            verdict = _BEHIND
        if isinstance(verdict, str):
            self._leave(entry, verdict, origin.group)
            return []
        return [Item(entry=entry, origin=origin, outgoing=verdict)]

    def _leave(self, entry: Entry, reason: str, group: str | None) -> None:
        if group is not None:
            self._stuck.add(group)
        # The same message may be recorded as it was listed, before it came due.
        listed = self.reasons.pop(entry.listed, None)
        self.reasons[entry] = reason
        if listed is None:
            self.moved.left[reason] += 1
            self.told()

    def carry(self, items: Sequence[Item], leases: Leases | None = None) -> None:
        """Send messages in batches that the target takes, and delete them at the source."""
        limits = self.target.broker.limits(self.moved.target)
        batch: list[Item] = []
        size = 0
        for item in items:
            length = len(item.outgoing.body)
            if batch and (len(batch) == limits.batch or size + length > limits.batch_body):
                self._carry_batch(batch, leases)
                batch, size = [], 0
            # The target refused an earlier message of its group: this one would be out of order.
            if item.outgoing.group in self._stuck:
                self._leave(item.entry, _BEHIND, item.outgoing.group)
                continue
            batch.append(item)
            size += length
        if batch:
            self._carry_batch(batch, leases)

    def _carry_batch(self, batch: Sequence[Item], leases: Leases | None) -> None:
        entries = [item.entry for item in batch]
        self.journal.sending(self.queue, entries, delayed=leases is None)
        answers = self.target.send(self.moved.target, [item.outgoing for item in batch])
        pairs = list(zip(batch, answers, strict=True))
        refused = [(item, answer) for item, answer in pairs if isinstance(answer, Failure)]
        sent = [(item, answer) for item, answer in pairs if isinstance(answer, str)]
        self.journal.answered(
            self.queue,
            sent=[item.entry for item, _ in sent],
            refused=[item.entry for item, failure in refused if failure.code not in UNSURE],
        )
        if self.backend is not None:
            moves = [(i.origin, handle) for i, handle in sent if isinstance(i.origin, Scheduled)]
            note_handles(self.backend, self.queue, self.moved.target, moves)
        self.sent += len(sent)
        self.moved.moved += len(sent)
        self.moved.delayed += len(sent) if leases is None else 0
        self._delete([item for item, _ in sent], leases)
        self.told()
        for item, failure in refused:
            if failure.code not in OF_THE_MESSAGE:
                raise BrokerError(
                    f"cannot send to {self.moved.target!r} on {self.target.url}: {failure.reason}",
                    code=failure.code,
                )
            self._leave(item.entry, f"refused: {failure.reason}", item.outgoing.group)

    def _delete(self, items: Sequence[Item], leases: Leases | None) -> None:
        if leases is not None:
            pairs = [(i.entry, i.origin) for i in items if isinstance(i.origin, Delivery)]
            self.ack(pairs, leases)
            return
        self.take_back([(i.entry, i.origin) for i in items if isinstance(i.origin, Scheduled)])

    # ---- deleting at the source

    def ack(self, messages: Sequence[tuple[Entry, Delivery]], leases: Leases) -> None:
        """Delete messages at the source; any that cannot be is deleted when it comes again."""
        if not messages:
            return
        deliveries = [delivery for _, delivery in messages]
        refused = {id(one.delivery) for one in self.source.broker.ack(deliveries)}
        leases.let_go(deliveries)
        self.journal.done(
            self.queue, [entry for entry, delivery in messages if id(delivery) not in refused]
        )

    def take_back(self, messages: Sequence[tuple[Entry, Scheduled]]) -> None:
        """Delete delayed messages at the source; those due meanwhile are acked when delivered."""
        if not messages:
            return
        handles = [message.handle for _, message in messages]
        failures = self.source.broker.unschedule(self.queue, handles)
        there = {failure.index for failure in failures}
        gone = [place for place in range(len(messages)) if place not in there]
        self.taken_back.update(handles[place] for place in gone)
        self.journal.done(self.queue, [messages[place][0] for place in gone])
