"""The same tasks on cloudq, for the same queue; see `celery_program.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cloudq import CloudQ, Task

QUEUE = os.environ["PROGRAM_QUEUE"]

app = CloudQ(
    "program",
    broker=f"sqs://?endpoint_url={os.environ['PROGRAM_SQS']}",
    backend=os.environ["PROGRAM_BACKEND"],
    task_default_queue=QUEUE,
    queue_accept={QUEUE: ["celery"]},
    worker_poll_wait=1.0,
)


def note(entry: dict[str, Any]) -> None:
    with Path(os.environ["PROGRAM_LEDGER"]).open("a") as file:
        file.write(json.dumps(entry) + "\n")


@app.task(name="program.add", bind=True)
def add(self: Task[..., int], x: int, y: int = 0) -> int:
    request = self.request
    times = {"eta": request.eta and str(request.eta), "expires": str(request.expires)}
    limits = [request.time_limit, request.soft_time_limit]
    seen = {"id": request.id, "root": request.root_id, "tenant": request.headers.get("tenant")}
    note({"by": "cloudq", "task": "add", "args": [x, y], "limits": limits, **times, **seen})
    return x + y


@app.task(name="program.show")
def show(*args: Any, **kwargs: Any) -> None:
    note({"by": "cloudq", "task": "show", "args": repr(args), "kwargs": repr(kwargs)})


@app.task(name="program.flaky", bind=True, max_retries=2)
def flaky(self: Task[..., str], word: str) -> str:
    note({"by": "cloudq", "task": "flaky", "args": [word], "retries": self.request.retries})
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return word


@app.task(name="program.total")
def total(values: list[int]) -> int:
    note({"by": "cloudq", "task": "total", "args": values})
    return sum(values)


@app.task(name="program.broken")
def broken(word: str) -> None:
    raise ValueError(word)


@app.task(name="program.failed")
def failed(task_id: str) -> None:
    note({"by": "cloudq", "task": "failed", "args": [task_id]})
