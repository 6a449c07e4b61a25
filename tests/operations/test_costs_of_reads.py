"""Reads that a page needs: quick over much on SQLite, and few requests and no scan on DynamoDB."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.operations import audit, dead_letters, overview, queues, tasks, workers
from cloudq.operations.audit import Actor
from cloudq.operations.dead_letters import DeadFilter
from cloudq.operations.tasks import FAILURES, TaskFilter
from cloudq.results.record import Record, State
from cloudq.testing import drain
from cloudq_local.sqlite_broker import SQLiteBroker
from localstack.servers import Endpoint
from tests.operations.conftest import define, prepare
from tests.servers import unique

TASKS, LETTERS = 100_000, 1_000
# Seconds: 60 ms on a machine that does nothing else, and what a busy one takes besides.
PATIENCE = 0.3


def recorded(app: CloudQ, count: int) -> None:
    """Record so many ends, a hundredth of them failures, as workers do in batches of 50."""
    backend = app.backend
    assert backend is not None
    assert backend.history is not None
    assert backend.history.ends is not None
    now = time.time()
    for start in range(0, count, 500):
        records = [
            Record(
                id=f"id-{number:06d}",
                state=State.SUCCESS,
                task=f"shop.task{number % 20}",
                queue="default",
                worker="w1",
                started_at=now - (count - number) / 1000 - 0.01,
                finished_at=now - (count - number) / 1000,
            )
            for number in range(start, start + 500)
        ]
        at = records[-1].finished_at or now
        backend.history.ends.clock = partial(float, at)  # a commit follows at once
        due = backend.history.ends.add(records)
        backend.store(records)
        if due is not None:
            backend.put([due])
        for record in records[::100]:
            failed = Record(
                id=f"f{record.id}",
                state=State.FAILURE,
                task=record.task,
                queue="default",
                worker="w1",
                error_type="ValueError",
                error=f"no stock of {record.id}",
                started_at=record.started_at,
                finished_at=record.finished_at,
            )
            backend.note(failed)
    backend.write_ends()


def buried(app: CloudQ, count: int) -> None:
    """Leave so many dead letters."""
    task = app.tasks["shop.charge"]
    app.publish([task.prepare(f"sku-{number}") for number in range(count)])
    driver = app.broker.driver
    assert isinstance(driver, SQLiteBroker)
    left = count
    while left:
        found = app.broker.receive("mail", count=100, wait=0.0, lease=60)
        for place, delivery in enumerate(found):
            driver.dead_letter([delivery], reason=f"ValueError: no stock {place % 7}")
        left -= len(found)


@pytest.fixture(scope="module")
def much(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudQ]:
    """An app with 100,000 ends, 1,000 failures and 1,000 dead letters."""
    folder: Path = tmp_path_factory.mktemp("much")
    app = CloudQ("shop", broker=f"sqlite:///{folder}/much.db")
    define(app)
    recorded(app, TASKS)
    buried(app, LETTERS)
    yield app
    app.close()


READS: dict[str, Callable[[CloudQ], object]] = {
    "overview": overview.overview,
    "queues": queues.queues,
    "workers": workers.workers,
    "tasks, newest 100": tasks.search,
    "tasks of a name": lambda app: tasks.search(app, TaskFilter(name="shop.task7")),
    "tasks that match nothing": lambda app: tasks.search(app, TaskFilter(error="zzz")),
    "failures": lambda app: tasks.search(app, FAILURES),
    "failures with a text": lambda app: tasks.search(
        app, TaskFilter(states=FAILURES.states, error="id-00")
    ),
    "a task's life": lambda app: tasks.life(app, "id-050000"),
    "dead letters": dead_letters.search,
    "dead letters with a text": lambda app: dead_letters.search(app, DeadFilter(error="stock 3")),
    "dead letters by reason": lambda app: dead_letters.groups(app, "reason"),
    "dead letters of all queues": dead_letters.summary,
    "audit log": audit.read,
}


@pytest.mark.parametrize("name", READS)
def test_a_page_s_read_is_quick_over_100000_tasks(
    much: CloudQ, name: str, record_property: Callable[[str, object], None]
) -> None:
    best = min(_timed(much, READS[name]) for _ in range(3))
    record_property("milliseconds", round(best * 1000, 1))
    print(f"{name}: {best * 1000:.1f} ms")
    assert best < PATIENCE


def _timed(app: CloudQ, read: Callable[[CloudQ], object]) -> float:
    begin = time.perf_counter()
    read(app)
    return time.perf_counter() - begin


# ---- requests on SQS and DynamoDB

EXPECTED: dict[str, tuple[Callable[[CloudQ], object], int]] = {
    # Two queues with a dead-letter queue each, of which a look at either is a request; the pauses.
    "queues": (queues.queues, 2 * 2 + 1),
    "workers": (workers.workers, 1),
    # The names of what has failed, and one for each of two tasks.
    "failures": (lambda app: tasks.search(app, FAILURES), 1 + 2),
    "failures of one name": (
        lambda app: tasks.search(app, TaskFilter(name="shop.fail", states=(State.FAILURE,))),
        1 + 1,
    ),
    # Its record, and the event of its end.
    "a task's life": (lambda app: tasks.life(app, "known", graph=False), 2),
    "audit log of today": (lambda app: audit.read(app, limit=1, since=time.time() - 60), 1),
    "overview": (overview.overview, (2 * 2 + 1) + (1 + 1 + 2 + 1) + 2),
}


@pytest.fixture(scope="module")
def billed(aws: Endpoint) -> Iterator[CloudQ]:
    """An app on SQS and DynamoDB with two tasks that have failed."""
    with CloudQ(
        "shop",
        broker=f"sqs://?endpoint_url={aws.url}&prefix={unique()}-",
        backend=f"dynamodb://{unique()}?endpoint_url={aws.url}",
    ) as app:
        define(app)
        prepare(app)
        app.tasks["shop.fail"].apply_async(("no luck",), task_id="known")
        app.tasks["shop.charge"].delay("gone")
        app.tasks["shop.add"].delay(1, 2)
        drain(app)
        audit.write(app, Actor(who="ana"), "look", "at it")
        queues.queues(app)  # learns the addresses of the queues
        yield app


@pytest.mark.parametrize("name", EXPECTED)
def test_a_page_s_read_makes_few_requests_and_no_scan(billed: CloudQ, name: str) -> None:
    read, expected = EXPECTED[name]
    before = spent(billed)
    read(billed)
    made = spent(billed) - before
    print(f"{name}: {sum(made.values())} requests: {dict(made)}")
    assert sum(made.values()) == expected
    assert not any("scan" in call.lower() for call in made)


def spent(app: CloudQ) -> Counter[str]:
    """Count the requests so far, by call."""
    found: Counter[str] = Counter()
    for meter in app.runtime.meters():
        for spot, row in meter.rows().items():
            found[spot.call] += row.requests
    return found
