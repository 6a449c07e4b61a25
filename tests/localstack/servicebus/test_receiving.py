"""Locks, and what becomes of a message that is received."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false
from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
)
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusConnectionError,
    ServiceBusError,
)

from cloudq.testing import eventually
from tests.localstack.servicebus.bus import Bus, bodies, many, nothing, one


def unaware(message: ServiceBusReceivedMessage) -> ServiceBusReceivedMessage:
    """Make the SDK ask the service, although it knows that the lock has gone."""
    message._settled = False
    message._expiry = datetime.now(UTC) + timedelta(hours=1)
    return message


def test_a_locked_message_is_nobody_elses(bus: Bus) -> None:
    queue = bus.queue(warm=2, lock_duration=30)
    bus.send(queue, "x")
    first, second = bus.receiver(queue), bus.receiver(queue)
    message = one(first)
    assert isinstance(message.lock_token, UUID)
    assert message.locked_until_utc is not None
    left = message.locked_until_utc - datetime.now(UTC)
    assert timedelta(seconds=28) < left <= timedelta(seconds=30)
    nothing(second)


def test_a_completed_message_is_gone(bus: Bus) -> None:
    queue = bus.queue(lock_duration=1)
    bus.send(queue, "x")
    receiver = bus.receiver(queue)
    receiver.complete_message(one(receiver))
    assert bus.counts(queue) == (0, 0, 0)
    nothing(receiver, 1.3)


def test_an_abandoned_message_comes_back_at_once_and_counts(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue, "x", "y")
    receiver = bus.receiver(queue)
    receiver.abandon_message(one(receiver))
    again = one(receiver)
    assert (str(again), again.delivery_count) == ("x", 1)


def test_a_message_whose_lock_ran_out_comes_back_and_counts(bus: Bus) -> None:
    queue = bus.queue(lock_duration=0.3)
    bus.send(queue, "x")
    receiver = bus.receiver(queue)
    first = one(receiver)
    taken = time.monotonic()
    again = one(receiver)
    assert time.monotonic() - taken > 0.2
    assert (again.delivery_count, again.sequence_number) == (1, first.sequence_number)
    assert again.lock_token != first.lock_token


def test_a_lost_lock_settles_nothing(bus: Bus) -> None:
    queue = bus.queue(warm=2, lock_duration=1.5)
    bus.send(queue, "x")
    first, second = bus.receiver(queue), bus.receiver(queue)
    late = one(first)
    held = one(second)
    for settle in (
        first.complete_message,
        first.abandon_message,
        first.defer_message,
        first.dead_letter_message,
        first.renew_message_lock,
    ):
        with pytest.raises(MessageLockLostError):
            settle(unaware(late))
    second.complete_message(held)
    assert bus.counts(queue) == (0, 0, 0)


def test_a_renewed_lock_lasts(bus: Bus) -> None:
    queue = bus.queue(warm=2, lock_duration=1.5)
    bus.send(queue, "x")
    receiver, other = bus.receiver(queue), bus.receiver(queue)
    message = one(receiver)
    for _ in range(3):
        nothing(other, 0.6)
        until = receiver.renew_message_lock(message)
        assert until > datetime.now(UTC) + timedelta(seconds=0.4)
    receiver.complete_message(message)
    assert bus.counts(queue) == (0, 0, 0)


def test_a_second_receiver_renews_and_settles_by_lock_token(bus: Bus) -> None:
    queue = bus.queue(warm=2, lock_duration=30)
    bus.send(queue, "a", "b", "c", "d")
    receiver, settler = bus.receiver(queue), bus.receiver(queue)
    done, back, aside, dead = many(receiver, 4)
    for message in (done, back, aside, dead):
        settler.renew_message_lock(message)
    settler.complete_message(done)
    settler.abandon_message(back)
    settler.defer_message(aside)
    settler.dead_letter_message(dead, reason="why", error_description="because")
    again = one(receiver)
    assert (str(again), again.delivery_count) == ("b", 1)
    assert str(settler.receive_deferred_messages(aside.sequence_number or 0)[0]) == "c"
    assert one(bus.dead(queue)).dead_letter_reason == "why"
    with pytest.raises(MessageLockLostError):
        settler.complete_message(unaware(back))


def test_too_many_deliveries_are_dead_letters(bus: Bus) -> None:
    queue = bus.queue(max_delivery_count=2, lock_duration=1)
    bus.send(queue, "x")
    receiver = bus.receiver(queue)
    receiver.abandon_message(one(receiver))
    one(receiver)  # and its lock runs out
    eventually(lambda: bus.counts(queue) == (0, 0, 1))
    message = one(bus.dead(queue))
    assert message.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert "2 delivery attempts" in (message.dead_letter_error_description or "")
    assert (str(message), message.delivery_count) == ("x", 2)


def test_a_dead_letter_says_why(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue, "x", application_properties={"mine": 1}, message_id="m")
    receiver = bus.receiver(queue)
    receiver.dead_letter_message(one(receiver), reason="bad", error_description="very bad")
    dead = bus.dead(queue)
    message = one(dead)
    assert (message.dead_letter_reason, message.dead_letter_error_description) == (
        "bad",
        "very bad",
    )
    assert (message.application_properties or {})[b"mine"] == 1
    assert (message.message_id, message.delivery_count) == ("m", 0)
    nothing(receiver)


def test_a_dead_letter_is_settled_as_any_message(bus: Bus) -> None:
    queue = bus.queue(lock_duration=1, max_delivery_count=1)
    bus.send(queue, "a", "b")
    receiver = bus.receiver(queue)
    for message in many(receiver, 2):
        receiver.dead_letter_message(message)
    dead = bus.dead(queue)
    assert bodies(dead.peek_messages(5)) == ["a", "b"]
    dead.abandon_message(one(dead))
    # It stays, however often it fails: dead letters have no dead letters.
    message = one(dead)
    assert (str(message), message.delivery_count) == ("a", 1)
    with pytest.raises(ServiceBusError, match="none of its own"):
        dead.dead_letter_message(message)
    dead.complete_message(many(dead, 2)[1])
    assert bus.counts(queue) == (0, 0, 1)


def test_a_deferred_message_is_had_by_its_number_alone(bus: Bus) -> None:
    queue = bus.queue(warm=2, lock_duration=30)
    bus.send(queue, "x")
    receiver = bus.receiver(queue)
    message = one(receiver)
    number = message.sequence_number or 0
    receiver.defer_message(message)
    nothing(receiver)
    (peeked,) = bus.receiver(queue).peek_messages(5)
    assert peeked.state == ServiceBusMessageState.DEFERRED
    with pytest.raises(MessageNotFoundError):
        receiver.receive_deferred_messages([number, number + 1])
    (found,) = receiver.receive_deferred_messages(number)
    assert str(found) == "x"
    with pytest.raises(MessageNotFoundError):  # it is locked
        receiver.receive_deferred_messages(number)
    receiver.abandon_message(found)  # it stays deferred
    nothing(receiver)
    (found,) = receiver.receive_deferred_messages(number)
    assert found.delivery_count == 1
    receiver.complete_message(found)
    assert bus.counts(queue) == (0, 0, 0)


def test_receive_and_delete_takes_at_once(bus: Bus) -> None:
    queue = bus.queue(warm=2, lock_duration=30)
    bus.send(queue, "a", "b", "c")
    peeker = bus.receiver(queue)
    peeker.defer_message(one(peeker))
    receiver = bus.receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    assert bodies(many(receiver, 2)) == ["b", "c"]
    assert bodies(receiver.receive_deferred_messages(1)) == ["a"]
    assert bus.counts(queue) == (0, 0, 0)


def test_peek_shows_all_and_takes_nothing(bus: Bus) -> None:
    queue = bus.queue(warm=2)
    bus.send(queue, *(f"m{n}" for n in range(5)))
    receiver = bus.receiver(queue)
    one(receiver)  # locked
    peeker = bus.receiver(queue)
    assert bodies(peeker.peek_messages(2)) == ["m0", "m1"]
    assert bodies(peeker.peek_messages(2)) == ["m2", "m3"]  # the SDK goes on from there
    assert bodies(peeker.peek_messages(9, sequence_number=4)) == ["m3", "m4"]
    assert peeker.peek_messages(9, sequence_number=6) == []
    assert bodies(many(receiver, 4)) == ["m1", "m2", "m3", "m4"]
    assert all(m.delivery_count == 0 for m in peeker.peek_messages(5, sequence_number=1))


def test_a_waiting_receiver_wakes_at_once(bus: Bus) -> None:
    queue = bus.queue()
    sender, receiver = bus.sender(queue), bus.receiver(queue)
    flows: list[int] = []

    def send() -> None:
        flows.append(bus.stats()["flows"])
        sender.send_messages(ServiceBusMessage("x"))

    timer = threading.Timer(0.3, send)
    timer.start()
    one(receiver)
    timer.join()
    assert bus.stats()["flows"] == flows[0], "it had not to ask again"


def test_waiting_receivers_take_turns(bus: Bus) -> None:
    queue = bus.queue(warm=3)
    receivers = [bus.receiver(queue) for _ in range(3)]
    found: list[int] = []

    def work(number: int) -> None:
        for message in receivers[number].receive_messages(1, max_wait_time=3):
            receivers[number].complete_message(message)
            found.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    flows = bus.stats()["flows"]
    eventually(lambda: bus.stats()["flows"] >= flows)
    bus.send(queue, "a", "b", "c")
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2]


def test_a_closing_receiver_gives_back_what_it_had_not_handed_out(bus: Bus) -> None:
    queue = bus.queue(lock_duration=60)
    with bus.client.get_queue_receiver(queue, prefetch_count=10) as receiver:
        bus.send(queue, *"abcde")
        receiver.complete_message(one(receiver))
        eventually(lambda: bus.stats()["deliveries"] >= 5)
    found = many(bus.receiver(queue), 4)
    assert sorted(bodies(found)) == ["b", "c", "d", "e"]
    assert {message.delivery_count for message in found} == {0}  # released, not failed


def test_locks_outlive_the_link(bus: Bus) -> None:
    queue = bus.queue(lock_duration=2, warm=1)
    bus.send(queue, "x")
    with bus.client.get_queue_receiver(queue) as receiver:
        message = one(receiver)
    other = bus.receiver(queue)
    nothing(other)
    other.complete_message(message)
    assert bus.counts(queue) == (0, 0, 0)


def test_a_queue_whose_receiving_is_switched_off_ends_its_receivers(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue, "x")
    receiver = bus.receiver(queue)
    bus.admin.update_queue(bus.admin.get_queue(queue), status="ReceiveDisabled")
    with pytest.raises(MessagingEntityDisabledError):
        receiver.receive_messages(1, max_wait_time=1)
    with pytest.raises(MessagingEntityDisabledError):
        bus.refused(queue)
    bus.send(queue, "y")
    assert bus.counts(queue) == (2, 0, 0)


def test_a_deleted_queue_ends_its_receivers(bus: Bus) -> None:
    queue = bus.queue()
    sender, receiver = bus.sender(queue), bus.receiver(queue)
    bus.admin.delete_queue(queue)
    with pytest.raises(MessagingEntityNotFoundError):
        receiver.receive_messages(1, max_wait_time=1)
    with pytest.raises((MessagingEntityNotFoundError, ServiceBusConnectionError)):
        sender.send_messages(ServiceBusMessage("x"))


def test_many_threads_lose_and_double_nothing(bus: Bus) -> None:
    queue = bus.queue(warm=3)
    count, workers = 400, 3
    done: list[str] = []
    handlers = [(bus.own_sender(queue), bus.receiver(queue)) for _ in range(workers)]

    def send(number: int) -> None:
        for start in range(0, count, 50):
            names = range(start, start + 50)
            handlers[number][0].send_messages([ServiceBusMessage(f"{number}-{n}") for n in names])

    def receive(number: int) -> None:
        receiver = handlers[number][1]
        while len(done) < count * workers:
            for message in receiver.receive_messages(50, max_wait_time=0.5):
                receiver.complete_message(message)
                done.append(str(message))

    jobs: list[Any] = [(f, n) for n in range(workers) for f in (send, receive)]
    threads = [threading.Thread(target=f, args=(n,)) for f, n in jobs]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = count * workers / (time.monotonic() - began)
    print(f"{rate:.0f} messages a second sent, received and completed")
    assert sorted(done) == sorted(f"{w}-{n}" for w in range(workers) for n in range(count))
    assert bus.counts(queue) == (0, 0, 0)
