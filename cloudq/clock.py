"""The time as a value that can be handed in, so that tests can bring their own."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Tells the time in epoch seconds."""


def real_time() -> float:
    """The time of this machine, in epoch seconds."""
    return time.time()
