"""Sessions: one consumer at a time, in order, with a state of their own."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false
from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceiver
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.localstack.servicebus.bus import Bus, bodies, many, nothing, one


@pytest.fixture
def queue(bus: Bus) -> str:
    """A queue of sessions."""
    return bus.queue(requires_session=True, lock_duration=30)


@pytest.fixture
def fleeting(bus: Bus) -> str:
    """A queue whose sessions are locked for a moment."""
    return bus.queue(requires_session=True, lock_duration=0.6)


def next_one(bus: Bus, queue: str, wait: float = 5.0) -> ServiceBusReceiver:
    """A receiver of any session."""
    return bus.receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=wait)


def test_a_session_has_its_own_messages_in_order(bus: Bus, queue: str) -> None:
    sender = bus.sender(queue)
    for n in range(6):
        sender.send_messages(ServiceBusMessage(f"m{n}", session_id="ab"[n % 2]))
    receiver = bus.receiver(queue, session_id="a")
    assert receiver.session.session_id == "a"
    until = receiver.session.locked_until_utc
    assert until is not None
    assert timedelta(seconds=28) < until - datetime.now(UTC) <= timedelta(seconds=30)
    found = many(receiver, 3)
    assert bodies(found) == ["m0", "m2", "m4"]
    receiver.abandon_message(found[1])
    again = one(receiver)
    assert (str(again), again.delivery_count) == ("m2", 1)
    for message in (found[0], again, found[2]):
        receiver.complete_message(message)
    nothing(receiver)
    assert bus.counts(queue) == (3, 0, 0)


def test_a_locked_session_cannot_be_locked_again(bus: Bus, queue: str) -> None:
    bus.receiver(queue, session_id="a")
    with pytest.raises(SessionCannotBeLockedError):
        bus.refused(queue, session_id="a")
    bus.receiver(queue, session_id="b")


def test_a_closed_session_is_free_and_its_messages_have_not_failed(bus: Bus, queue: str) -> None:
    bus.send(queue, "x", session_id="a")
    with bus.client.get_queue_receiver(queue, session_id="a") as receiver:
        one(receiver)
    message = one(bus.receiver(queue, session_id="a"))
    assert (str(message), message.delivery_count) == ("x", 0)


def test_next_available_is_a_session_with_messages_that_nobody_has(bus: Bus, queue: str) -> None:
    bus.receiver(queue, session_id="taken")
    for name in ("taken", "a", "b"):
        bus.send(queue, name, session_id=name)
    first, second = next_one(bus, queue), next_one(bus, queue)
    assert {first.session.session_id, second.session.session_id} == {"a", "b"}
    assert str(one(first)) == first.session.session_id


def test_next_available_waits_for_a_message(bus: Bus, queue: str) -> None:
    sender = bus.sender(queue)
    timer = threading.Timer(0.4, sender.send_messages, [ServiceBusMessage("x", session_id="late")])
    timer.start()
    receiver = next_one(bus, queue)
    timer.join()
    assert receiver.session.session_id == "late"
    assert str(one(receiver)) == "x"


def test_next_available_gives_up_in_time(bus: Bus, queue: str) -> None:
    began = time.monotonic()
    with pytest.raises(OperationTimeoutError):
        next_one(bus, queue, wait=0.5)
    assert time.monotonic() - began > 0.4


def test_a_session_lost_to_time_is_anothers(bus: Bus, fleeting: str) -> None:
    bus.send(fleeting, "x", session_id="a")
    receiver = bus.receiver(fleeting, session_id="a")
    one(receiver)
    other = next_one(bus, fleeting)  # waits until the lock has run out
    assert other.session.session_id == "a"
    assert one(other).delivery_count == 1  # that delivery failed


def test_the_holder_of_a_lost_session_is_told(bus: Bus, fleeting: str) -> None:
    bus.send(fleeting, "x", session_id="a")
    receiver = bus.receiver(fleeting, session_id="a")
    message = one(receiver)
    receiver.session._locked_until_utc = datetime.now(UTC) + timedelta(hours=1)
    time.sleep(0.7)  # the lock is what is tested
    with pytest.raises(SessionLockLostError):
        receiver.complete_message(message)


def test_a_waiting_receiver_of_a_lost_session_is_told(bus: Bus, fleeting: str) -> None:
    receiver = bus.receiver(fleeting, session_id="a")
    with pytest.raises(SessionLockLostError):
        receiver.receive_messages(1, max_wait_time=3)


def test_a_renewed_session_lasts(bus: Bus) -> None:
    queue = bus.queue(requires_session=True, lock_duration=1.5)
    bus.send(queue, "x", session_id="a")
    receiver = bus.receiver(queue, session_id="a")
    message = one(receiver)
    for _ in range(3):
        time.sleep(0.6)  # in all more than the lock lasts
        until = receiver.session.renew_lock()
        assert until > datetime.now(UTC) + timedelta(seconds=0.4)
    receiver.complete_message(message)
    assert bus.counts(queue) == (0, 0, 0)


def test_a_session_keeps_its_state(bus: Bus, queue: str) -> None:
    with bus.client.get_queue_receiver(queue, session_id="a") as receiver:
        assert receiver.session.get_state() is None
        receiver.session.set_state("step 1")
    receiver = bus.receiver(queue, session_id="a")
    assert receiver.session.get_state() == b"step 1"
    receiver.session.set_state(None)
    assert receiver.session.get_state() is None


def test_a_session_that_is_not_locked_tells_no_state(bus: Bus, queue: str) -> None:
    receiver = bus.receiver(queue, session_id="a")
    receiver.session._session_id = "other"
    with pytest.raises(SessionLockLostError):
        receiver.session.get_state()


def test_deferred_messages_and_peeks_are_of_one_session(bus: Bus, queue: str) -> None:
    for name in ("a", "b"):
        bus.send(queue, name, session_id=name)
    receiver = bus.receiver(queue, session_id="b")
    assert bodies(receiver.peek_messages(5)) == ["b"]
    message = one(receiver)
    receiver.defer_message(message)
    (found,) = receiver.receive_deferred_messages(message.sequence_number or 0)
    receiver.complete_message(found)
    assert bus.counts(queue) == (1, 0, 0)


def test_sessions_are_listed(bus: Bus, queue: str) -> None:
    for name in ("b", "a"):
        bus.send(queue, name, session_id=name)
    with bus.client.get_queue_receiver(queue, session_id="state") as receiver:
        receiver.session.set_state("x")
    client: Any = bus.client
    assert list(client.list_queue_sessions(queue)) == ["a", "b", "state"]


def test_scheduled_messages_keep_their_session(bus: Bus, queue: str) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.3)
    bus.sender(queue).schedule_messages(ServiceBusMessage("x", session_id="a"), due)
    assert str(one(next_one(bus, queue))) == "x"


def test_dead_letters_of_sessions_have_no_sessions(bus: Bus, queue: str) -> None:
    bus.send(queue, "x", session_id="a")
    receiver = bus.receiver(queue, session_id="a")
    receiver.dead_letter_message(one(receiver), reason="why")
    dead = bus.dead(queue)
    message = one(dead)
    assert (message.dead_letter_reason, message.session_id) == ("why", "a")
    dead.complete_message(message)


def test_what_has_no_session_and_should_is_refused(bus: Bus, queue: str) -> None:
    with pytest.raises(ServiceBusError, match="SessionId was not set"):
        bus.send(queue, "x")
    with pytest.raises(ServiceBusError, match="non-sessionful"):
        bus.refused(queue)
    with pytest.raises(ServiceBusError, match="sessionful message receiver cannot"):
        bus.refused(bus.queue(), session_id="a")
