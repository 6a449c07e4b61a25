"""Administration that differs on Pub/Sub: dead letters, strangers' messages, names."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from google.pubsub_v1.types import (
    PublishRequest,
    PubsubMessage,
    Subscription,
)

from cloudq.driver import Address, Code, Delivery, PlatformDeadLetters
from cloudq.testing import collect, eventually, outgoing
from cloudq.testing.waiting import HELD
from cloudq_gcp.pubsub import PubSub
from tests.adapters.gcp.grpc_wire import Wire
from tests.adapters.gcp.pubsub_peers import TOPICS, OnEmulator, Raw, code_of, opened
from tests.servers import unique


class TestDeadLetters(OnEmulator):
    def test_no_dead_letters_say_how_to_make_them(
        self, driver: PubSub, raw: Raw, bare: str
    ) -> None:
        driver.send(bare, [outgoing()])
        deliveries = collect(driver, bare, 1)
        # With a topic alone, which would take the message and forget it, it is still so.
        for make_topic in (False, True):
            if make_topic:
                raw.topic(f"{bare}-dead")
            (failure,) = driver.dead_letter(deliveries, reason="test")
            assert failure.code is Code.NOT_FOUND
            assert f"cloudq queues create {bare}" in failure.reason
            assert driver.stats(bare).dead_queue is None
            assert code_of(driver, lambda: driver.peek_dead(bare, count=1)) is Code.NOT_FOUND
        raw.subscription(f"{bare}-dead", f"{bare}-dead")
        assert not driver.dead_letter(deliveries, reason="test")
        assert driver.stats(bare).dead_queue == f"{bare}-dead"

    def test_a_worker_that_may_not_look_buries_all_the_same(
        self, driver: PubSub, wire: Wire, queue: str
    ) -> None:
        driver.send(queue, [outgoing()])
        deliveries = collect(driver, queue, 1)

        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            if name == "GetSubscription":
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a viewer")
            return None

        wire.answer = answer
        assert not driver.dead_letter(deliveries, reason="test")
        assert len(driver.peek_dead(queue, count=5)) == 1

    def test_a_lost_lease_leaves_no_second_life(self, address: Address, raw: Raw) -> None:
        name = unique()
        with opened(address, exactly_once="true") as driver:
            driver.create(name, lease=30, max_deliveries=5)
            driver.send(name, [outgoing(), outgoing()])
            lost, mine = collect(driver, name, 2, lease=1)
            assert not driver.extend([mine], lease=HELD)
            assert collect(driver, name, 1)[0].id == lost.id
            (failure,) = driver.dead_letter([lost, mine], reason="test")
            assert (failure.index, failure.code) == (0, Code.LEASE_LOST)
            assert [dead.id for dead in driver.peek_dead(name, count=5)] == [mine.id]
            driver.delete(name)

    def test_what_a_function_was_pushed_is_buried_and_not_acked(
        self, driver: PubSub, wire: Wire, queue: str
    ) -> None:
        assert isinstance(driver, PlatformDeadLetters)
        pushed = Delivery(
            queue=queue, id="the-id", body=b"poison", receipt=None, attempts=3, lease=10
        )
        assert not driver.bury([pushed], reason="it cannot be read")
        assert "Acknowledge" not in wire.names()
        (dead,) = driver.peek_dead(queue, count=5)
        assert (dead.id, dead.body, dead.reason) == ("the-id", b"poison", "it cannot be read")

    def test_without_dead_letters_nothing_is_buried(self, driver: PubSub, bare: str) -> None:
        pushed = Delivery(queue=bare, id="i", body=b"b", receipt=None, attempts=1, lease=10)
        (failure,) = driver.bury([pushed], reason="test")
        assert failure.code is Code.NOT_FOUND

    def test_a_strangers_message_moves_and_comes_back(
        self, driver: PubSub, raw: Raw, plain: str
    ) -> None:
        body = b"no JSON, \xff\xfe no text"
        sent = raw.publish(plain, PubsubMessage(data=body, attributes={"kind": "foreign"}))
        (delivery,) = collect(driver, plain, 1)
        assert (delivery.id, delivery.body) == (sent, body)
        assert not driver.dead_letter([delivery], reason="not a message of ours \n" * 200)
        (peeked,) = driver.peek_dead(plain, count=10)
        assert (peeked.id, peeked.body) == (delivery.id, delivery.body)
        assert (peeked.reason or "").startswith("not a message of ours")
        assert not driver.redrive(plain, [peeked])
        (again,) = collect(driver, plain, 1)
        assert (again.id, again.body) == (sent, body)

    def test_what_pubsub_dead_letters_says_how_often_it_was_delivered(
        self, driver: PubSub, plain: str
    ) -> None:
        message = outgoing()
        driver.send(plain, [message])
        for _ in range(5):
            driver.release(collect(driver, plain, 1), after=0)
        # The emulator notices when it is asked for a sixth.
        assert not driver.receive(plain, count=1, wait=0.5, lease=HELD)
        (dead,) = eventually(lambda: driver.peek_dead(plain, count=5))
        assert (dead.id, dead.reason) == (message.id, "delivered 5 times")
        assert not driver.redrive(plain, [dead])
        (again,) = collect(driver, plain, 1)
        assert (again.id, again.attempts) == (message.id, 1)

    def test_a_group_survives_death(self, driver: PubSub, wire: Wire) -> None:
        name = unique() + ".fifo"
        driver.create(name, lease=30, max_deliveries=5)
        sent = [outgoing(group=group) for group in "ab"]
        driver.send(name, sent)
        wire.calls.clear()
        assert not driver.dead_letter(collect(driver, name, 2), reason="test")
        # All in one publish, which mixed ordering keys would not allow.
        assert len(wire.requests("Publish")) == 1
        assert not driver.redrive(name, driver.peek_dead(name, count=5))
        back = {delivery.id: delivery.group for delivery in collect(driver, name, 2)}
        assert back == {message.id: message.group for message in sent}
        driver.delete(name)

    def test_large_ones_move_in_several_requests(
        self, driver: PubSub, wire: Wire, plain: str
    ) -> None:
        deliveries: list[Delivery] = []
        for number in range(3):
            driver.send(plain, [outgoing(body=f"{number}".encode() * 5_000_000)])
            deliveries += collect(driver, plain, 1)
        wire.calls.clear()
        assert not driver.dead_letter(deliveries, reason="large")
        assert wire.names().count("Publish") == 3
        peeked = driver.peek_dead(plain, count=5)
        assert sorted(message.body[:1] for message in peeked) == [b"0", b"1", b"2"]
        assert not driver.redrive(plain, peeked)
        assert len(collect(driver, plain, 3)) == 3

    def test_peeking_gives_everything_back(self, driver: PubSub, plain: str) -> None:
        driver.send(plain, [outgoing() for _ in range(24)])
        assert len({message.id for message in driver.peek(plain, count=100)}) == 24
        assert len(driver.peek(plain, count=13)) == 13
        assert len(collect(driver, plain, 24)) == 24

    def test_one_gone_by_now_is_a_failure(self, driver: PubSub, plain: str) -> None:
        driver.send(plain, [outgoing(), outgoing()])
        driver.dead_letter(collect(driver, plain, 2), reason="test")
        peeked = driver.peek_dead(plain, count=2)
        assert not driver.delete_dead(plain, peeked[:1])
        (failure,) = driver.redrive(plain, peeked)
        assert (failure.index, failure.code) == (0, Code.NOT_FOUND)
        assert [delivery.id for delivery in collect(driver, plain, 1)] == [peeked[1].id]

    def test_a_redrive_that_is_refused_deletes_nothing(
        self, driver: PubSub, wire: Wire, plain: str
    ) -> None:
        driver.send(plain, [outgoing(group="a"), outgoing(group="b")])
        driver.dead_letter(collect(driver, plain, 2), reason="test")
        peeked = driver.peek_dead(plain, count=2)

        def answer(name: str, body: bytes, context: grpc.ServicerContext) -> bytes | None:
            if name == "Publish" and b"b" in {
                message.ordering_key.encode()
                for message in PublishRequest.deserialize(body).messages
            }:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")
            return None

        wire.answer = answer
        (failure,) = driver.redrive(plain, peeked)
        assert failure.code is Code.THROTTLED
        assert len(collect(driver, plain, 1)) == 1
        assert wire.names().count("Acknowledge") == 2  # the burials, and the one that went back


class TestNames(OnEmulator):
    def test_created_queues_are_set_up_for_workers(
        self, driver: PubSub, raw: Raw, queue: str
    ) -> None:
        assert driver.stats(queue).dead_queue == f"{queue}-dead"
        made, dead = raw.found(queue), raw.found(f"{queue}-dead")
        assert made.ack_deadline_seconds == 30
        assert made.enable_message_ordering == queue.endswith(".fifo")
        assert not made.enable_exactly_once_delivery
        assert made.dead_letter_policy.dead_letter_topic == f"{TOPICS}/{queue}-dead"
        assert made.dead_letter_policy.max_delivery_attempts == 5
        for found in (made, dead):
            assert "expiration_policy" in found
            assert not found.expiration_policy.ttl
            # The emulator's longest; the service is asked for 31.
            assert found.message_retention_duration == timedelta(days=7)
        assert not dead.enable_message_ordering

    @pytest.mark.parametrize(
        ("lease", "deliveries", "expected"), [(1, 1, (10, 5)), (10.5, 7, (11, 7)), (9e9, 999, ())]
    )
    def test_what_pubsub_does_not_take_is_clamped(
        self,
        driver: PubSub,
        raw: Raw,
        lease: float,
        deliveries: int,
        expected: tuple[int, ...],
    ) -> None:
        name = unique()
        driver.create(name, lease=lease, max_deliveries=deliveries)
        made = raw.found(name)
        found = (made.ack_deadline_seconds, made.dead_letter_policy.max_delivery_attempts)
        assert found == (expected or (600, 100))
        driver.delete(name)

    def test_a_wanted_retention_is_the_longest(self, driver: PubSub, wire: Wire) -> None:
        # The answer is what was made.
        wire.answer = lambda name, body, _: body if name.startswith("Create") else None
        driver.create("q", lease=30, max_deliveries=5)
        asked = [Subscription.deserialize(body) for body in wire.requests("CreateSubscription")]
        days = [made.message_retention_duration for made in asked]
        assert days == [timedelta(days=31)] * 2

    def test_exactly_once_is_chosen_by_the_url(self, address: Address, raw: Raw) -> None:
        name = unique()
        with opened(address, exactly_once="true") as driver:
            driver.create(name, lease=30, max_deliveries=5)
            assert raw.found(name).enable_exactly_once_delivery
            assert not raw.found(f"{name}-dead").enable_exactly_once_delivery
            driver.delete(name)

    def test_dead_letters_are_not_listed(self, driver: PubSub, queue: str) -> None:
        assert driver.list(queue) == [queue]

    def test_a_prefix_keeps_apps_apart(self, address: Address) -> None:
        prefix = unique("app") + "-"
        with opened(address, prefix=prefix) as driver:
            driver.create("default", lease=30, max_deliveries=5)
            assert driver.list() == ["default"]
            assert driver.stats("default").dead_queue == f"{prefix}default-dead"
            driver.delete("default")
            assert driver.list() == []

    def test_names_follow_templates(self, address: Address, raw: Raw) -> None:
        name = unique()
        with opened(address, subscription="{queue}-sub", dead="failed-{queue}") as driver:
            driver.create(name, lease=30, max_deliveries=5)
            assert raw.found(f"{name}-sub").topic == f"{TOPICS}/{name}"
            assert raw.found(f"failed-{name}-sub").topic == f"{TOPICS}/failed-{name}"
            assert driver.list(name) == [name]
            assert driver.list("failed") == []
            driver.send(name, [outgoing()])
            assert not driver.dead_letter(collect(driver, name, 1), reason="test")
            assert len(driver.peek_dead(name, count=1)) == 1
            driver.delete(name)

    def test_a_full_name_is_taken_as_it_is(self, address: Address, bare: str) -> None:
        full = f"{TOPICS}/{bare}"
        with opened(replace(address, host="somebody-else"), prefix="app-") as driver:
            driver.send(full, [outgoing(body=b"here")])
            (delivery,) = collect(driver, full, 1)
            assert (delivery.queue, delivery.body) == (full, b"here")
            assert not driver.ack([delivery])

    def test_deliveries_are_counted_by_a_dead_letter_policy_only(
        self, driver: PubSub, bare: str
    ) -> None:
        driver.send(bare, [outgoing()])
        for _ in range(2):
            (delivery,) = collect(driver, bare, 1)
            assert delivery.attempts == 1
            driver.release([delivery], after=0)

    def test_deleting_what_is_not_there_is_not_found(self, driver: PubSub, bare: str) -> None:
        assert code_of(driver, lambda: driver.delete(unique("missing"))) is Code.NOT_FOUND
        driver.delete(bare)  # though it has no dead letters
        assert driver.list(bare) == []
