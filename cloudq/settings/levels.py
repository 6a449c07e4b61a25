"""The events that are recorded."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """The events of a task that are recorded."""

    NONE = "none"
    FAILED = "failed"  # what failed for good, and was rejected
    FINAL = "final"  # how tasks ended
    TRACKED = "tracked"  # also that they started, and were retried
