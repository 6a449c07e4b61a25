"""The rates of one worker: who may start now, and when the others should come again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from time import monotonic

from cloudq.tasks.limits.rules import Rate

# Whoever waits is looked at again at the latest after this long, in seconds: a rate may have been
# changed, and SQS delays no message by more.
FARTHEST = 900.0
# What comes back may be this early, since services delay by whole seconds.
EARLY = 1.0


class WorkerRates:
    """A token bucket for each task, as GCRA keeps it: by the time of the next token alone.

    Those that must wait are spread over the times of the tokens to come, so that mostly each is
    put back once. (ITU-T I.371, the virtual scheduling algorithm.)
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self._spread: dict[str, float] = {}
        self._changed: dict[str, Rate | None] = {}

    def change(self, task: str, rate: Rate | None) -> None:
        """Give a task another rate from now on; None for no limit."""
        with self._lock:
            self._changed[task] = rate
            self._due.pop(task, None)
            self._spread.pop(task, None)

    def rate(self, task: str, given: Rate | None) -> Rate | None:
        """The rate of a task, which was given another one when it was declared."""
        return self._changed.get(task, given) if self._changed else given

    def wait(self, task: str, rate: Rate, *, returned: bool = False) -> float:
        """0 if a call may start now, which it then has; else come again in so many seconds.

        `returned`: it has waited before.
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
