"""The app that the fault drill runs: effects that must come once, and chords."""

from __future__ import annotations

import os
import time

from drill_tasks import note  # found through PYTHONPATH, as a user's module is

from cloudq import CloudQ, Task

app = CloudQ("drills")


def _skew(seconds: float) -> None:
    """Let the clock of this process be wrong by so many seconds."""
    right = time.time
    time.time = lambda: right() + seconds


if os.environ.get("DRILL_SKEW", "0.0") != "0.0":
    _skew(float(os.environ["DRILL_SKEW"]))


@app.task(name="charge", bind=True, idempotent=True, max_retries=5, default_retry_delay=0.0)
def charge(self: Task[..., int], number: int) -> int:
    """Note the effect; every seventh call is tried again before it comes to that."""
    if number % 7 == 0 and not self.request.retries:
        raise self.retry()
    note(f"charge {number}")
    return number * 2


@app.task(name="square")
def square(number: int) -> int:
    return number * number


@app.task(name="added")
def added(values: list[int]) -> list[int]:
    return [len(values), sum(values)]
