"""Measures how much a worker does, and so how much work it may hold in hand."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from cloudq.worker.in_flight import Flight

# The most messages, and the most bytes of bodies, that are held beyond the slots.
_MOST, _MOST_BYTES = 1_000, 16 << 20
# The last second, or however many there are, is counted in so many parts.
_PARTS = 10
# The mean of about so many of a queue's last tasks counts, and of so many messages' sizes.
_LATEST = 100


class _Mean:
    """The mean of about the last hundred numbers."""

    __slots__ = ("_count", "_sum")

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, numbers: float, count: int) -> None:
        """Add so many numbers by their sum."""
        self._sum += numbers
        self._count += count
        if self._count > 2 * _LATEST:
            self._sum *= _LATEST / self._count
            self._count = _LATEST

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self._sum / self._count if self._count else None


class Pace:
    """The pace of a worker's children. Safe to use from many threads.

    A worker holds as much work beyond its slots as it did in the last `seconds`, of queues whose
    tasks take less than that. So short tasks flow although each request to a service takes its
    time, and long ones are left to other workers. With 0 it holds none.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._done: deque[tuple[float, int]] = deque()  # the end of each part, and what was done
        self._total = 0
        self._took: dict[str, _Mean] = {}
        self._size = _Mean()

    def received(self, flights: Iterable[Flight]) -> None:
        """Note the sizes of messages."""
        if self.seconds:
            sizes = [len(flight.delivery.body) for flight in flights]
            with self._lock:
                self._size.add(sum(sizes), len(sizes))

    def did(self, flights: Iterable[Flight]) -> None:
        """Note what children have run, each in `took` seconds."""
        times: dict[str, list[float]] = {}
        for flight in flights:
            times.setdefault(flight.delivery.queue, []).append(flight.took)
        self.took(times)

    def took(self, times: Mapping[str, Sequence[float]]) -> None:
        """Note the seconds that calls have taken, by queue."""
        if not self.seconds:
            return
        now = time.monotonic()
        with self._lock:
            count = 0
            for queue, each in times.items():
                count += len(each)
                took = self._took.get(queue)
                if took is None:
                    took = self._took[queue] = _Mean()
                took.add(sum(each), len(each))
            if self._done and now < self._done[-1][0]:
                end, before = self._done.pop()
                self._done.append((end, before + count))
            else:
                self._done.append((now + self.seconds / _PARTS, count))
            self._total += count

    def latest(self) -> int:
        """Return how many tasks were run in the last `seconds`."""
        oldest = time.monotonic() - self.seconds
        with self._lock:
            while self._done and self._done[0][0] <= oldest:
                self._total -= self._done.popleft()[1]
            return self._total

    def ahead(self, queue: str) -> int:
        """Return how many messages may be in hand beyond the slots, when one more of this comes."""
        if not self.seconds:
            return 0
        latest = self.latest()
        with self._lock:
            took = self._took.get(queue)
            mean = None if took is None else took.value
            if mean is None or mean >= self.seconds:
                return 0
            by_size = int(_MOST_BYTES / max(1.0, self._size.value or 1.0))
            return min(latest, _MOST, by_size)
