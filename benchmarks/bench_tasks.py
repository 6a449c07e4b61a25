"""The app that the benchmarks run; requests of a process that imports it can be noted."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cloudq import CloudQ

app = CloudQ("bench", task_default_queue=os.environ.get("BENCH_QUEUE", "bench"))


@app.task
def noop(number: int) -> int:
    return number


@app.task
def gathered(values: list[int]) -> int:
    return len(values)


def count_requests(into: str) -> None:
    """Append the operation of each request that this process sends to the broker."""
    driver: Any = app.broker.driver
    if app.conf.broker.startswith("sqs:"):
        _count_sent(driver.client, "sqs", _opened(into))
    elif app.conf.broker.startswith("pubsub:"):
        requests, note = driver._requests, _opened(into)
        for name in ("publish", "pull", "modify", "acknowledge"):
            setattr(requests, name, _counted(getattr(requests, name), name, note))


def count_store_requests(into: str) -> None:
    """Append the operation of each request that this process sends to DynamoDB."""
    backend: Any = app.backend
    _count_sent(backend.driver.client, "dynamodb", _opened(into))


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _count_sent(client: Any, service: str, note: int) -> None:
    def sent(request: object, event_name: str, **_: object) -> None:
        os.write(note, f"{event_name.rpartition('.')[2]}\n".encode())

    client.meta.events.register(f"before-send.{service}", sent)  # retries are counted too


def _counted(call: Callable[..., Any], name: str, note: int) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        count = len(args[1]) if name == "publish" else 1  # a request for each batch
        os.write(note, f"{name}\n".encode() * count)
        return call(*args, **kwargs)

    return counted


if "BENCH_REQUESTS" in os.environ:
    count_requests(os.environ["BENCH_REQUESTS"])
if "BENCH_STORE_REQUESTS" in os.environ:
    count_store_requests(os.environ["BENCH_STORE_REQUESTS"])
