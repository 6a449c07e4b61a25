"""Tells apart the calls that were given the same task id: each has a mark, a later one a greater.

A call whose id is a new UUID needs no mark, and has none.
"""

from __future__ import annotations

import os
import threading

from cloudq.clock import Clock
from cloudq.driver.forks import renew_after_fork
from cloudq.results.record import Record

_DIGITS = 14
"""The length of the time in microseconds, as hexadecimal text, so that marks sort by it."""


class Marks:
    """Makes the marks of calls, each greater than those before. Safe to use from many threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0
        self._renew()
        renew_after_fork(self, Marks._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def new(self) -> str:
        """Make the mark of a call that is made now."""
        with self._lock:
            self._last = max(int(self._clock() * 1e6), self._last + 1)
            return f"{self._last:0{_DIGITS}x}{os.urandom(4).hex()}"


def is_older(record: Record, call: str | None) -> bool:
    """Tell whether a record is of an earlier call of its id than this one."""
    return call is not None and (record.call or "") < call


def is_before(record: Record, call: str) -> bool:
    """Tell whether a record is no word about a call, but the end of an earlier one.

    Workers of older releases write no marks: what ended after the call was made may be its end.
    """
    if not record.terminal:
        return False
    if record.call is not None:
        return record.call < call
    return record.finished_at is not None and record.finished_at < _time(call)


def _time(call: str) -> float:
    try:
        return int(call[:_DIGITS], 16) / 1e6
    except ValueError:  # a mark of another producer's
        return 0.0
