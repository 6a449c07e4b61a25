"""Outcomes that are recorded and acked in one transaction end as those of the usual way do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, State
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import Settled, Settlement

log = Log("cloudq.tests")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "both.db"


@pytest.fixture
def app(file: Path) -> Iterator[CloudQ]:
    with CloudQ("x", broker=f"sqlite:///{file}?synchronous=off", task_events="final") as app:
        yield app


@pytest.fixture
def heard() -> list[Settlement]:
    return []


@pytest.fixture
def consumer(app: CloudQ, heard: list[Settlement]) -> Consumer:
    return Consumer(app.executor(hostname="here"), log=log, heard=heard.append)


def outcomes(consumer: Consumer, count: int) -> list[Settled]:
    """Receive and run; what is to be done about each, not done yet."""
    deliveries = consumer.broker.receive("default", count=count, wait=0.0, lease=60.0)
    jobs, settled = consumer.open(deliveries)
    return [*settled, *((job.delivery, consumer.run_job(job)) for job in jobs)]


def twice(n: int) -> int:
    return 2 * n


def one() -> int:
    return 1


def left(app: CloudQ) -> int:
    stats = app.broker.admin.stats("default")
    return sum(count or 0 for count in (stats.ready, stats.delayed, stats.leased))


def rows(file: Path) -> list[tuple[Any, ...]]:
    """All items but their times, in order."""
    with closing(sqlite3.connect(file)) as database:
        found = database.execute("SELECT partition, sort, fields FROM items ORDER BY 1, 2")
        return found.fetchall()


def test_plain_outcomes_are_settled_at_once(
    app: CloudQ, consumer: Consumer, heard: list[Settlement]
) -> None:
    double = app.task(name="double")(twice)
    results = [double.delay(n) for n in range(3)]
    pairs = outcomes(consumer, 3)
    assert consumer.settle_at_once(pairs) == pairs
    assert heard == [settlement for _, settlement in pairs]
    assert [result.get(timeout=0) for result in results] == [0, 2, 4]
    assert left(app) == 0


def test_it_writes_what_commit_and_dispose_write(
    app: CloudQ, consumer: Consumer, file: Path
) -> None:
    double = app.task(name="double")(twice)
    quiet = app.task(name="quiet", ignore_result=True)(twice)
    for n in range(3):
        double.delay(n)
        quiet.delay(n)
    pairs = outcomes(consumer, 6)
    batch = consumer.commit(pairs)
    assert batch.ready == pairs
    usual = rows(file)
    assert left(app) == 6
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DELETE FROM items WHERE partition LIKE 'task#%'")
    assert consumer.settle_at_once(pairs) == pairs
    assert [row for row in rows(file) if row[0].startswith("task#")] == [
        row for row in usual if row[0].startswith("task#")
    ]
    assert left(app) == 0


def test_what_is_more_than_a_record_and_an_ack_is_left(app: CloudQ, consumer: Consumer) -> None:
    @app.task(name="any", bind=True, max_retries=1)
    def any_of(self: Any, kind: str) -> str:
        if kind == "retry":
            raise self.retry(countdown=0)
        if kind == "fail":
            raise ValueError(kind)
        return kind

    plain = [any_of.delay("value"), any_of.delay("fail")]
    (any_of.si("first") | any_of.si("next")).delay()
    any_of.delay("retry")
    any_of.apply_async(("key",), idempotency_key="key")
    pairs = outcomes(consumer, 5)
    done = consumer.settle_at_once(pairs)
    assert {settlement.task_id for _, settlement in done} >= {plain[0].id}
    for _, settlement in done:
        assert not any((settlement.resend, settlement.starts, settlement.drop))
    left_over = [pair for pair in pairs if pair not in done]
    assert any(settlement.resend for _, settlement in left_over)
    assert any(settlement.starts for _, settlement in left_over)
    assert len(consumer.finish(left_over)) == len(left_over)


def test_the_end_of_a_call_of_a_bundle_that_goes_alone_is_left_to_its_bundle(
    app: CloudQ, consumer: Consumer
) -> None:
    @app.task(bind=True)
    def again(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)

    app.publish([again.prepare() for _ in range(2)], bundle=2)
    consumer.consume(consumer.broker.receive("default", count=1, wait=0.0, lease=60.0))
    pairs = outcomes(consumer, 2)
    assert len(pairs) == 2
    assert consumer.settle_at_once(pairs) == []
    consumer.finish(pairs)
    assert left(app) == 0


def test_a_fenced_record_is_left(app: CloudQ, consumer: Consumer) -> None:
    app.task(name="t")(one).delay()
    ((delivery, settlement),) = outcomes(consumer, 1)
    assert consumer.settle_at_once([(delivery, replace(settlement, fenced=True))]) == []
    assert left(app) == 1


def test_a_lost_lease_leaves_all_to_the_usual_way(
    app: CloudQ, consumer: Consumer, heard: list[Settlement]
) -> None:
    task = app.task(name="t")(one)
    results = [task.delay() for _ in range(2)]
    pairs = outcomes(consumer, 2)
    consumer.broker.release([pairs[1][0]])
    assert consumer.settle_at_once(pairs) == []
    assert [result.state for result in results] == [State.PENDING] * 2
    assert heard == []
    assert left(app) == 2


def test_a_store_that_fails_leaves_all_to_the_usual_way(
    app: CloudQ, consumer: Consumer, file: Path, heard: list[Settlement]
) -> None:
    app.task(name="t")(one).delay()
    pairs = outcomes(consumer, 1)
    with closing(sqlite3.connect(file)) as database:
        database.execute("ALTER TABLE items RENAME TO gone")
    assert consumer.settle_at_once(pairs) == []
    assert consumer.commit(pairs).error is not None
    assert heard == []
    with closing(sqlite3.connect(file)) as database:
        database.execute("ALTER TABLE gone RENAME TO items")
    assert consumer.settle_at_once(pairs) == pairs
    assert left(app) == 0


@pytest.mark.parametrize("backend", ["memory://at-once", "sqlite:///{}.other"])
def test_where_the_store_is_elsewhere_all_is_left(file: Path, backend: str) -> None:
    with CloudQ("x", broker=f"sqlite:///{file}", backend=backend.format(file)) as app:
        consumer = Consumer(app.executor(hostname="here"), log=log)
        app.task(name="t")(one).delay()
        pairs = outcomes(consumer, 1)
        assert consumer.settle_at_once(pairs) == []
        assert consumer.finish(pairs) == pairs
        assert left(app) == 0
