"""Shares a worker's slots among its queues, by their weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping


class Slots:
    """The slots for tasks, which pollers take before they receive. Safe to use from many threads.

    Of the queues that wait for slots, the one that got the least for its weight is served first
    (stride scheduling, Waldspurger and Weihl 1995).
    """

    def __init__(self, total: int, weights: Mapping[str, int]) -> None:
        self.total = total
        self._changed = threading.Condition()
        self._free = total
        self._weights = dict(weights)
        self._passed = dict.fromkeys(weights, 0.0)
        self._clock = 0.0
        self._idle: set[str] = set()
        self._waiting: set[str] = set()
        self._closed = False

    def all_taken(self) -> bool:
        """Return True when no slot is free."""
        return self._free <= 0

    @property
    def weights(self) -> Mapping[str, int]:
        """The queues, with their weights."""
        return dict(self._weights)

    def add(self, queue: str, weight: int = 1) -> None:
        """Let one more queue take slots."""
        with self._changed:
            self._weights[queue] = weight
            self._passed.setdefault(queue, self._clock)

    def remove(self, queue: str) -> None:
        """Let a queue take no more slots, and end the wait of its poller."""
        with self._changed:
            self._weights.pop(queue, None)
            self._changed.notify_all()

    def take(self, queue: str, most: int, *, linger: float = 0.0) -> int:
        """Wait for slots and take up to `most` of them; 0 once closed or removed.

        With some free but fewer than `most`, wait up to `linger` seconds for more, since a full
        batch costs no more requests than a single message.
        """
        wanted = min(most, self.total)
        with self._changed:
            self._waiting.add(queue)
            if queue in self._idle:  # slots that it left unused give it no claim now
                self._idle.discard(queue)
                self._passed[queue] = max(self._passed[queue], self._clock)
            try:
                first: float | None = None
                while not self._closed and queue in self._weights:
                    if self._free > 0 and self._is_next(queue):
                        now = time.monotonic()
                        first = now if first is None else first
                        if self._free >= wanted or now >= first + linger:
                            return self._grant(queue, min(self._free, wanted))
                        self._changed.wait(first + linger - now)
                    else:
                        self._changed.wait()
                return 0
            finally:
                self._waiting.discard(queue)
                self._changed.notify_all()

    def take_free(self, queue: str, most: int) -> int:
        """Take up to `most` slots at once, if some are free and no queue waits for them."""
        with self._changed:
            if self._closed or self._waiting or self._free <= 0 or queue not in self._weights:
                return 0
            return self._grant(queue, min(most, self._free, self.total))

    def idle(self, queue: str) -> None:
        """Note that a queue was found empty."""
        with self._changed:
            self._idle.add(queue)

    def give(self, count: int) -> None:
        """Give slots back."""
        if count:
            with self._changed:
                self._free += count
                self._changed.notify_all()

    def resize(self, total: int) -> None:
        """Change the number of slots. For a while more than that may stay taken."""
        with self._changed:
            self._free += total - self.total
            self.total = total
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting; nobody gets a slot any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_next(self, queue: str) -> bool:
        return min(self._waiting, key=lambda name: (self._passed[name], name)) == queue

    def _grant(self, queue: str, count: int) -> int:
        self._free -= count
        self._clock = self._passed[queue]
        self._passed[queue] += count / self._weights[queue]
        return count
