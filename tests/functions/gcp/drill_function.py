"""The functions that the Pub/Sub drill deploys: each run of a task is noted in a ledger."""

from __future__ import annotations

import os
from typing import Any

import functions_framework

from cloudq import CloudQ, Task
from cloudq.errors import Reject
from cloudq_gcp import cloud_event_handler, push_handler

app = CloudQ("drill", max_retries=5)


def note(entry: object) -> None:
    """Append a line to the ledger; whole, whoever else appends."""
    ledger = os.open(os.environ["DRILL_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{entry}\n".encode())
    os.close(ledger)


@app.task(bind=True, default_retry_delay=0.0)
def charge(self: Task[..., int], order: int, failures: int = 0) -> int:
    """Fails as often as it is told to: each retry is a copy that is pushed."""
    note(self.request.id)
    if self.request.retries < failures:
        raise self.retry(exc=ValueError(f"try {self.request.retries}"))
    return order * 100


@app.task(bind=True)
def later(self: Task[..., int], order: int) -> int:
    """Fails once, to be tried again after a while, which Pub/Sub knows nothing of."""
    note(self.request.id)
    if not self.request.retries:
        raise self.retry(countdown=1.5)
    return order


@app.task(bind=True)
def pick(self: Task[..., int], order: int, marker: str) -> int:
    """Is put back once: a nack, and the same message is pushed again."""
    note(self.request.id)
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return order
    raise Reject("busy", requeue=True)


_run = cloud_event_handler(app)
_answer = push_handler(app, verify=False)


@functions_framework.cloud_event
def on_event(event: Any) -> None:
    _run(event)


@functions_framework.http
def on_push(request: Any) -> tuple[str, int]:
    return _answer(request)
