"""Messages ready for delivery, the consumers that wait for them, and sessions."""

from __future__ import annotations

from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from localstack.servicebus.errors import Refusal
from localstack.servicebus.message import Message


class Consumer(Protocol):
    """An outgoing link."""

    @property
    def takes(self) -> bool:
        """Tell whether a message is deleted as soon as it is sent (receive and delete)."""
        ...

    @property
    def ready(self) -> bool:
        """Tell whether the consumer can take a message now."""
        ...

    def deliver(self, message: Message) -> None:
        """Send a message."""
        ...

    def refuse(self, refusal: Refusal) -> None:
        """End the link."""
        ...


@dataclass(slots=True, eq=False)
class Line:
    """Messages ready for delivery, by sequence number, and the consumers that wait for them."""

    free: list[int] = field(default_factory=list[int])
    consumers: deque[Consumer] = field(default_factory=deque[Consumer])

    def ready(self) -> Consumer | None:
        """Return the next consumer in turn that can take a message; None if there is none."""
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.ready:
                return consumer
        return None


@dataclass(slots=True, eq=False)
class Session:
    """The messages of one session, which only one consumer at a time can lock."""

    name: str
    line: Line = field(default_factory=Line)
    holder: Consumer | None = None
    until: float = 0.0
    timer: TimerHandle | None = None
    state: bytes | None = None
    updated: float = 0.0
    """Time at which its state was last set."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A consumer that waits for any session that has messages."""

    consumer: Consumer
    granted: Callable[[Session], None]
    timer: TimerHandle | None = None
