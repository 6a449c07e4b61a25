"""Lines of free messages with the consumers that want them, and sessions."""

from __future__ import annotations

from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from localstack.servicebus.errors import Refusal
from localstack.servicebus.message import Message


class Consumer(Protocol):
    """A link by which messages go out."""

    @property
    def takes(self) -> bool:
        """Tell whether a message is gone once it is sent (receive and delete)."""
        ...

    @property
    def ready(self) -> bool:
        """Tell whether it may have a message now."""
        ...

    def deliver(self, message: Message) -> None:
        """Send one."""
        ...

    def refuse(self, refusal: Refusal) -> None:
        """End the link."""
        ...


@dataclass(slots=True, eq=False)
class Line:
    """Free messages, by sequence number, and the consumers that want them."""

    free: list[int] = field(default_factory=list[int])
    consumers: deque[Consumer] = field(default_factory=deque[Consumer])

    def ready(self) -> Consumer | None:
        """The consumer whose turn it is; None when no one has room."""
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.ready:
                return consumer
        return None


@dataclass(slots=True, eq=False)
class Session:
    """The messages of one session id, which one consumer at a time may have."""

    name: str
    line: Line = field(default_factory=Line)
    holder: Consumer | None = None
    until: float = 0.0
    timer: TimerHandle | None = None
    state: bytes | None = None
    updated: float = 0.0
    """When its state was set."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A consumer that waits for a session with something in it."""

    consumer: Consumer
    granted: Callable[[Session], None]
    timer: TimerHandle | None = None
