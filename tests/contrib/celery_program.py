"""A program of Celery's own, as it is found in the wild: it knows nothing of cloudq.

The environment says where: `PROGRAM_SQS` is the URL of an SQS, `PROGRAM_QUEUE` the queue, and
`PROGRAM_LEDGER` the file to which its tasks write what they did.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery

QUEUE = os.environ["PROGRAM_QUEUE"]
_ADDRESS = os.environ["PROGRAM_SQS"].removeprefix("http://")

app = Celery("program", backend="cache+memory://")
app.conf.update(
    broker_url=f"sqs://test:test@{_ADDRESS}",
    broker_transport_options={
        "region": os.environ["AWS_REGION"],
        "is_secure": False,
        "polling_interval": 0.1,
        "wait_time_seconds": 1,
    },
    task_default_queue=QUEUE,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


def note(entry: dict[str, Any]) -> None:
    with Path(os.environ["PROGRAM_LEDGER"]).open("a") as file:
        file.write(json.dumps(entry) + "\n")


@app.task(name="program.add", bind=True)
def add(self: Any, x: int, y: int = 0) -> int:
    request = self.request
    eta, expires, limits = request.eta, request.expires, request.timelimit
    root, tenant = request.root_id, (request.headers or {}).get("tenant") or request.get("tenant")
    times = {"eta": eta and str(eta), "expires": expires and str(expires), "limits": limits}
    seen = {"id": request.id, "retries": request.retries, "root": root, "tenant": tenant}
    note({"by": "celery", "task": "add", "args": [x, y], "value": x + y, **times, **seen})
    return x + y


@app.task(name="program.show")
def show(*args: Any, **kwargs: Any) -> None:
    note({"by": "celery", "task": "show", "args": repr(args), "kwargs": repr(kwargs)})


@app.task(name="program.flaky", bind=True, max_retries=2)
def flaky(self: Any, word: str) -> str:
    note({"by": "celery", "task": "flaky", "args": [word], "retries": self.request.retries})
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return word
