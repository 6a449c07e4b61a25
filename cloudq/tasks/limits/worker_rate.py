"""Rate limits of one worker: a call starts now, or is told when to try again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from time import monotonic

from cloudq.driver.forks import renew_after_fork
from cloudq.tasks.limits.rules import Rate

# A waiting call tries again after at most this many seconds: a rate may have been changed, and SQS
# delays no message by more.
FARTHEST = 900.0
# A call that waited may come back this many seconds early: services delay by whole seconds.
EARLY = 1.0


class WorkerRates:
    """A token bucket for each task, stored as the time of its next token (GCRA).

    Waiting calls are spread over the times of the coming tokens, so that most are put back only
    once. (ITU-T I.371, the virtual scheduling algorithm.)
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._renew()
        self._due: dict[str, float] = {}
        self._spread: dict[str, float] = {}
        self._changed: dict[str, Rate | None] = {}
        renew_after_fork(self, WorkerRates._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def change(self, task: str, rate: Rate | None) -> None:
        """Change the rate of a task; None for no limit."""
        with self._lock:
            self._changed[task] = rate
            self._due.pop(task, None)
            self._spread.pop(task, None)

    def rate(self, task: str, given: Rate | None) -> Rate | None:
        """Return the rate of a task; `given` is the one in its declaration."""
        return self._changed.get(task, given) if self._changed else given

    def wait(self, task: str, rate: Rate, *, returned: bool = False) -> float:
        """Take a token and return 0, or return the seconds to wait before the next try.

        `returned`: the call has waited before.
        """
        with self._lock:
            now = self._clock()
            due = max(self._due.get(task, now), now)
            ahead = (rate.burst - 1) * rate.every + (EARLY if returned else 0.0)
            if due - ahead <= now:
                self._due[task] = due + rate.every
                return 0.0
            start = due - (rate.burst - 1) * rate.every
            at = max(self._spread.get(task, start), start)
            if at - now > FARTHEST:
                return FARTHEST * random.uniform(0.5, 1.0)
            self._spread[task] = at + rate.every
            return at - now
