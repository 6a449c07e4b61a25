"""The faults of a network and its services, and the chance by which each comes."""

from __future__ import annotations

import random
import struct
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Mapping
from enum import StrEnum
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self

# Sends a reset when a socket of this option is closed, in place of an orderly end.
RESET = struct.pack("ii", 1, 0)


class Fault(StrEnum):
    """The faults of one request."""

    ERROR = "500"
    THROTTLED = "throttled"
    RESET_BEFORE = "reset before"  # the service never sees the request
    RESET_AFTER = "reset after"  # the request has its effect, and its answer is lost
    SLOW = "slow"
    CUT = "cut"  # the request has its effect, and half of its answer comes
    PARTIAL = "partial"  # a batch without one of its elements, which the answer says
    EMPTY = "empty"  # 200 without a body; the service never sees the request


REFUSED = frozenset({Fault.RESET_BEFORE, Fault.ERROR, Fault.THROTTLED, Fault.EMPTY})
"""The faults of a request that the service never sees."""

_EVERY = frozenset(Fault)


class Dice:
    """Decides by chance which fault a request has. Safe to use from many threads."""

    def __init__(
        self, *, seed: int, chances: Mapping[Fault, float] | None = None, slow: float = 1.0
    ) -> None:
        self.chances = dict(chances or {})
        self.counts: Counter[Fault] = Counter()
        self.requests = 0
        self.slow = slow
        self._dice = random.Random(seed)
        self._lock = threading.Lock()

    def fault(self, *, in_parts: bool, of: Container[Fault] = _EVERY) -> Fault | None:
        """Throw the dice for one request, which is a batch if it can fail `in_parts`.

        A fault that is not one `of` those that can be made here does not come.
        """
        with self._lock:
            self.requests += 1
            thrown = self._dice.random()
            for fault, chance in self.chances.items():
                thrown -= chance
                if thrown < 0:
                    if fault not in of or (fault is Fault.PARTIAL and not in_parts):
                        return None
                    self.counts[fault] += 1
                    return fault
        return None

    def choose(self, count: int) -> int:
        """Choose one of so many, by its place."""
        with self._lock:
            return self._dice.randrange(count)


class Proxy(Dice, ABC):
    """Stands before a service while its `with` block runs, and fails requests by chance."""

    @abstractmethod
    def start(self) -> None:
        """Begin to take requests."""

    @abstractmethod
    def stop(self) -> None:
        """End, with all connections."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Quiet(ThreadingMixIn):
    """A server with a thread for each connection, of whose troubles nobody hears."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients go away at any time."""
