"""Scales a worker's processes: more while all are busy, fewer when some have nothing to do."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil

# Seconds that all threads must be busy before another process is started.
_GROW_AFTER = 1.0


@dataclass(slots=True, kw_only=True)
class Autoscale:
    """Decides on the number of processes, between `least` and `most`.

    Each process runs `threads` tasks at a time. One more is started when all threads were busy for
    a second; one leaves when the others could have done the work for `idle` seconds. Times are
    monotonic seconds.
    """

    most: int
    least: int
    threads: int
    idle: float
    _full_since: float | None = field(default=None, init=False)
    _idle_since: float | None = field(default=None, init=False)

    def decide(self, now: float, busy: int, processes: int) -> int:
        """Return the number of processes there should be, with `busy` tasks received."""
        full = busy >= processes * self.threads
        spare = busy <= (processes - 1) * self.threads
        self._full_since = (self._full_since or now) if full else None
        self._idle_since = (self._idle_since or now) if spare else None
        if self._full_since is not None and now - self._full_since >= _GROW_AFTER:
            self._full_since = None
            return min(self.most, processes + 1)
        if self._idle_since is not None and now - self._idle_since >= self.idle:
            self._idle_since = None
            return max(self.least, processes - 1)
        return processes


def memory_of(pid: int) -> int:
    """Return the resident memory of a process in KiB; 0 when it is gone."""
    try:
        return psutil.Process(pid).memory_info().rss // 1024
    except psutil.Error:
        return 0
