"""Paused queues and live workers, on SQLite and on SQS with DynamoDB."""

from __future__ import annotations

import time

import pytest

from cloudq.operations import queues
from cloudq.operations.audit import Actor, read
from tests.worker.harness import Place, until

POOL = ("--processes", "1", "--threads", "2", "--lease", "5")
ANA = Actor(who="ana", via="test")


@pytest.fixture(params=["sqlite", "sqs"])
def place(request: pytest.FixtureRequest) -> Place:
    """A place whose workers beat often."""
    made: Place = request.getfixturevalue(f"{request.param}_place")
    made.environment["CLOUDQ_WORKER_HEARTBEAT"] = "0.5"
    return made


def call(place: Place, name: str) -> None:
    place.app.send_task("drill_tasks.nap", [name, 0.0], queue=place.queue)


def test_a_pause_reaches_workers_that_live_and_those_that_start_later(place: Place) -> None:
    app, queue = place.app, place.queue
    call(place, "before")
    paused = queues.pause(app, queue, by=ANA)
    assert (paused.paused, paused.changed, paused.workers) == (True, True, [])
    place.start(*POOL, "-n", "one")
    until(lambda: "is paused" in place.workers[0].log(), what="the worker knows of the pause")
    time.sleep(1.0)  # long enough for a task that wrongly starts
    assert place.entries() == []
    row = queues.queue(app, queue)
    assert row.pause is not None
    assert row.pause.by == "ana"
    assert not queues.pause(app, queue, by=ANA).changed

    resumed = queues.resume(app, queue, by=ANA)
    assert (resumed.changed, resumed.workers) == (True, ["one"])
    until(lambda: "end before" in place.entries(), what="the task runs")
    assert queues.queue(app, queue).pause is None

    assert queues.pause(app, queue, by=ANA).workers == ["one"]
    until(lambda: place.workers[0].log().count("is paused") == 2, what="it is paused again")
    call(place, "after")
    time.sleep(1.0)
    assert "end after" not in place.entries()
    queues.resume(app, queue, by=ANA)
    until(lambda: "end after" in place.entries(), what="the task runs")
    logged = [entry.action for entry in read(app).entries]
    assert logged == ["resume", "pause", "resume", "pause", "pause"]
