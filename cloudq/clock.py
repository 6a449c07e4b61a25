"""Time as a value that can be handed in, the patience of callers, and the pauses between tries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from cloudq.amounts import CENTURY, shown
from cloudq.errors import InvalidArguments

Clock = Callable[[], float]
"""Tells the time in epoch seconds."""


def real_time() -> float:
    """Return the time of this machine, in epoch seconds."""
    return time.time()


def patience(given: object, name: str = "timeout") -> float | None:
    """Return how long a caller wants to wait, in seconds; None for without end.

    That is also what infinity and more than a century mean. One that has passed, below 0, is for
    one look. Raises `InvalidArguments`.
    """
    if given is None:
        return None
    if not isinstance(given, int | float) or isinstance(given, bool) or given != given:
        raise InvalidArguments(
            f"{name} is {shown(given)}: give a number of seconds, or None to wait without end"
        )
    if given > CENTURY:
        return None
    return 0.0 if given < 0 else float(given)


def grown(first: float, times: int, longest: float, *, factor: float = 2.0) -> float:
    """Return `first` grown by `factor` so many times, and at most `longest`."""
    # 2.0**1024 would overflow; the longest is reached long before.
    return min(first * factor ** min(times, 64), longest)


class Backoff:
    """Growing pauses between the tries of something that fails. For one thread.

    The first pause is `first` seconds, each next one `factor` times as long, none longer than
    `longest`. Chance takes up to the share `jitter` off each, so that workers that failed together
    do not come back together. `now` tells the seconds that pauses are measured in.
    """

    def __init__(
        self,
        first: float,
        longest: float,
        *,
        factor: float = 2.0,
        jitter: float = 0.5,
        now: Clock = time.monotonic,
    ) -> None:
        self.longest = longest
        self.failures = 0  # in a row
        self.until = 0.0  # when the pause under way ends
        self._first = first
        self._factor = factor
        self._jitter = jitter
        self._now = now

    def failed(self) -> float:
        """Begin the next pause, and return its seconds."""
        whole = grown(self._first, self.failures, self.longest, factor=self._factor)
        pause = whole * random.uniform(1.0 - self._jitter, 1.0)
        self.failures += 1
        self.until = self._now() + pause
        return pause

    def pauses(self, tries: int | None = None) -> Iterator[float]:
        """Begin a pause after each of so many tries that fail, and yield its seconds.

        None for as many as it takes.
        """
        while tries is None or self.failures < tries:
            yield self.failed()

    def succeeded(self) -> None:
        """End the pause; the next one is the first again."""
        self.failures = 0
        self.until = 0.0

    @property
    def left(self) -> float:
        """The seconds left of the pause under way; 0 when there is none."""
        return max(0.0, self.until - self._now()) if self.failures else 0.0
