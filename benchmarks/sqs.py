"""SQS: billed requests a task, counted from the client's own calls, and CPU a task."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench_tasks import app, count_requests, noop
from harness import BenchWorker, Figure, until, worker

from cloudq import AsyncResult, wait_for
from localstack.aws import MINISTACK
from localstack.servers import Endpoint, start

COUNT = 2_000
IDLE = 60.0


class Requests:
    """The requests that processes have noted in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def reset(self) -> None:
        os.truncate(self.path, 0)

    def counts(self) -> Counter[str]:
        return Counter(self.path.read_text().split())


def measure(quick: bool) -> Iterator[Figure]:
    """Everything that SQS bills, over a local server."""
    count = COUNT // 10 if quick else COUNT
    with tempfile.TemporaryDirectory() as folder, start(MINISTACK) as endpoint:
        os.environ.update(endpoint.environment)
        requests = Requests(Path(folder, "requests"))
        table = "bench"
        app.configure(broker="sqs://", backend=f"dynamodb://{table}")
        app.broker.admin.create("bench", lease=60, max_deliveries=10)
        app.backend.driver.create_store()  # type: ignore[union-attr]
        count_requests(str(requests.path))
        yield from _drained(endpoint, requests, count)
        yield from _alongside(endpoint, requests, count)
        yield from _idle(endpoint, requests, 21.0 if quick else IDLE)
        app.close()


def _worker(endpoint: Endpoint, requests: Requests) -> BenchWorker:
    return worker(
        *("-Q", "bench"),
        CLOUDQ_BROKER="sqs://",
        CLOUDQ_BACKEND="dynamodb://bench",
        BENCH_REQUESTS=str(requests.path),
        CLOUDQ_WORKER_POLL_WAIT="20",
        **{k: v for k, v in endpoint.environment.items() if not k.startswith("CLOUDQ_")},
    )


def _drained(endpoint: Endpoint, requests: Requests, count: int) -> Iterator[Figure]:
    """Published first, then drained by a worker that is started for it."""
    for together in (True, False):
        requests.reset()
        results = _publish(count, together=together)
        with _worker(endpoint, requests) as running:
            before = sum(running.cpu())
            begin = time.perf_counter()
            wait_for(results, timeout=300)
            took = time.perf_counter() - begin
            _until_empty()
            cpu = sum(running.cpu()) - before
            counts = requests.counts()
        shown = ", ".join(f"{name} {number:,}" for name, number in counts.most_common(3))
        yield Figure(
            what=f"SQS requests, {count:,} published {'together' if together else 'one by one'}",
            value=counts.total() / count,
            unit="a task",
            target=0.31 if together else 1.3,
            note=shown,
        )
        if together:
            yield Figure(
                what="  worker CPU on SQS + DynamoDB",
                value=1e6 * cpu / count,
                unit="us/task",
                note=f"drained at {count / took:,.0f} tasks/s",
            )


def _alongside(endpoint: Endpoint, requests: Requests, count: int) -> Iterator[Figure]:
    """Published one by one while a worker runs."""
    with _worker(endpoint, requests):
        requests.reset()
        wait_for(_publish(count, together=False), timeout=300)
        _until_empty()
        counts = requests.counts()
    yield Figure(
        what=f"SQS requests, {count:,} one by one, worker running",
        value=counts.total() / count,
        unit="a task",
        note=", ".join(f"{name} {number:,}" for name, number in counts.most_common(3)),
    )


def _idle(endpoint: Endpoint, requests: Requests, seconds: float) -> Iterator[Figure]:
    with _worker(endpoint, requests):
        time.sleep(1.0)  # the first looks, before the queue is known to be empty
        requests.reset()
        time.sleep(seconds)
        idle = requests.counts().total()
    yield Figure(
        what="SQS requests while idle",
        value=idle * 60 / seconds,
        unit="a minute",
        target=3,
        note=f"one queue, {seconds:g} s watched",
    )


def _publish(count: int, *, together: bool) -> list[AsyncResult[int]]:
    if together:
        return app.publish([noop.prepare(number) for number in range(count)])
    return [noop.delay(number) for number in range(count)]


def _until_empty() -> None:
    def empty() -> bool:
        stats = app.broker.admin.stats("bench")
        return not stats.ready and not stats.leased

    time.sleep(0.2)
    until(empty, within=30)
