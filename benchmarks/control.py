"""Control: requests a worker's heartbeat costs an hour, those of an `inspect`, and its latency."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from bench_tasks import app, count_store_requests
from harness import BenchWorker, Figure, until, worker
from sqs import Requests

from localstack.aws import MINISTACK
from localstack.servers import start

WORKERS = ("one", "two")
TABLE = "control"
# For so long after a command a worker beats each second (see cloudq/worker/control/heartbeat.py).
LIVELY = 16.0
PATIENCE = 30.0


def measure(quick: bool) -> Iterator[Figure]:
    """At the default heartbeat: two workers over SQLite, then on SQS and DynamoDB."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/control.db"
        app.configure(broker=url, backend=url)
        with ExitStack() as stack:
            for name in WORKERS:
                stack.enter_context(_worker(name, CLOUDQ_BROKER=url, CLOUDQ_BACKEND=url))
            until(lambda: len(app.control.heartbeats.alive()) == len(WORKERS), within=PATIENCE)
            times = [_ping() for _ in range(5)]
        app.close()
    yield Figure(
        what="`inspect ping` of two workers on SQLite",
        value=statistics.median(times),
        unit="s",
        target=1.5,
        note="median of 5; a worker beats each second where requests are free",
    )
    with tempfile.TemporaryDirectory() as folder, start(MINISTACK) as endpoint:
        os.environ.update(endpoint.environment)
        app.configure(broker="sqs://", backend=f"dynamodb://{TABLE}")
        app.broker.admin.create("bench", lease=60, max_deliveries=10)
        app.backend.driver.create_store()  # type: ignore[union-attr]
        yield from _billed(Path(folder), quick)
        app.close()


def _billed(folder: Path, quick: bool) -> Iterator[Figure]:
    queues, stores, asked = (Requests(folder / name) for name in ("queues", "stores", "asked"))
    environment = {
        "CLOUDQ_BROKER": "sqs://",
        "CLOUDQ_BACKEND": f"dynamodb://{TABLE}",
        "CLOUDQ_WORKER_POLL_WAIT": "20",
        "BENCH_REQUESTS": str(queues.path),
        "BENCH_STORE_REQUESTS": str(stores.path),
    }
    with ExitStack() as stack:
        stack.enter_context(_worker(WORKERS[0], **environment))
        yield from _an_hour(queues, stores, beats=2 if quick else 4)
        stack.enter_context(_worker(WORKERS[1], **environment))
        until(lambda: len(app.control.heartbeats.alive()) == len(WORKERS), within=PATIENCE)
        count_store_requests(str(asked.path))
        yield from _an_inspect(asked, stores, times=1 if quick else 3)


def _worker(name: str, **environment: str) -> AbstractContextManager[BenchWorker]:
    return worker("-Q", "bench", "-n", name, "--processes", "1", **environment)


def _ping() -> float:
    begin = time.perf_counter()
    replies = app.control.inspect().ping()
    took = time.perf_counter() - begin
    assert replies == {name: {"ok": "pong"} for name in WORKERS}, replies
    return took


def _an_hour(queues: Requests, stores: Requests, *, beats: int) -> Iterator[Figure]:
    """From beat to beat, of one idle worker; the first ones are its start."""

    def beaten(number: int) -> None:
        until(lambda: stores.counts()["UpdateItem"] >= number, within=20.0 * number)

    beaten(1)
    time.sleep(1.0)  # the first looks, before the queue is known to be empty
    queues.reset()
    stores.reset()
    beaten(1)
    begin, before = time.perf_counter(), stores.counts().total()
    beaten(1 + beats)
    took, after = time.perf_counter() - begin, stores.counts()
    yield Figure(
        what="DynamoDB requests of a worker, default heartbeat",
        value=3600 * (after.total() - before) / took,
        unit="an hour",
        target=270,
        note=f"{beats} beats in {took:.0f} s: {_shown(after)} with the first; "
        f"SQS asked {queues.counts().total()} times meanwhile",
    )


def _an_inspect(asked: Requests, stores: Requests, *, times: int) -> Iterator[Figure]:
    """Of workers at rest, which find the command at their next beat; then of woken ones."""
    rest: list[float] = []
    costs: Counter[str] = Counter()
    beats = 0
    for _ in range(times):
        asked.reset()
        stores.reset()
        rest.append(_ping())
        costs += asked.counts()
        costs["reply"] += stores.counts()["BatchWriteItem"]
        stores.reset()
        time.sleep(LIVELY)
        beats += stores.counts()["UpdateItem"]
    woken = [_ping() for _ in range(6)][1:]
    asked.reset()
    stores.reset()
    woken.append(_ping())
    quick_one = asked.counts().total() + stores.counts()["BatchWriteItem"]
    yield Figure(
        what="DynamoDB requests of an `inspect ping` of two workers",
        value=costs.total() / times,
        unit="requests",
        target=22,
        note=f"{_shown(costs)} in {times}; {quick_one} where workers were asked just before",
    )
    yield Figure(
        what="  beats more in the 16 s after it",
        value=beats / times / len(WORKERS),
        unit="a worker",
        target=18,
        note="each second, since the next command is often near",
    )
    yield Figure(
        what="  its latency, workers at rest",
        value=statistics.median(rest),
        unit="s",
        target=17,
        note=f"{', '.join(f'{took:.1f} s' for took in rest)}: the next beat, every 15 s at most",
    )
    yield Figure(
        what="  its latency, asked just before",
        value=statistics.median(woken),
        unit="s",
        target=2.5,
        note="median of 6; workers beat each second, the asker looks every 0.05 to 2 s",
    )


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.most_common())
