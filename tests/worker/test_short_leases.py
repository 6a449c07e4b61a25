"""No call starts in a lease that was made short because answers are lost."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest

from cloudq import CloudQ
from cloudq.driver import loader
from cloudq.driver.log import Log
from cloudq.execution.consume import Consumer
from cloudq.execution.outcomes import Job
from cloudq.messages.message import TaskMessage
from cloudq.runtime import Services
from cloudq.testing.kit.proxy import _Handler  # pyright: ignore[reportPrivateUsage]
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.leases import FIRST, Leases
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.settler import Settler
from localstack.servers import Endpoint
from tests.support.faults import FaultyBroker
from tests.worker.fault_drill import LEASE, drilled
from tests.worker.harness import until


class Unextended(_Handler):
    """Fails the first receives, and each extension until `extends`."""

    leases: ClassVar[list[int]]
    calls: ClassVar[Counter[str]]
    extends: ClassVar[bool]

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        self.calls[operation] += 1
        fails = operation == "ChangeMessageVisibilityBatch" and not self.extends
        if operation == "ReceiveMessage":
            self.leases.append(json.loads(body)["VisibilityTimeout"])
            fails = self.calls[operation] <= 3
        if fails:
            return 500, {}, b'{"__type": "InternalFailure", "message": "on purpose"}'
        return super()._passed_on(body)


@pytest.mark.drill
def test_a_call_waits_for_its_short_lease_to_be_extended(aws: Endpoint, tmp_path: Path) -> None:
    Unextended.leases, Unextended.calls, Unextended.extends = [], Counter(), False
    with drilled(aws, tmp_path, Unextended) as drill, closing(drill.place.app) as app:
        until(lambda: min(Unextended.leases, default=LEASE) < LEASE, what="a short lease")
        result = app.send_task("square", [3])
        until(
            lambda: result.ready() or Unextended.calls["ChangeMessageVisibilityBatch"] > 3,
            what="the first attempt to extend its lease has failed",
        )
        if result.ready():  # a receive that began before the short ones took it, for a full lease
            result = app.send_task("square", [3])
            until(
                lambda: Unextended.calls["ChangeMessageVisibilityBatch"] > 3,
                what="the first attempt to extend its lease has failed",
            )
        assert not result.ready()
        Unextended.extends = True
        assert result.get(timeout=PATIENCE) == 9
        assert drill.worker.stop() == 0


@dataclass
class Hand:
    """A worker's hand: what it holds, who extends its leases, and who starts its calls."""

    app: CloudQ
    wire: FaultyBroker
    told: list[None]
    leases: Leases
    dispatcher: Dispatcher

    def take(self, lease: float) -> list[Flight]:
        """Receive two messages with a lease of so many seconds, where 60 are asked for."""
        self.app.broker.send(
            [TaskMessage(id=uuid4().hex, task="t", queue="default") for _ in range(2)]
        )
        found = self.app.broker.receive("default", count=2, wait=1.0, lease=lease)
        flights = self.leases.hold(found)
        for flight, message in zip(flights, found, strict=True):
            message = TaskMessage(id=message.id, task="t", queue="default")
            flight.job = Job(delivery=flight.delivery, message=message, fenced=False)
        return flights


@pytest.fixture
def hand() -> Iterator[Hand]:
    app = CloudQ("short", broker=f"memory://{uuid4().hex}")
    app.task(name="t")(print)
    wire = FaultyBroker(loader.open_broker(app.conf.broker))
    app.runtime.services = Services(open_broker=lambda url: wire, open_backend=loader.open_backend)
    told: list[None] = []
    leases = Leases(app.broker, Flights(), 60.0, wake=lambda: told.append(None))
    executor = app.executor()
    released: list[Flight] = []
    consumer = Consumer(executor, log=Log("test"))
    settler = Settler(consumer, released=released.extend, starved=lambda: False)  # not started
    dispatcher = Dispatcher(
        executor=executor, broker=app.broker, settler=settler, max_tasks_per_child=None
    )
    with closing(app):
        yield Hand(app, wire, told, leases, dispatcher)


def test_a_short_lease_is_extended_as_it_comes(hand: Hand) -> None:
    for flight in hand.take(5.0):
        assert not flight.short
        assert flight.lease_ends > time.monotonic() + 50
    assert hand.wire.calls["extend"] == 1


def test_a_lease_as_it_was_asked_for_costs_no_request_at_first(hand: Hand) -> None:
    hand.take(60.0)
    hand.take(40.0)
    assert hand.wire.calls["extend"] == 0


def test_the_first_lease_of_a_long_poll_is_extended_when_a_third_of_it_has_passed(
    hand: Hand,
) -> None:
    flights = hand.take(FIRST)
    assert hand.wire.calls["extend"] == 0
    assert not any(flight.short for flight in flights)
    now = time.monotonic()
    hand.leases.extend(now)
    assert hand.wire.calls["extend"] == 0
    hand.leases.extend(now + FIRST / 3 + 1)
    assert hand.wire.calls["extend"] == 1
    assert min(flight.lease_ends for flight in flights) > now + 50
    hand.leases.extend(now + FIRST)
    assert hand.wire.calls["extend"] == 1
    hand.leases.extend(now + 25)
    assert hand.wire.calls["extend"] == 2


def test_what_has_a_short_lease_is_kept_until_it_is_extended(hand: Hand) -> None:
    hand.wire.down = {"extend"}
    flights = hand.take(5.0)
    hand.dispatcher.submit(flights)
    for flight in flights:
        flight.revoked = True  # what could start would end at once, without a child
    hand.leases.extend(time.monotonic())
    hand.dispatcher.pump()
    assert [flight.settling for flight in flights] == [False, False]
    assert not hand.told
    hand.wire.down = set()
    hand.leases.extend(time.monotonic())
    assert len(hand.told) == 1
    hand.dispatcher.pump()
    assert [flight.settling for flight in flights] == [True, True]


def test_what_has_a_short_lease_goes_back_when_the_worker_stops(hand: Hand) -> None:
    hand.wire.down = {"extend"}
    flights = hand.take(5.0)
    hand.dispatcher.submit(flights)
    hand.dispatcher.close()
    assert [flight.settling for flight in flights] == [True, True]


def test_leases_that_cannot_be_extended_are_told_of_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with CloudQ("x", broker="memory://", backend=None) as app:
        leases = Leases(app.broker, Flights(), 60.0, wake=lambda: None)
        for count in range(1, 40):
            leases._warn(count, "its disk is full")  # pyright: ignore[reportPrivateUsage]
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert told[0] == "could not extend 1 lease: its disk is full"
    assert len(told) < 5
