"""One queue in memory: its messages, leases, groups and dead letters, behind one condition."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Condition
from typing import cast

from cloudq.driver import Code, Delivery, Failure, Outgoing, Peeked, QueueStats, Scheduled

DEDUP_WINDOW = 300.0
# A clock that is set right by less than this hides nothing for long.
_SLACK = 5.0


@dataclass(slots=True, kw_only=True)
class _Message:
    seq: int
    outgoing: Outgoing
    sent_at: float
    visible_at: float
    attempts: int = 0
    token: int = 0  # of the present lease; 0 = not leased
    reason: str | None = None


def _from_one() -> Iterator[int]:
    return itertools.count(1)


@dataclass(slots=True, kw_only=True)
class MemoryQueue:
    """Messages in the order in which they can be received. Every method is thread safe.

    `due` is a heap of (visible_at, seq); an entry that no longer agrees with its message is stale.
    Of a group only the first message is in the heap: the others become due when it is gone.
    """

    name: str
    clock: Callable[[], float]
    known: bool = False
    max_deliveries: int = 0  # 0 = no limit
    messages: dict[int, _Message] = field(default_factory=dict[int, _Message])
    due: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    groups: dict[str, deque[int]] = field(default_factory=dict[str, deque[int]])
    dead: dict[int, _Message] = field(default_factory=dict[int, _Message])
    seen: dict[str, float] = field(default_factory=dict[str, float])
    numbers: Iterator[int] = field(default_factory=_from_one)
    changed: Condition = field(default_factory=Condition)
    latest: float = 0.0  # the time of the last look

    def send(self, messages: Sequence[Outgoing]) -> list[int]:
        """Add the messages, except those whose dedup key was seen within the window.

        Returns each one's number, 0 for one that was kept out.
        """
        with self.changed:
            self.known = True
            now = self.clock()
            numbers = [0 if self._duplicate(m, now) else self._add(m, now) for m in messages]
            self.changed.notify_all()
            return numbers

    def unschedule(self, seq: int) -> bool:
        """Delete a message whose time has not come; False when there is none of that number."""
        with self.changed:
            message = self.messages.get(seq)
            if message is None or not _waits(message, self.clock()):
                return False
            self._remove(message)
            return True

    def scheduled(self, count: int, after: int) -> list[Scheduled]:
        """Look at the first messages above a number whose times have not come."""
        with self.changed:
            now = self.clock()
            waiting = (m for m in self.messages.values() if m.seq > after and _waits(m, now))
            return [_scheduled(message) for message in itertools.islice(waiting, count)]

    def receive(self, count: int, wait: float, lease: float) -> list[Delivery]:
        """Lease up to `count` messages, waiting up to `wait` seconds for the first."""
        deadline = time.monotonic() + wait
        with self.changed:
            self.known = True
            while not (taken := self._take(count, lease)):
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                self.changed.wait(min(left, max(self._next_due() - self.clock(), 0.0)))
            return taken

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Use this clock from now on, and wake those who wait for a time."""
        with self.changed:
            self.clock = clock
            self.latest = 0.0
            self.changed.notify_all()

    def next_due(self) -> float:
        """Return when the next message can be received, `inf` for never."""
        with self.changed:
            return self._next_due()

    def ack(self, delivery: Delivery) -> bool:
        """Delete the message; False when its lease was lost."""
        with self.changed:
            message = self._held(delivery)
            if message is not None:
                self._remove(message)
            return message is not None

    def move(self, delivery: Delivery, seconds: float, *, release: bool) -> bool:
        """Make the message receivable `seconds` from now; False when its lease was lost."""
        with self.changed:
            message = self._held(delivery)
            if message is None:
                return False
            if release:
                message.token = 0
            self._schedule(message, self.clock() + seconds)
            return True

    def dead_letter(self, delivery: Delivery, reason: str) -> bool:
        """Move the message to the dead letters; False when its lease was lost."""
        with self.changed:
            message = self._held(delivery)
            if message is not None:
                self._bury(message, reason)
            return message is not None

    def add_dead(self, delivery: Delivery, reason: str) -> None:
        """Put a new message among the dead letters."""
        with self.changed:
            now = self.clock()
            outgoing = Outgoing(id=delivery.id, body=delivery.body, group=delivery.group)
            seq = next(self.numbers)
            self.dead[seq] = _Message(
                seq=seq,
                outgoing=outgoing,
                sent_at=now,
                visible_at=math.inf,
                attempts=delivery.attempts,
                reason=reason,
            )

    def stats(self) -> QueueStats:
        """Count the messages."""
        with self.changed:
            now = self.clock()
            leased = sum(m.token != 0 and m.visible_at > now for m in self.messages.values())
            delayed = sum(
                m.token == 0 and now < m.visible_at < math.inf for m in self.messages.values()
            )
            ages = [now - m.sent_at for m in self.messages.values()]
            return QueueStats(
                queue=self.name,
                ready=len(self.messages) - leased - delayed,
                delayed=delayed,
                leased=leased,
                dead=len(self.dead),
                oldest_age=max(ages, default=None),
                exact=True,
            )

    def peek(self, count: int) -> list[Peeked]:
        """Look at the first messages that are not leased."""
        with self.changed:
            now = self.clock()
            free = (m for m in self.messages.values() if not m.token or m.visible_at <= now)
            return [_peeked(message) for message in itertools.islice(free, count)]

    def peek_dead(self, count: int) -> list[Peeked]:
        """Look at the first dead letters."""
        with self.changed:
            return [_peeked(message) for message in itertools.islice(self.dead.values(), count)]

    def purge(self) -> int:
        """Delete every message, leased or not, and return how many there were."""
        with self.changed:
            count = len(self.messages)
            self.messages.clear()
            self.due.clear()
            self.groups.clear()
            return count

    def purge_dead(self) -> int:
        """Delete every dead letter and return how many there were."""
        with self.changed:
            count = len(self.dead)
            self.dead.clear()
            return count

    def take_dead(self, messages: Sequence[Peeked], *, redrive: bool) -> list[Failure]:
        """Delete the dead letters, or with `redrive` send them again."""
        failures: list[Failure] = []
        with self.changed:
            for index, peeked in enumerate(messages):
                message = self.dead.pop(cast("int", peeked.handle), None)
                if message is None:
                    reason = "it is no longer among the dead letters"
                    failures.append(Failure(index=index, code=Code.NOT_FOUND, reason=reason))
                elif redrive:
                    # Its delay, if it had one, was over before it died.
                    self._add(replace(message.outgoing, delay=0.0), self.clock())
            self.changed.notify_all()
        return failures

    def _duplicate(self, message: Outgoing, now: float) -> bool:
        if message.dedup is None:
            return False
        if self.seen.get(message.dedup, 0.0) > now:
            return True
        # Keys stand in the order of their times, so that the old ones are at the front.
        while self.seen and next(iter(self.seen.values())) <= now:
            del self.seen[next(iter(self.seen))]
        self.seen[message.dedup] = now + DEDUP_WINDOW
        return False

    def _add(self, outgoing: Outgoing, now: float) -> int:
        message = _Message(
            seq=next(self.numbers), outgoing=outgoing, sent_at=now, visible_at=math.inf
        )
        self.messages[message.seq] = message
        if outgoing.group is not None:
            members = self.groups.setdefault(outgoing.group, deque())
            members.append(message.seq)
            if len(members) > 1:
                # Its time counts once it is the first of its group.
                return message.seq
        self._schedule(message, _time(message))
        return message.seq

    def _schedule(self, message: _Message, at: float) -> None:
        message.visible_at = at
        heapq.heappush(self.due, (at, message.seq))
        self.changed.notify_all()

    def _next_due(self) -> float:
        while self.due:
            at, seq = self.due[0]
            message = self.messages.get(seq)
            if message is not None and message.visible_at == at:
                return at
            heapq.heappop(self.due)
        return math.inf

    def _take(self, count: int, lease: float) -> list[Delivery]:
        now = self.clock()
        if now < self.latest - _SLACK:
            self._set_back(self.latest - now)
        self.latest = now
        taken: list[_Message] = []
        while len(taken) < count and self._next_due() <= now:
            message = self.messages[heapq.heappop(self.due)[1]]
            if self.max_deliveries and message.attempts >= self.max_deliveries:
                self._bury(message, f"received {message.attempts} times")
                continue
            message.visible_at = math.inf
            taken.append(message)
        for message in taken:
            message.token = next(self.numbers)
            message.attempts += 1
            self._schedule(message, now + lease)
        return [self._delivery(message, lease) for message in taken]

    def _set_back(self, by: float) -> None:
        """Move all times back with the clock, which else would hide what waits."""
        for message in self.messages.values():
            message.sent_at -= by
            message.visible_at -= by
        self.seen = {key: until - by for key, until in self.seen.items()}
        self.due = [(at - by, seq) for at, seq in self.due]

    def _delivery(self, message: _Message, lease: float) -> Delivery:
        return Delivery(
            queue=self.name,
            id=message.outgoing.id,
            body=message.outgoing.body,
            receipt=(message.seq, message.token),
            attempts=message.attempts,
            lease=lease,
            group=message.outgoing.group,
            sent_at=message.sent_at,
        )

    def _held(self, delivery: Delivery) -> _Message | None:
        seq, token = cast("tuple[int, int]", delivery.receipt)
        message = self.messages.get(seq)
        return message if message is not None and message.token == token else None

    def _bury(self, message: _Message, reason: str) -> None:
        self._remove(message)
        message.reason = reason
        self.dead[message.seq] = message

    def _remove(self, message: _Message) -> None:
        del self.messages[message.seq]
        group = message.outgoing.group
        if group is None:
            return
        members = self.groups[group]
        first = members[0] == message.seq
        members.remove(message.seq)
        if not members:
            del self.groups[group]
        elif first:
            following = self.messages[members[0]]
            self._schedule(following, _time(following))


def _time(message: _Message) -> float:
    return message.sent_at + message.outgoing.delay


def _waits(message: _Message, now: float) -> bool:
    """Tell whether the message was sent with a delay that is not over yet."""
    return message.attempts == 0 and _time(message) > now


def _scheduled(message: _Message) -> Scheduled:
    return Scheduled(
        handle=str(message.seq),
        id=message.outgoing.id,
        body=message.outgoing.body,
        due=_time(message),
        group=message.outgoing.group,
    )


def _peeked(message: _Message) -> Peeked:
    return Peeked(
        id=message.outgoing.id,
        body=message.outgoing.body,
        attempts=message.attempts,
        handle=message.seq,
        sent_at=message.sent_at,
        reason=message.reason,
    )
