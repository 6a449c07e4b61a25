"""A worker's heartbeats carry what it has spent, and go on with it after a restart."""

from __future__ import annotations

import json
import time
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.driver.billing import (
    ACK,
    PUT,
    RECEIVE,
    SEND,
    Meter,
    Price,
    Rate,
    Readings,
    Spent,
    Spot,
    Tariff,
)
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.messages import ids
from cloudq.monitoring.costs.sheet import Usage, from_bytes, to_bytes, together
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.runtime import Runtime
from cloudq.settings import Settings
from cloudq.worker.control.counters import Counters
from cloudq.worker.control.ledger import Ledger
from tests.support.bench import Bench
from tests.worker.conftest import Cloudq
from tests.worker.harness import Place, until

TARIFF = Tariff(
    service="Post",
    regions=("here",),
    date="2026-11",
    source="https://example.com",
    prices={"letter": Price(dollars=2.0, unit="letter")},
    calls={SEND: (Rate(price="letter"),)},
)


@pytest.fixture
def spending(sqs_place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place whose workers say every second what they have spent."""
    monkeypatch.setenv("COST_QUEUE", sqs_place.queue)
    monkeypatch.setenv("CLOUDQ_WORKER_HEARTBEAT", "1")
    sqs_place.tasks = "cost_tasks:app"
    return sqs_place


def usage(place: Place) -> Usage:
    written = place.app.control.heartbeats.usages()
    found = [read for data in written if (read := from_bytes(data)) is not None]
    assert len(found) == len(written)
    return together(found, time.time())


def tasks(place: Place) -> dict[str, float]:
    return {called.task: row.tasks for called, row in usage(place).hour.sheet.handled.items()}


def counts(place: Place) -> dict[str, float]:
    """The messages of the queue's calls, and the items of the tasks' in the store."""
    found: dict[str, float] = {}
    for spot, row in usage(place).hour.sheet.spent.items():
        if spot.place in (place.queue, "task"):
            found[spot.call] = found.get(spot.call, 0) + row.items
    return found


def test_heartbeats_count_each_message_of_all_processes(
    spending: Place, cloudq: Cloudq, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = spending
    monkeypatch.setattr(ids, "_SHORTLY", 0.0)  # each has an item of its own in the store
    place.start("--processes", "2", "--threads", "2", "-n", "one")
    place.app.send_task("cost_tasks.root", ["a"])
    for _ in range(5):
        place.app.send_task("cost_tasks.leaf", ["b"])
    until(
        lambda: (
            tasks(place) == {"cost_tasks.leaf": 6, "cost_tasks.root": 1}
            and counts(place).get(ACK) == 7
        ),
        what=f"all is counted: {place.workers[0].log()}",
    )
    found = counts(place)
    # The seven were received, looked for, stored and acked; a child has sent one of them.
    assert {call: found[call] for call in (RECEIVE, "look", PUT, ACK, SEND)} == {
        RECEIVE: 7,
        "look": 7,
        PUT: 7,
        ACK: 7,
        SEND: 1,
    }
    assert place.workers[0].stop() == 0
    assert place.app.control.heartbeats.all() == []
    assert tasks(place) == {"cost_tasks.leaf": 6, "cost_tasks.root": 1}

    # A worker of the same name goes on with what this one has left.
    place.start("--processes", "1", "--threads", "1", "-n", "one")
    place.app.send_task("cost_tasks.leaf", ["b"])
    until(lambda: tasks(place).get("cost_tasks.leaf") == 7, what="the next one is added")
    assert counts(place)[PUT] >= 7

    shown = cloudq(place, "cost", "--json")
    bill = json.loads(shown.stdout)
    lines = {line["task"]: line for line in bill["lines"] if line["task"]}
    assert lines["cost_tasks.leaf"]["tasks"] == 7
    # Seven sends were not made by a worker: one request each.
    assert bill["total"]["estimated_requests"] == pytest.approx(7)
    assert bill["total"]["dollars"] == pytest.approx(sum(x["dollars"] for x in bill["lines"]))
    text = cloudq(place, "cost", "--by", "task")
    assert "cost_tasks.leaf" in text.stdout
    assert "(idle polls)" in text.stdout


def test_the_metrics_page_has_the_same_numbers(spending: Place) -> None:
    place = spending
    worker = place.start("--processes", "1", "--threads", "1", "--metrics-port", "0")
    place.app.send_task("cost_tasks.leaf", ["b"])
    until(lambda: counts(place).get(ACK) == 1, what="it is counted")
    port = worker.log().partition("http://")[2].partition(":")[2].partition("/")[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    ack = f'{{call="ack",queue="{place.queue}",service="SQS"}}'
    assert f"cloudq_requests_total{ack} 1.0" in lines
    assert f"cloudq_billed_units_total{ack} 1.0" in lines
    (dollars,) = (line for line in lines if line.startswith(f"cloudq_cost_dollars_total{ack}"))
    assert float(dollars.split()[-1]) == pytest.approx(0.4e-6)
    assert (
        f'cloudq_task_messages_total{{queue="{place.queue}",task="cost_tasks.leaf"}} 1.0' in lines
    )


def test_an_embedded_worker_leaves_nothing(sqlite_place: Place) -> None:
    place = sqlite_place
    worker = place.start("--processes", "1", "--threads", "1")
    place.app.send_task("drill_tasks.pid").get(timeout=60)
    assert place.app.control.heartbeats.usages() == []
    assert worker.stop() == 0
    heartbeats: Any = place.app.control.heartbeats
    assert list(heartbeats._items()) == []


def test_a_dead_worker_is_shown_for_a_quarter_of_an_hour_and_its_counts_for_a_day(
    tmp_path: Path,
) -> None:
    with CloudQ("app", broker=f"sqlite:///{tmp_path}/cloudq.db") as app:
        heartbeats = app.control.heartbeats
        for name, age in (("dead", 600), ("gone", 3600)):
            heart = Heartbeat(hostname=name, seen=time.time() - age)
            heartbeats.exchange(heart, usage=b"counts")
        assert [heart.hostname for heart in heartbeats.all()] == ["dead"]
        assert heartbeats.usages() == [b"counts", b"counts"]


class Metered:
    """A driver that counts."""

    def __init__(self) -> None:
        self.meter = Meter(TARIFF)

    def close(self) -> None: ...


class Time:
    """A clock that is set by hand."""

    now = 1_000_000 * 3600.0

    def __call__(self) -> float:
        return self.now


class Ruled:
    """A ledger whose time and whose driver's counts are set by hand."""

    def __init__(self, time: Time) -> None:
        runtime = Runtime("app", Settings(broker="memory://ledger"))
        runtime.broker.driver = Metered()  # pyright: ignore[reportAttributeAccessIssue]
        self.driver: Any = runtime.broker.driver
        self.ledger = Ledger(runtime, Counters({"t"}), clock=time)

    def send(self, count: int) -> bytes:
        self.driver.meter.count(SEND, "q", requests=count, items=count)
        return self.ledger.usage()


def sent(usage: bytes, now: float) -> tuple[float, float]:
    """The sends of the last hour and of the last day."""
    read = from_bytes(usage)
    assert read is not None
    found = together([read], now)
    spot = Spot(SEND, "q", "letter")
    return tuple(span.sheet.spent.get(spot, Spent()).items for span in (found.hour, found.day))


def test_what_is_older_than_an_hour_or_a_day_is_left_out() -> None:
    time = Time()
    ruled = Ruled(time)
    assert sent(ruled.send(10), time.now) == (10, 10)
    time.now += 1800
    assert sent(ruled.send(5), time.now) == (15, 15)
    time.now += 2100
    assert sent(ruled.send(1), time.now) == (6, 16)
    time.now += 86_400
    assert sent(ruled.send(2), time.now) == (2, 2)


def test_the_counts_of_a_worker_that_has_ended_grow_old_too() -> None:
    time = Time()
    ruled = Ruled(time)
    ruled.send(10)
    time.now += 1800
    left = ruled.send(30)
    assert sent(left, time.now + 1900) == (30, 40)
    assert sent(left, time.now + 3700) == (0, 40)
    assert sent(left, time.now + 86_400) == (0, 0)


def test_restarts_add_nothing() -> None:
    time = Time()
    ruled = Ruled(time)
    left = ruled.send(12)
    for _ in range(10):
        time.now += 300
        ruled = Ruled(time)
        ruled.ledger.adopt(left)
        left = ruled.send(1)
    assert sent(left, time.now) == pytest.approx((22, 22), rel=0.05)
    time.now += 1500
    ruled = Ruled(time)
    ruled.ledger.adopt(left)
    assert sent(ruled.send(1), time.now)[0] == pytest.approx(7.0, abs=3)


@pytest.mark.parametrize("data", [b"", b"x", to_bytes(Usage())[:9], zlib.compress(b"[1]")])
def test_what_no_worker_wrote_is_left_out(data: bytes) -> None:
    assert from_bytes(data) is None
    time = Time()
    ruled = Ruled(time)
    ruled.ledger.adopt(data)
    assert sent(ruled.send(3), time.now) == (3, 3)


def test_readings_are_what_was_counted_since() -> None:
    meter, readings = Meter(TARIFF), Readings()
    assert readings.grown([meter]) == {}
    meter.count(SEND, "q", items=3)
    spot = Spot(SEND, "q", "letter")
    assert readings.grown([meter]) == {spot: Spent(1, 3, 1)}
    assert readings.grown([meter]) == {}
    meter.count(SEND, "q", items=2)
    meter.count("gossip", "q", items=1)
    assert readings.grown([meter]) == {
        spot: Spent(1, 2, 1),
        Spot("gossip", "q", ""): Spent(1, 1, 0),
    }


def test_names_that_a_program_makes_up_do_not_fill_the_memory() -> None:
    meter = Meter(TARIFF)
    for number in range(5000):
        meter.count(SEND, f"q{number}", items=1)
    rows = meter.rows()
    assert len(rows) <= 1001
    assert sum(row.items for row in rows.values()) == 5000


def test_the_calls_of_a_bundle_share_its_message(app: Bench) -> None:
    @app.task(name="t")
    def echo(number: int) -> int:
        return number

    app.publish([echo.prepare(number) for number in range(4)], bundle=4)
    [delivery] = app.broker.receive("default", count=1, wait=0.0, lease=60.0)
    consumer = Consumer(app.runner, log=Log("test"))
    jobs, _ = consumer.open([delivery])
    counters = Counters({"t"})
    counters.add([(job.delivery, consumer.run_job(job)) for job in jobs])
    [row] = counters.handled().values()
    assert (row.tasks, row.messages, row.size) == (4, 1, len(delivery.body))
