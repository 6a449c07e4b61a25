"""Finds processes that a signal has stopped: they neither end nor go on."""

from __future__ import annotations

from collections.abc import Collection

import psutil

# Seconds between two looks.
_EVERY = 1.0


class Frozen:
    """Looks at processes, and finds those that are stopped for longer than `after` seconds.

    A task can stop its process by mistake (SIGSTOP, or a read from its terminal), and nobody tells
    it to go on. The leases of all that it runs would be kept for ever. One that a debugger holds
    is in another state, and left alone.
    """

    def __init__(self, after: float) -> None:
        self._after = after
        self._since: dict[int, float] = {}
        self._next = 0.0

    def look(self, pids: Collection[int], now: float) -> set[int]:
        """Return the ids of the processes found, each once; `now` is in monotonic seconds."""
        if now < self._next:
            return set()
        self._next = now + _EVERY
        self._since = {pid: self._since.get(pid, now) for pid in pids if _is_stopped(pid)}
        found = {pid for pid, since in self._since.items() if now - since >= self._after}
        for pid in found:
            del self._since[pid]
        return found


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:  # it is gone
        return False
