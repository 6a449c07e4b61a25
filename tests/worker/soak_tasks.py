"""The app of the soak: calls of every kind that a worker has to do with, day in, day out."""

from __future__ import annotations

from cloudq import CloudQ, Task, every
from tests.worker.drill_tasks import note

app = CloudQ("soak")


@app.task(name="plain")
def plain(number: int) -> int:
    return number * 2


@app.task(name="once", idempotent=True)
def once(number: int) -> int:
    return number * 3


@app.task(name="again", bind=True, max_retries=3, default_retry_delay=0.5)
def again(self: Task[..., int], number: int) -> int:
    """Succeed when it is tried for the third time."""
    if self.request.retries < 2:
        raise self.retry()
    return number + self.request.retries


@app.task(name="broken", max_retries=0)
def broken(number: int) -> int:
    raise ValueError(f"{number} is of no use")


@app.task(name="same")
def same(text: str) -> str:
    return text


@app.task(name="added")
def added(values: list[int]) -> int:
    return sum(values)


@app.periodic(every(2.0))
@app.task(name="tick", ignore_result=True)
def tick() -> None:
    note("tick")
