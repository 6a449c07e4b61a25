"""The app that the benchmarks run; every SQS request of a process that imports it is noted."""

from __future__ import annotations

import os

from cloudq import CloudQ

app = CloudQ("bench", task_default_queue=os.environ.get("BENCH_QUEUE", "bench"))


@app.task
def noop(number: int) -> int:
    return number


def count_requests(into: str) -> None:
    """Append the operation of each request that this process sends to SQS, retries included."""
    note = os.open(into, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def sent(request: object, event_name: str, **_: object) -> None:
        os.write(note, f"{event_name.rpartition('.')[2]}\n".encode())

    app.broker.driver.client.meta.events.register("before-send.sqs", sent)  # type: ignore[attr-defined]


if "BENCH_REQUESTS" in os.environ and app.conf.broker.startswith("sqs:"):
    count_requests(os.environ["BENCH_REQUESTS"])
