"""The embedded broker: tasks a second end to end, and the round trip of one task."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench_tasks import app, noop
from harness import Figure, percentile, worker

from cloudq import wait_for

COUNT = 20_000
ROUND_TRIPS = 500


def measure(quick: bool) -> Iterator[Figure]:
    """Throughput and latency, with the relaxed and with the default durability."""
    yield from _measure("normal", quick, targets=True)
    yield from _measure("full", quick, targets=False)


def _measure(synchronous: str, quick: bool, *, targets: bool) -> Iterator[Figure]:
    count = COUNT // 10 if quick else COUNT
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder, 'bench.db')}?synchronous={synchronous}"
        app.configure(broker=url, backend=url)
        options = ("-Q", "bench", "--broker", url, "--backend", url)
        with worker(*options, "--processes", "1", "--threads", "256") as running:
            noop.delay(0).get(timeout=10)
            ours, theirs = os.times(), running.cpu()
            rates = [_throughput(count) for _ in range(3)]
            spent = os.times()
            client = spent.user + spent.system - ours.user - ours.system
            cpu = [1e6 * (b - a) / count / 3 for a, b in zip(theirs, running.cpu(), strict=True)]
            bundled = [_throughput(count, bundle=100) for _ in range(3)]
            trips = [_round_trip() for _ in range(ROUND_TRIPS)]
            rss = running.rss()
        app.close()
    note = f"synchronous={synchronous}"
    yield Figure(
        what="embedded, end to end, results stored: best of 3",
        value=max(rates),
        unit="tasks/s",
        target=10_000 if targets else None,
        better="more",
        note=f"{note}, {count:,} no-ops, median {median(rates):,.0f}",
    )
    yield Figure(
        what="  CPU of client, supervisor and child",
        value=1e6 * client / count / 3 + sum(cpu),
        unit="us/task",
        note=f"{1e6 * client / count / 3:.0f} + " + " + ".join(f"{each:.0f}" for each in cpu),
    )
    yield Figure(
        what="  in bundles of 100: best of 3",
        value=max(bundled),
        unit="tasks/s",
        target=20_000 if targets else None,
        better="more",
        note=f"median {median(bundled):,.0f}",
    )
    yield Figure(
        what="  round trip p50",
        value=1e3 * percentile(trips, 50),
        unit="ms",
        target=1.0 if targets else None,
        note=note,
    )
    yield Figure(what="  round trip p99", value=1e3 * percentile(trips, 99), unit="ms", note=note)
    if targets:
        yield Figure(
            what="worker RSS, supervisor and one child",
            value=sum(rss),
            unit="MB",
            note=" + ".join(f"{each:.0f}" for each in rss),
        )


def _throughput(count: int, *, bundle: int | None = None) -> float:
    start = time.perf_counter()
    results = app.publish([noop.prepare(number) for number in range(count)], bundle=bundle)
    records = wait_for(results, timeout=120)
    rate = count / (time.perf_counter() - start)
    assert all(record.state == "SUCCESS" for record in records)
    return rate


def _round_trip() -> float:
    start = time.perf_counter()
    noop.delay(1).get(timeout=10)
    return time.perf_counter() - start
