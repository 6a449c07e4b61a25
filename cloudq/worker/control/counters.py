"""Counts a worker's outcomes and run times, for `inspect stats`, `status` and the metrics page."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

from cloudq.driver import Delivery
from cloudq.execution.bundles import Part
from cloudq.execution.settlement import Settled, Settlement
from cloudq.monitoring.costs.sheet import Called, Handled
from cloudq.results.record import State
from cloudq.worker.in_flight import Ends

# The number of revoked tasks that are remembered.
_REVOKED = 1000
BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the histogram of run times, in seconds; a last bucket takes what is above."""


@dataclass(slots=True)
class Runtimes:
    """Run times of one task: how many up to each bound, and the sum of seconds."""

    counts: list[int]
    total: float = 0.0


# Bytes of a record besides its value: ids, times, names.
_RECORD = 300

UNREGISTERED = "(unregistered)"
"""The name under which all tasks are counted that the app does not have."""


class Counters:
    """Counts by task and state. Safe to use from many threads; about a microsecond a task.

    `registered` are the names of the app's tasks: with others, senders could fill the memory.
    """

    def __init__(self, registered: Container[str] = ()) -> None:
        self._registered = registered
        self._lock = threading.Lock()
        self._ends: dict[tuple[str, State], int] = {}
        self._runtimes: dict[str, Runtimes] = {}
        self._handled: dict[tuple[str, str], Handled] = {}
        self._revoked: deque[str] = deque(maxlen=_REVOKED)

    def add(self, pairs: Iterable[Settled]) -> None:
        """Count outcomes; those without a state, such as releases, are passed over."""
        with self._lock:
            for delivery, settled in pairs:
                state = settled.state
                if state is None:
                    continue
                name = settled.name or settled.task
                if name not in self._registered:
                    name = UNREGISTERED
                self._ends[name, state] = self._ends.get((name, state), 0) + 1
                if state is State.REVOKED:
                    self._revoked.append(settled.task_id)
                self._handle(delivery, settled, name)
                record = settled.record
                if record is not None and record.started_at and record.finished_at:
                    self._time(name, record.finished_at - record.started_at)

    def add_plain(self, ended: Ends) -> None:
        """Count plain calls that have succeeded."""
        tray, ends = ended.tray, ended.ends
        name, whole = tray.message.task, tray.parcel.whole
        share = len(ends) / len(tray.calls)
        with self._lock:
            self._ends[name, State.SUCCESS] = self._ends.get((name, State.SUCCESS), 0) + len(ends)
            row = self._row(whole.queue, name)
            row.tasks += len(ends)
            row.messages += share
            row.size += share * len(whole.body)
            row.records += len(ends)
            row.stored += sum(_RECORD + len(end[1] or "") for end in ends)
            for _, _, started, finished, _ in ends:
                self._time(name, finished - started)

    def _row(self, queue: str, task: str) -> Handled:
        row = self._handled.get((queue, task))
        if row is None:
            row = self._handled[queue, task] = Handled()
        return row

    def _handle(self, delivery: Delivery, settled: Settlement, task: str) -> None:
        row = self._row(delivery.queue, task)
        row.tasks += settled.state is not State.RETRY
        # The calls of a bundle share its message.
        share = 1 / len(delivery.parcel.calls) if isinstance(delivery, Part) else 1
        row.messages += share
        row.size += share * len(delivery.body)
        record = settled.record
        if record is not None:
            row.records += 1
            row.stored += _RECORD + len(record.value or "") + len(record.traceback or "")

    def _time(self, task: str, took: float) -> None:
        kept = self._runtimes.get(task)
        if kept is None:
            kept = self._runtimes[task] = Runtimes([0] * (len(BUCKETS) + 1))
        kept.counts[bisect_left(BUCKETS, took)] += 1
        kept.total += took

    def ends(self) -> dict[tuple[str, str], int]:
        """Return how often each task ended in each state; each RETRY counts."""
        with self._lock:
            return {(task, str(state)): count for (task, state), count in self._ends.items()}

    def runtimes(self) -> dict[str, tuple[Sequence[int], float]]:
        """Return, by task, how many ran up to each bound and above the last, and their seconds."""
        with self._lock:
            return {task: (tuple(r.counts), r.total) for task, r in self._runtimes.items()}

    def handled(self) -> dict[Called, Handled]:
        """Return what was settled of each task on each queue, for its share of the bill."""
        with self._lock:
            return {
                Called(short_name(queue), task): replace(row)
                for (queue, task), row in self._handled.items()
            }

    def revoked(self) -> list[str]:
        """Return the ids of the latest revoked tasks that came here, the oldest first."""
        with self._lock:
            return list(self._revoked)

    def states(self) -> Counter[str]:
        """Return how many tasks ended in each state."""
        totals: Counter[str] = Counter()
        for (_, state), count in self.ends().items():
            totals[state] += count
        return totals


def short_name(queue: str) -> str:
    """Return the name of a queue that is given as a URL or a path; another one as it is."""
    return queue.rpartition("/")[2]
