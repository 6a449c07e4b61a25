"""Workflows: latency of chains, chords end to end, publishing of groups, and requests a member."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from bench_tasks import app, gathered, noop
from harness import Figure, worker

from cloudq import chain, chord, group
from cloudq.execution.commit import commit, dispose
from localstack.aws import MINISTACK
from localstack.servers import start

CHAIN, CHORD, GROUP, BILLED = 100, 1_000, 10_000, 200


def measure(quick: bool) -> Iterator[Figure]:
    """Everything over SQLite, then what SQS and DynamoDB bill over a local server."""
    part = 10 if quick else 1
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/workflows.db"
        app.configure(broker=url, backend=url)
        with worker("-Q", "bench", CLOUDQ_BROKER=url, CLOUDQ_BACKEND=url):
            yield from _chain(CHAIN // part)
            yield from _chord(CHORD // part)
        yield from _group(GROUP // part)
        app.close()
    with start(MINISTACK) as endpoint:
        os.environ.update(endpoint.environment)
        app.configure(broker="sqs://", backend="dynamodb://workflows")
        app.broker.admin.create("bench", lease=60, max_deliveries=10)
        app.backend.driver.create_store()  # type: ignore[union-attr]
        yield from _requests(BILLED // part)
        app.close()


def _took(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _chain(steps: int) -> Iterator[Figure]:
    flow = chain([noop.s(1), *(noop.s() for _ in range(steps - 1))])
    times = sorted(_took(lambda: flow.delay().get(timeout=60)) for _ in range(3))
    yield Figure(
        what=f"chain of {steps} on SQLite, one worker",
        value=1e3 * times[1] / steps,
        unit="ms/step",
        target=10,
        note=f"{times[1]:.2f} s in all, median of 3",
    )


def _chord(members: int) -> Iterator[Figure]:
    flow = chord([noop.s(n) for n in range(members)], gathered.s())
    took = _took(lambda: flow.delay().get(timeout=120))
    yield Figure(
        what=f"chord of {members:,} on SQLite, end to end",
        value=members / took,
        unit="members/s",
        target=500,
        better="more",
        note=f"{took:.2f} s in all",
    )


def _group(members: int) -> Iterator[Figure]:
    took = _took(lambda: group(noop.s(n) for n in range(members)).delay())
    yield Figure(
        what=f"group of {members:,} published from a generator on SQLite",
        value=members / took,
        unit="members/s",
        target=5_000,
        better="more",
        note=f"{took:.2f} s in all",
    )


def _requests(members: int) -> Iterator[Figure]:
    """Billed requests of a chord, counted where they are sent; a plain group beside it."""
    counts: Counter[str] = Counter()

    def count(model: Any, **_: Any) -> None:
        counts[model.name] += 1

    for driver in (app.broker.driver, app.backend.driver):  # type: ignore[union-attr]
        driver.client.meta.events.register("before-call", count)  # type: ignore[attr-defined]
    results = {}
    for name, flow in (
        ("group", group([noop.s(n) for n in range(members)])),
        ("chord", chord([noop.s(n) for n in range(members)], gathered.s())),
    ):
        counts.clear()
        result = flow.delay()
        _work_off()
        assert result.ready()
        results[name] = Counter(counts)
    chords, groups = results["chord"].total(), results["group"].total()
    shown = ", ".join(f"{name} {number}" for name, number in results["chord"].most_common(5))
    yield Figure(
        what=f"requests a member of a chord of {members} on SQS + DynamoDB",
        value=chords / members,
        unit="a member",
        target=1.5,
        note=shown,
    )
    yield Figure(
        what="  more than a member of a plain group",
        value=(chords - groups) / members,
        unit="a member",
        target=0.5,
        note="members that are recorded together leave the join in one request",
    )


def _work_off() -> None:
    """Run what is queued here, in batches as a worker settles them."""
    executor = app.executor(hostname="bench")
    while deliveries := app.broker.receive("bench", count=10, wait=1.0, lease=60):
        jobs, settled = executor.open(deliveries)
        settled += [(job.delivery, executor.run(job)) for job in jobs]
        done = commit(settled, app.broker, app.backend, app.workflows.joins)
        assert not done.failed, done.error
        dispose(done.ready, app.broker)
