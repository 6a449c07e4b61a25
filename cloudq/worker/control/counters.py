"""Counts of what a worker has done, for `inspect stats`, `status` and the metrics page."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloudq.execution.settlement import Settlement
from cloudq.results.record import State

# So many revoked tasks are remembered.
_REVOKED = 1000
BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the run times that are counted, in seconds; the rest is above."""


@dataclass(slots=True)
class Runtimes:
    """How long the calls of one task ran: how many up to each bound, and all together."""

    counts: list[int]
    total: float = 0.0


class Counters:
    """Safe to use from many threads. One call for a batch, about a microsecond a task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: Counter[tuple[str, str]] = Counter()
        self._runtimes: dict[str, Runtimes] = {}
        self._revoked: deque[str] = deque(maxlen=_REVOKED)

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Count outcomes; those that say nothing of a task's state are passed over."""
        with self._lock:
            for settled in settlements:
                if settled.state is None:
                    continue
                self._ends[settled.task, str(settled.state)] += 1
                if settled.state is State.REVOKED:
                    self._revoked.append(settled.task_id)
                record = settled.record
                if record is not None and record.started_at and record.finished_at:
                    self._time(record.task, record.finished_at - record.started_at)

    def _time(self, task: str, took: float) -> None:
        kept = self._runtimes.get(task)
        if kept is None:
            kept = self._runtimes[task] = Runtimes([0] * (len(BUCKETS) + 1))
        place = next((i for i, bound in enumerate(BUCKETS) if took <= bound), len(BUCKETS))
        kept.counts[place] += 1
        kept.total += took

    def ends(self) -> dict[tuple[str, str], int]:
        """How often each task ended in each state (RETRY counts as one)."""
        with self._lock:
            return dict(self._ends)

    def runtimes(self) -> dict[str, tuple[Sequence[int], float]]:
        """By task: how many ran up to each bound and above the last, and the seconds in all."""
        with self._lock:
            return {task: (tuple(r.counts), r.total) for task, r in self._runtimes.items()}

    def revoked(self) -> list[str]:
        """The ids of the revoked tasks met of late, the oldest first."""
        with self._lock:
            return list(self._revoked)

    def states(self) -> Counter[str]:
        """How many tasks ended in each state."""
        totals: Counter[str] = Counter()
        for (_, state), count in self.ends().items():
            totals[state] += count
        return totals
