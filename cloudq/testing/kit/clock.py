"""A clock that only tests move, and that lets workers finish at every moment on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cloudq.driver import VirtualTime


class VirtualClock:
    """The time of an app under test, in epoch seconds; it stands still until it is advanced.

    It starts at `start`, or at the present second. Only the test's own thread may advance it.
    """

    def __init__(self, start: float | None = None) -> None:
        self._now = math.floor(time.time()) if start is None else start
        self._drivers: list[VirtualTime] = []
        self._workers: list[Callable[[], object]] = []

    def __call__(self) -> float:
        return self._now

    def now(self) -> datetime:
        """The time for an `eta`: `eta=clock.now() + timedelta(hours=1)`."""
        return datetime.fromtimestamp(self._now, UTC)

    def drive(self, driver: VirtualTime) -> None:
        """Be the clock of a broker or a store from now on."""
        driver.keep_time(self)
        self._drivers.append(driver)

    def leave(self, driver: VirtualTime) -> None:
        """Look after a driver no longer, since it is closed."""
        self._drivers.remove(driver)

    def join(self, idle: Callable[[], object], *, first: bool = False) -> None:
        """Let a worker work: `idle` returns when it has nothing to do any more.

        `first`: before those that are there, which do what it sends.
        """
        self._workers.insert(0 if first else len(self._workers), idle)

    def part(self, idle: Callable[[], object]) -> None:
        """Wait for a worker no longer."""
        self._workers.remove(idle)

    @property
    def next_due(self) -> float:
        """Return the time of the next delayed or leased message in epoch seconds; inf for never."""
        return min((driver.next_due() for driver in self._drivers), default=math.inf)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and at every moment that something is due on the way its workers run.

        Raises `ValueError` for a negative time, and what the workers raise while they work.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds is {seconds}: time goes forward, by a finite number")
        end = self._now + seconds
        self._work()
        while self._workers and self._now < (due := self.next_due) <= end:
            self._set(due)
            self._work()
        self._set(end)
        self._work()

    def advance_to_end(self, *, most: float = 10 * 86_400.0) -> float:
        """Advance until nothing waits any more, whatever its delay; how many seconds that took.

        Raises `TimeoutError` when something still waits after `most` virtual seconds.
        """
        began = self._now
        self._work()
        while (due := self.next_due) < math.inf:
            if due > began + most:
                raise TimeoutError(
                    f"something is due in {due - self._now:g} s, after {most:g} s of virtual time: "
                    "does a task retry for ever? or give `most`"
                )
            self.advance(max(0.0, due - self._now))
            if not self._workers:
                break
        return self._now - began

    def _set(self, now: float) -> None:
        self._now = now
        for driver in self._drivers:
            driver.keep_time(self)

    def _work(self) -> None:
        for idle in list(self._workers):
            idle()
