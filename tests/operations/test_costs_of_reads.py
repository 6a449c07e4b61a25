"""Reads that a page needs: quick over much on SQLite, and few requests and no scan on DynamoDB."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.operations import audit, dead_letters, overview, queues, tasks, workers
from cloudq.operations.dead_letters import DeadFilter
from cloudq.operations.tasks import FAILURES, TaskFilter
from cloudq.results.record import Record, State
from cloudq_local.sqlite_broker import SQLiteBroker
from tests.operations.conftest import define

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
