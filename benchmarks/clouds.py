"""Google and Azure on their stand-ins: messages a second and requests a task on the broker."""

from __future__ import annotations

import json
import os
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_tasks import app, count_requests, noop
from harness import Figure, worker

from cloudq import wait_for
from localstack.azure import SERVICEBUS, TABLES
from localstack.google import FIRESTORE, PUBSUB
from localstack.servers import start

COUNT = 2_000
QUEUE = "bench"


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A broker and a store on stand-ins, and how its requests are counted."""

    name: str
    environment: dict[str, str]
    requests: Callable[[], Counter[str]]
    reset: Callable[[], None]


def measure(quick: bool) -> Iterator[Figure]:
    """Each cloud in turn."""
    count = COUNT // 10 if quick else COUNT
    for opened in (_google, _azure):
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            yield from _drained(opened(stack, Path(folder, "requests")), count)


def _google(stack: ExitStack, noted: Path) -> Cloud:
    servers = [stack.enter_context(start(spec)) for spec in (PUBSUB, FIRESTORE)]
    environment = {k: v for server in servers for k, v in server.environment.items()}
    noted.touch()
    return Cloud(
        name="Pub/Sub",
        environment={**environment, "BENCH_REQUESTS": str(noted)},
        requests=lambda: Counter(noted.read_text().split()),
        reset=lambda: os.truncate(noted, 0),
    )


def _azure(stack: ExitStack, noted: Path) -> Cloud:
    servers = [stack.enter_context(start(spec)) for spec in (SERVICEBUS, TABLES)]
    environment = {k: v for server in servers for k, v in server.environment.items()}
    admin = environment["CLOUDQ_BROKER"].partition("admin=")[2].partition("&")[0]
    before: Counter[str] = Counter()

    def total() -> Counter[str]:
        with urllib.request.urlopen(f"http://{admin}/_stats") as answer:
            stats: dict[str, Any] = json.load(answer)
        return Counter({name: value for name, value in stats.items() if isinstance(value, int)})

    def reset() -> None:
        before.clear()
        before.update(total())

    return Cloud(
        name="Service Bus",
        environment=environment,
        requests=lambda: total() - before,
        reset=reset,
    )


def _drained(cloud: Cloud, count: int) -> Iterator[Figure]:
    """Published together, then drained by a worker that runs already."""
    os.environ.update(cloud.environment)
    app.configure(
        broker=cloud.environment["CLOUDQ_BROKER"], backend=cloud.environment["CLOUDQ_BACKEND"]
    )
    app.broker.admin.create(QUEUE, lease=60, max_deliveries=10)
    assert app.backend is not None
    app.backend.driver.create_store()  # type: ignore[attr-defined]
    if "BENCH_REQUESTS" in cloud.environment:
        count_requests(cloud.environment["BENCH_REQUESTS"])
    with worker("-Q", QUEUE, **cloud.environment) as running:
        for together in (True, False):
            number = count if together else count // 4
            cloud.reset()
            before, begin = sum(running.cpu()), time.perf_counter()
            if together:
                results = app.publish([noop.prepare(n) for n in range(number)])
            else:
                results = [noop.delay(n) for n in range(number)]
            wait_for(results, timeout=300)
            took = time.perf_counter() - begin
            time.sleep(0.5)  # the last acks
            requests = cloud.requests()
            how = "together" if together else "one by one"
            yield Figure(
                what=f"{cloud.name} requests, {number:,} published {how}",
                value=requests.total() / number,
                unit="a task",
                note=", ".join(f"{name} {n:,}" for name, n in requests.most_common(4)),
            )
            yield Figure(
                what=f"  {cloud.name} end to end, {how}",
                value=number / took,
                unit="tasks/s",
                better="more",
                note=f"worker CPU {1e6 * (sum(running.cpu()) - before) / number:,.0f} us/task",
            )
    app.close()
    for name in cloud.environment:
        os.environ.pop(name, None)
