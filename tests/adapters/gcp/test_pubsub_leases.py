"""Leases of Pub/Sub: those that a pull gives by itself, and those that are asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.pubsub_v1.types import Subscription

from cloudq.driver import Delivery
from cloudq.testing import collect, eventually, outgoing
from cloudq.testing.waiting import PATIENCE
from cloudq_gcp import pubsub_leases
from cloudq_gcp.pubsub import PubSub
from tests.adapters.gcp.grpc_wire import Wire
from tests.adapters.gcp.pubsub_peers import SUBSCRIPTIONS, OnEmulator, Raw
from tests.servers import SOON, unique


class TestLeases(OnEmulator):
    """A pull leases for the subscription's ack deadline, which a worker mostly asks for."""

    @pytest.fixture
    def short(self, driver: PubSub, wire: Wire) -> Iterator[str]:
        """A queue whose leases are of ten seconds, the shortest."""
        name = unique()
        driver.create(name, lease=10, max_deliveries=5)
        wire.calls.clear()
        yield name
        driver.delete(name)

    def receive(self, driver: PubSub, queue: str, lease: float) -> Delivery:
        assert not driver.send(queue, [outgoing()])
        (delivery,) = driver.receive(queue, count=1, wait=5, lease=lease)
        assert delivery.lease == lease
        return delivery

    def test_a_lease_that_a_pull_gives_is_not_asked_for(
        self, driver: PubSub, wire: Wire, plain: str
    ) -> None:
        for _ in range(3):
            self.receive(driver, plain, 30)
        assert wire.names().count("GetSubscription") == 1
        assert "ModifyAckDeadline" not in wire.names()

    @pytest.mark.parametrize("lease", [29, 31])
    def test_any_other_lease_is_asked_for(
        self, driver: PubSub, wire: Wire, plain: str, lease: float
    ) -> None:
        for _ in range(3):
            self.receive(driver, plain, lease)
        assert wire.names().count("GetSubscription") == 1
        assert wire.names().count("ModifyAckDeadline") == 3

    @pytest.mark.slow
    def test_a_lease_that_was_not_asked_for_is_as_long(
        self, driver: PubSub, wire: Wire, short: str
    ) -> None:
        start = time.monotonic()
        delivery = self.receive(driver, short, 10)
        (again,) = collect(driver, short, 1)
        assert 9 < time.monotonic() - start < 10 + SOON
        assert (again.id, again.attempts) == (delivery.id, 2)
        assert wire.names().count("GetSubscription") == 1

    @pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"])
    def test_who_may_not_look_asks_for_each_lease(
        self, driver: PubSub, wire: Wire, plain: str, code: str
    ) -> None:
        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            if name == "GetSubscription":
                context.abort(grpc.StatusCode[code], "not now")
            return None

        wire.answer = answer
        for _ in range(3):
            self.receive(driver, plain, 30)
        assert wire.names().count("GetSubscription") == 1
        assert wire.names().count("ModifyAckDeadline") == 3

    @pytest.mark.parametrize("found", [Subscription(), Subscription(name="s")])
    def test_a_look_that_finds_nothing_says_nothing(
        self, driver: PubSub, wire: Wire, plain: str, found: Subscription
    ) -> None:
        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            return Subscription.serialize(found) if name == "GetSubscription" else None

        wire.answer = answer
        self.receive(driver, plain, 30)
        assert wire.names().count("ModifyAckDeadline") == 1

    def test_a_look_is_not_waited_for_until_the_lease_has_ended(
        self, driver: PubSub, wire: Wire, plain: str
    ) -> None:
        over = threading.Event()

        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            if name == "GetSubscription":
                left.append(context.time_remaining() or 0.0)
                context.add_callback(over.set)
                over.wait(PATIENCE)
            return None

        left: list[float] = []
        wire.answer = answer
        self.receive(driver, plain, 30)
        assert 0 < left[0] < 5
        assert wire.names().count("ModifyAckDeadline") == 1

    def test_a_deadline_that_somebody_changes_is_seen(
        self, driver: PubSub, wire: Wire, plain: str, raw: Raw, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pubsub_leases, "_FRESH", 0.0)
        self.receive(driver, plain, 30)
        assert "ModifyAckDeadline" not in wire.names()
        changed = Subscription(name=f"{SUBSCRIPTIONS}/{plain}", ack_deadline_seconds=20)
        mask = {"paths": ["ack_deadline_seconds"]}
        raw.subscriptions.update_subscription(subscription=changed, update_mask=mask)
        self.receive(driver, plain, 30)
        assert wire.names().count("ModifyAckDeadline") == 1

    def test_a_queue_that_is_made_anew_is_looked_at_anew(
        self, driver: PubSub, wire: Wire, plain: str
    ) -> None:
        self.receive(driver, plain, 30)
        driver.delete(plain)
        driver.create(plain, lease=20, max_deliveries=5)
        self.receive(driver, plain, 30)
        assert wire.names().count("ModifyAckDeadline") == 1

    def test_one_of_many_receives_looks(self, driver: PubSub, wire: Wire, plain: str) -> None:
        assert not driver.send(plain, [outgoing() for _ in range(8)])
        looking = threading.Event()

        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            if name == "GetSubscription":
                looking.wait(PATIENCE)
            return None

        def receive() -> None:
            (delivery,) = driver.receive(plain, count=1, wait=5, lease=30)
            assert delivery.lease == 30

        wire.answer = answer
        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(receive) for _ in range(4)]
            eventually(lambda: wire.names().count("ModifyAckDeadline") == 3)
            looking.set()
            for each in made:
                each.result()
        assert wire.names().count("GetSubscription") == 1
        assert wire.names().count("ModifyAckDeadline") == 3
