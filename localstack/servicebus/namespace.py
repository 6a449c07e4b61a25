"""A namespace: its queues, sending to them, and its counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal

from localstack.servicebus import errors
from localstack.servicebus.errors import Refusal
from localstack.servicebus.faults import Faults
from localstack.servicebus.message import Message, State
from localstack.servicebus.settings import FOREVER, Settings
from localstack.servicebus.store import Store
from localstack.servicebus.tokens import Keys

Tier = Literal["standard", "premium"]
_MOST_BYTES: dict[Tier, int] = {"standard": 256 * 1024, "premium": 1024 * 1024}


class Queue:
    """A queue with its dead-letter queue."""

    def __init__(self, name: str, settings: Settings, tier: Tier) -> None:
        self.name = name
        self.settings = settings
        self.created = self.updated = self.accessed = time.time()
        self.dead = Store(f"{name}/$DeadLetterQueue", self._current, None, self._forget)
        self.main = Store(name, self._current, self.dead.put, self._forget)
        self._tier: Tier = tier
        self._sequence = 0
        self._bytes = 0
        self._seen: dict[str, float] = {}
        self._due: list[tuple[float, int]] = []
        self._clock: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def size(self) -> int:
        """Bytes of all messages in it."""
        return self._bytes

    @property
    def most_bytes(self) -> int:
        """Largest message in bytes; up to 100 MB on premium, if the queue allows it."""
        most = _MOST_BYTES[self._tier]
        if self._tier == "premium" and self.settings.max_message_kb:
            return min(max(most, self.settings.max_message_kb * 1024), 100 * 1024 * 1024)
        return most

    @property
    def most_batch_bytes(self) -> int:
        """The largest batch."""
        return _MOST_BYTES[self._tier]

    def check_send(self) -> None:
        """Raise `Refusal` when nothing may be sent to it now."""
        if self.settings.status in ("Disabled", "SendDisabled"):
            raise errors.disabled(self.name)

    def check_receive(self) -> None:
        """Raise `Refusal` when nothing may be received from it now."""
        if self.settings.status in ("Disabled", "ReceiveDisabled"):
            raise errors.disabled(self.name)

    def send(self, messages: Sequence[Message]) -> list[int]:
        """Store all these messages, or raise `Refusal` and store none. Duplicates get number 0."""
        self.check_send()
        self._check(messages)
        self.accessed = time.time()
        return [self._take(message) for message in messages]

    def _check(self, messages: Sequence[Message]) -> None:
        if self.settings.sessions and not all(m.session_id for m in messages):
            raise Refusal(
                errors.NOT_ALLOWED,
                "The SessionId was not set on a message, and it cannot be sent to the entity."
                " Entities that have session support enabled can only receive messages that have"
                " the SessionId set to a valid value.",
            )
        size = sum(message.size for message in messages)
        if self._bytes + size > self.settings.max_size_mb * 1024 * 1024:
            raise Refusal(
                errors.LIMIT_EXCEEDED,
                f"The maximum entity size has been reached or exceeded for '{self.name}'."
                f" Size of entity in bytes: {self._bytes}.",
            )

    def _take(self, message: Message) -> int:
        now = time.time()
        if self._duplicate(message, now):
            return 0
        self._bytes += message.size
        message.sequence = self._number()
        message.enqueued = now
        sequence = message.sequence
        if message.scheduled is not None and message.scheduled > now:
            message.state = State.SCHEDULED
            heappush(self._due, (message.scheduled, sequence))
            self._arm()
        else:
            self._age(message)
        self.main.put(message)
        return sequence

    def _arm(self) -> None:
        if self._clock:
            self._clock.cancel()
        if self._due:
            wait = self._due[0][0] - time.time()
            self._clock = self._loop.call_later(wait, self._appear)

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence

    def _age(self, message: Message) -> None:
        own = FOREVER if message.ttl is None else message.ttl / 1000
        life = min(own, self.settings.ttl)
        message.expires = message.enqueued + life if life < FOREVER else None

    def _appear(self) -> None:
        now = time.time()
        while self._due and self._due[0][0] <= now:
            _, sequence = heappop(self._due)
            message = self.main.messages.get(sequence)
            if message is None:
                continue  # it was cancelled
            # It gets a new sequence number, as if it were sent now.
            self.main.withdraw(message)
            message.sequence = self._number()
            message.state = State.ACTIVE
            message.enqueued = now
            self._age(message)
            self.main.put(message)
        self._arm()

    def _duplicate(self, message: Message, now: float) -> bool:
        if not self.settings.dedup or message.message_id is None:
            return False
        window = self.settings.dedup_window
        while self._seen and next(iter(self._seen.values())) <= now - window:
            del self._seen[next(iter(self._seen))]
        if message.message_id in self._seen:
            return True
        self._seen[message.message_id] = now
        return False

    def cancel(self, sequences: Sequence[int]) -> None:
        """Cancel scheduled messages. Raises `Refusal`, and cancels none, if one does not exist."""
        chosen: list[Message] = []
        for sequence in sequences:
            message = self.main.messages.get(sequence)
            if message is None or message.state is not State.SCHEDULED:
                raise Refusal(
                    errors.MESSAGE_NOT_FOUND,
                    f"There is no scheduled message with the sequence number {sequence}.",
                )
            chosen.append(message)
        for message in chosen:
            self.main.withdraw(message)
            self._forget(message)

    def _current(self) -> Settings:
        return self.settings

    def _forget(self, message: Message) -> None:
        self._bytes -= message.size

    def counts(self) -> dict[str, int]:
        """The number of messages in each state. Deferred ones count as active, as in Azure."""
        scheduled = sum(m.state is State.SCHEDULED for m in self.main.messages.values())
        return {
            "active": len(self.main.messages) - scheduled,
            "scheduled": scheduled,
            "dead": len(self.dead.messages),
        }

    def dismiss(self, refusal: Refusal) -> None:
        """End the links of all its receivers."""
        self.main.dismiss(refusal)
        self.dead.dismiss(refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The target of an address: an entity, or the desk that answers requests about it."""

    queue: Queue
    store: Store
    desk: bool = False


@dataclass(slots=True, kw_only=True)
class Namespace:
    """The state of one server."""

    tier: Tier = "standard"
    keys: Keys = field(default_factory=Keys)
    queues: dict[str, Queue] = field(default_factory=dict[str, Queue])
    faults: Faults = field(default_factory=Faults)
    stats: Counter[str] = field(default_factory=Counter[str])
    started: float = field(default_factory=time.time)
    drop: Callable[[], None] = lambda: None
    """Ends all connections."""

    def create(self, name: str, settings: Settings) -> Queue:
        """Create a queue; the caller has checked that the name is free."""
        queue = self.queues[name.lower()] = Queue(name, settings, self.tier)
        return queue

    def find(self, name: str) -> Queue | None:
        """Return a queue by name, in upper or lower case."""
        return self.queues.get(name.lower())

    def update(self, queue: Queue, settings: Settings) -> None:
        """Set a queue's properties, and end the links that they no longer allow."""
        queue.settings = settings
        queue.updated = time.time()
        if settings.status in ("Disabled", "ReceiveDisabled"):
            queue.dismiss(errors.disabled(queue.name))

    def delete(self, queue: Queue) -> None:
        """Delete a queue and its messages."""
        del self.queues[queue.name.lower()]
        queue.dismiss(errors.missing(queue.name))

    def reset(self) -> None:
        """Delete all queues, counts and faults, and end all connections."""
        self.drop()
        self.queues.clear()
        self.stats.clear()
        self.faults.clear()

    def resolve(self, address: str) -> Node:
        """Find the target of an address. Raises `Refusal` when there is none."""
        path = address.partition("://")[2].partition("/")[2] if "://" in address else address
        path = path.strip("/")
        name, desk = _without(path, "/$management")
        name, dead = _without(name, "/$deadletterqueue")
        queue = self.find(name)
        if queue is None:
            raise errors.missing(path)
        return Node(queue=queue, store=queue.dead if dead else queue.main, desk=desk)


def _without(path: str, suffix: str) -> tuple[str, bool]:
    found = path.lower().endswith(suffix)
    return (path[: -len(suffix)] if found else path), found
