"""The app that the fault drill runs: effects that must come once, and chords."""

from __future__ import annotations

from drill_tasks import note  # found through PYTHONPATH, as a user's module is

from cloudq import CloudQ, Task

app = CloudQ("drills")


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
