"""Shares a worker's slots among its queues, by their weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from math import inf

from cloudq.worker.pace import Pace
from cloudq.worker.shares import Shares


class Slots:
    """The slots for tasks, which pollers take before they receive. Safe to use from many threads.

    Of the queues that wait for slots, the one that got the least for its weight is served first.
    Beyond the slots themselves there are places for what the worker may hold `ahead` at its pace.
    """

    def __init__(self, total: int, weights: Mapping[str, int], pace: Pace | None = None) -> None:
        self.total = total
        self._pace = pace or Pace(0.0)
        self._changed = threading.Condition()
        self._taken = 0
        self._shares = Shares(weights)
        self._idle: set[str] = set()
        self._waiting: set[str] = set()
        self._starved = 0
        self._lingering = 0
        self._closed = False

    def starved(self) -> bool:
        """Return True when a queue waits for slots, and none is free."""
        return self._starved > 0

    @property
    def weights(self) -> Mapping[str, int]:
        """The queues, with their weights."""
        return dict(self._shares.weights)

    def add(self, queue: str, weight: int = 1) -> None:
        """Let one more queue take slots."""
        with self._changed:
            self._shares.weights[queue] = weight
            self._shares.enter(queue)

    def remove(self, queue: str) -> None:
        """Let a queue take no more slots, and end the wait of its poller."""
        with self._changed:
            self._shares.weights.pop(queue, None)
            self._changed.notify_all()

    def take(
        self,
        queue: str,
        most: int,
        *,
        linger: float = 0.0,
        ahead: bool = False,
        within: float | None = None,
    ) -> int:
        """Wait for slots and take up to `most` of them; 0 once closed or removed.

        Also 0 if none is free `within` seconds.

        With some free but fewer than `most`, wait up to `linger` seconds for more, since a full
        batch costs no more requests than a single message. Where the worker may hold some `ahead`,
        it has work meanwhile: then wait for `most`, or half of those.
        """
        with self._changed:
            self._waiting.add(queue)
            if queue in self._idle:  # slots that it left unused give it no claim now
                self._idle.discard(queue)
                self._shares.enter(queue)
            try:
                first: float | None = None
                until = inf if within is None else time.monotonic() + within
                while not self._is_closed(queue):
                    beyond = self._pace.ahead(queue) if ahead else 0
                    free = self.total + beyond - self._taken
                    now = time.monotonic()
                    if free <= 0 or not self._is_next(queue):
                        if now >= until:
                            return 0
                        self._wait(is_starved=free <= 0, seconds=until - now)
                        continue
                    first = now if first is None else first
                    wanted = min(most, max(beyond // 2, 1) if beyond else self.total)
                    if free >= wanted or (not beyond and now >= first + linger):
                        return self._grant(queue, min(free, most))
                    self._lingering += 1
                    try:
                        self._changed.wait(None if beyond else first + linger - now)
                    finally:
                        self._lingering -= 1
                return 0
            finally:
                self._waiting.discard(queue)
                self._changed.notify_all()

    def take_free(self, queue: str, most: int, *, least: int = 1, ahead: bool = False) -> int:
        """Take up to `most` slots at once, if `least` are free and no queue waits for them."""
        with self._changed:
            free = self._free(queue, ahead)
            if self._is_closed(queue) or self._waiting or free < least:
                return 0
            return self._grant(queue, min(most, free))

    def await_free(self, queue: str, *, ahead: bool = False) -> int:
        """Wait until slots are free and return how many, without taking any; 0 as in `take`."""
        with self._changed:
            while not self._is_closed(queue):
                free = self._free(queue, ahead)
                if free > 0:
                    return free
                self._wait(is_starved=True)
            return 0

    def overdraw(self, queue: str, count: int) -> None:
        """Take slots that may not be free, for the calls of a bundle, which has one so far."""
        with self._changed:
            self._grant(queue, count)

    def idle(self, queue: str) -> None:
        """Note that a queue was found empty."""
        with self._changed:
            self._idle.add(queue)

    def ran(self) -> None:
        """Note that tasks were run, so that more may be held ahead than a moment ago."""
        if self._lingering:
            with self._changed:
                self._changed.notify_all()

    def give(self, count: int) -> None:
        """Give slots back."""
        if count:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()

    def resize(self, total: int) -> None:
        """Change the number of slots. For a while more than that may stay taken."""
        with self._changed:
            self.total = total
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting; nobody gets a slot any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_closed(self, queue: str) -> bool:
        return self._closed or queue not in self._shares.weights

    def _free(self, queue: str, ahead: bool) -> int:
        return self.total + (self._pace.ahead(queue) if ahead else 0) - self._taken

    def _wait(self, *, is_starved: bool, seconds: float = inf) -> None:
        self._starved += is_starved
        try:
            self._changed.wait(None if seconds == inf else seconds)
        finally:
            self._starved -= is_starved

    def _is_next(self, queue: str) -> bool:
        return self._shares.first(self._waiting) == queue

    def _grant(self, queue: str, count: int) -> int:
        self._taken += count
        self._shares.serve(queue, count)
        return count
