"""The broker driver over queues in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

from cloudq.driver import (
    FOREVER,
    Code,
    Delivery,
    Failure,
    Limits,
    Outgoing,
    Peeked,
    Purged,
    QueueStats,
    Scheduled,
)
from cloudq.driver.forks import renew_after_fork
from cloudq_local.items import Refusal
from cloudq_local.memory_queue import DEDUP_WINDOW, MemoryQueue

LIMITS = Limits(
    batch=256,
    body=16 << 20,
    batch_body=64 << 20,
    max_delay=FOREVER,
    max_lease=FOREVER,
    max_wait=3_600.0,
    ordered=True,
    dedup_window=DEDUP_WINDOW,
    billed=False,
)


class MemoryQueues:
    """Queues by name; each comes into being on first use."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = Lock()
        self._queues: dict[str, MemoryQueue] = {}
        renew_after_fork(self, MemoryQueues._in_child)

    def _in_child(self) -> None:
        """Begin empty: the messages are the parent's, which runs them."""
        self._lock = Lock()
        self._queues = {}

    def get(self, name: str) -> MemoryQueue:
        """Return the queue of that name."""
        with self._lock:
            if name not in self._queues:
                self._queues[name] = MemoryQueue(name=name, clock=self._clock)
            return self._queues[name]

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Make every queue use this clock, also those to come."""
        with self._lock:
            self._clock = clock
            queues = list(self._queues.values())
        for queue in queues:
            queue.keep_time(clock)

    def next_due(self) -> float:
        """Return when the next message of any queue can be received, `inf` for never."""
        with self._lock:
            queues = list(self._queues.values())
        return min((queue.next_due() for queue in queues), default=math.inf)

    def names(self) -> list[str]:
        """Return the names of the queues in use, in their order."""
        with self._lock:
            return sorted(name for name, queue in self._queues.items() if queue.known)


class MemoryBroker:
    """A `BrokerDriver`, `QueueAdmin` and `Scheduling` whose messages live with the process."""

    def __init__(self, queues: MemoryQueues, *, on_close: Callable[[], None] | None = None) -> None:
        self._queues = queues
        self._on_close = on_close

    def limits(self, queue: str) -> Limits:
        """Return the same limits for every queue."""
        return LIMITS

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Add messages; one whose body is over the limit is a `Failure`."""
        return [sent for sent in self.schedule(queue, messages) if isinstance(sent, Failure)]

    def schedule(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[str | Failure]:
        """Add messages; the handle of each, which names none if its dedup key kept it out."""
        fit = [message for message in messages if len(message.body) <= LIMITS.body]
        numbers = iter(self._queues.get(queue).send(fit))
        return [
            str(next(numbers))
            if len(message.body) <= LIMITS.body
            else Failure(
                index=i, code=Code.TOO_LARGE, reason=f"{len(message.body)} bytes in one body"
            )
            for i, message in enumerate(messages)
        ]

    def unschedule(self, queue: str, handles: Sequence[str]) -> Sequence[Failure]:
        """Take messages back whose times have not come."""
        found = self._queues.get(queue)
        reason = "it is not scheduled any more"
        return [
            Failure(index=index, code=Code.NOT_FOUND, reason=reason)
            for index, handle in enumerate(handles)
            if not found.unschedule(int(handle))
        ]

    def scheduled(self, queue: str, *, count: int, after: str | None = None) -> Sequence[Scheduled]:
        """Look at messages that were sent with a delay which is not over, in order of sending."""
        return self._queues.get(queue).scheduled(count, int(after or 0))

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        """Lease up to `count` messages for `lease` s; with none there, wait up to `wait` s."""
        return self._queues.get(queue).receive(count, wait, lease)

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        """Delete for good."""
        return _lost(self._queues.get(d.queue).ack(d) for d in deliveries)

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        """End the leases: the messages can be received again `after` seconds from now."""
        return _lost(self._queues.get(d.queue).move(d, after, release=True) for d in deliveries)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        """Make the leases end `lease` seconds from now."""
        return _lost(self._queues.get(d.queue).move(d, lease, release=False) for d in deliveries)

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Move to the queue's dead letters, with the reason."""
        return _lost(self._queues.get(d.queue).dead_letter(d, reason) for d in deliveries)

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Put new messages among the dead letters, with the reason."""
        for delivery in deliveries:
            self._queues.get(delivery.queue).add_dead(delivery, reason)
        return []

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Use this clock from now on, for all that share the queues."""
        self._queues.keep_time(clock)

    def next_due(self) -> float:
        """Return when the next message can be received, `inf` for never."""
        return self._queues.next_due()

    def error_code(self, error: Exception) -> Code:
        """Return the code of a `Refusal`; this service has no other error."""
        return error.code if isinstance(error, Refusal) else Code.UNKNOWN

    def close(self) -> None:
        """Leave the shared state."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def create(self, queue: str, *, lease: float, max_deliveries: int) -> None:
        """Make the queue; received more often than `max_deliveries`, a message is dead."""
        found = self._queues.get(queue)
        if not found.known:
            found.max_deliveries = max_deliveries
            found.known = True

    def delete(self, queue: str) -> None:
        """Delete the queue and its dead letters."""
        found = self._queues.get(queue)
        found.purge()
        found.purge_dead()
        found.known = False
        found.max_deliveries = 0

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the queues in use."""
        return [name for name in self._queues.names() if name.startswith(prefix)]

    def stats(self, queue: str) -> QueueStats:
        """Count the queue's messages, exactly."""
        return self._queues.get(queue).stats()

    def peek(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at waiting messages without taking them."""
        return self._queues.get(queue).peek(count)

    def purge(self, queue: str) -> Purged:
        """Delete every message, also the leased ones."""
        return Purged(count=self._queues.get(queue).purge())

    def peek_dead(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at dead letters."""
        return self._queues.get(queue).peek_dead(count)

    def redrive(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Send dead letters to their queue again."""
        return self._queues.get(queue).take_dead(messages, redrive=True)

    def delete_dead(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Delete dead letters."""
        return self._queues.get(queue).take_dead(messages, redrive=False)

    def purge_dead(self, queue: str) -> Purged:
        """Delete every dead letter."""
        return Purged(count=self._queues.get(queue).purge_dead())


def _lost(settled: Iterable[bool]) -> Sequence[Failure]:
    reason = "the lease ended and the message is not yours any more"
    return [
        Failure(index=index, code=Code.LEASE_LOST, reason=reason)
        for index, done in enumerate(settled)
        if not done
    ]
