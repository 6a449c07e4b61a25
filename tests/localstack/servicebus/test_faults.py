"""Trouble on demand: each kind hits what it should, as often as it should, and then stops."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import (
    MessageLockLostError,
    ServiceBusAuthenticationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
    SessionLockLostError,
)

from tests.localstack.servicebus.bus import Bus, bodies, many, one, soon

# The SDK does not close the socket of a connection that the service has cut.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def tidy(shared_bus: Bus) -> Iterator[None]:
    """Let what a test left behind go before another module's tests begin."""
    yield
    shared_bus.finish()


@pytest.mark.parametrize(("after", "kept"), [(False, 0), (True, 1)])
def test_a_connection_is_cut_at_a_transfer(bus: Bus, after: bool, kept: int) -> None:
    queue = bus.queue()
    sender = bus.sender(queue)
    bus.fault(kind="drop", on="transfer", nth=2, after=after)
    sender.send_messages(ServiceBusMessage("first"))
    with pytest.raises(ServiceBusConnectionError):
        sender.send_messages(ServiceBusMessage("second"))
    assert bus.counts(queue) == (1 + kept, 0, 0)
    sender.send_messages(ServiceBusMessage("third"))  # the SDK connects again
    assert bus.counts(queue) == (2 + kept, 0, 0)


@pytest.mark.parametrize(("after", "left"), [(False, 1), (True, 0)])
def test_a_connection_is_cut_at_a_settlement(bus: Bus, after: bool, left: int) -> None:
    queue = bus.queue(lock_duration=30)
    bus.send(queue, "x")
    receiver = bus.receiver(queue)
    message = one(receiver)
    bus.fault(kind="drop", on="disposition", after=after)
    # Whether it took effect, the SDK cannot know. It asks again by lock token, over a link of the
    # connection that is no more.
    with pytest.raises(ServiceBusError):
        receiver.complete_message(message)
    assert bus.counts(queue) == (left, 0, 0)
    again = bus.receiver(queue)
    if left:
        again.complete_message(message)
        assert bus.counts(queue) == (0, 0, 0)
    else:
        with pytest.raises(MessageLockLostError):
            again.complete_message(message)


@pytest.mark.parametrize(("after", "kept"), [(False, 0), (True, 1)])
def test_a_connection_is_cut_at_a_request(bus: Bus, after: bool, kept: int) -> None:
    queue = bus.queue()
    sender = bus.sender(queue)
    bus.fault(kind="drop", on="management", after=after)
    with pytest.raises(ServiceBusError):
        sender.schedule_messages(ServiceBusMessage("x"), soon(60))
    assert bus.counts(queue) == (0, kept, 0)


def test_a_busy_server_is_busy_as_often_as_asked(bus: Bus) -> None:
    queue = bus.queue()
    sender = bus.sender(queue)
    bus.fault(kind="busy", on="transfer", count=2)
    for _ in range(2):
        with pytest.raises(ServiceBusServerBusyError):
            sender.send_messages(ServiceBusMessage("x"))
    sender.send_messages(ServiceBusMessage("y"))
    assert bus.counts(queue) == (1, 0, 0)


def test_a_busy_server_does_not_settle(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue, "x")
    receiver = bus.receiver(queue)
    message = one(receiver)
    bus.fault(kind="busy", on="disposition")
    with pytest.raises(ServiceBusServerBusyError):
        receiver.complete_message(message)
    assert bus.counts(queue) == (1, 0, 0)
    receiver.complete_message(message)
    assert bus.counts(queue) == (0, 0, 0)


def test_a_busy_server_opens_no_link_and_answers_no_request(bus: Bus) -> None:
    queue = bus.queue(warm=0)  # a receiver opened ahead may be the one that is refused
    sender = bus.sender(queue)
    bus.fault(kind="busy", on="attach")
    with pytest.raises(ServiceBusServerBusyError):
        bus.refused(queue)
    sender.schedule_messages(ServiceBusMessage("x"), soon(60))
    bus.fault(kind="busy", on="management")
    with pytest.raises(ServiceBusServerBusyError):
        sender.schedule_messages(ServiceBusMessage("x"), soon(60))
    assert bus.counts(queue) == (0, 1, 0)


def test_trouble_may_be_of_one_queue(bus: Bus) -> None:
    queue, other = bus.queue(), bus.queue()
    bus.fault(kind="busy", on="transfer", count=0, entity=queue.upper())
    bus.send(other, "x")
    for _ in range(3):
        with pytest.raises(ServiceBusServerBusyError):
            bus.send(queue, "x")
    bus.control("DELETE", "_faults")
    bus.send(queue, "x")


def test_a_denied_token(bus: Bus) -> None:
    queue = bus.queue(warm=0)
    bus.fault(kind="deny", count=1)
    with pytest.raises(ServiceBusAuthenticationError):
        bus.own_sender(queue)
    bus.own_sender(queue)


def test_a_hanging_server_answers_late_and_loses_nothing(bus: Bus) -> None:
    queue = bus.queue()
    sender = bus.sender(queue)
    receiver = bus.receiver(queue)
    bus.fault(kind="hang", seconds=0.7)
    began = time.monotonic()
    sender.send_messages(ServiceBusMessage("x"))
    assert time.monotonic() - began > 0.6
    assert str(one(receiver)) == "x"


def test_a_session_is_free_when_its_holder_is_cut_off(bus: Bus) -> None:
    queue = bus.queue(requires_session=True)
    bus.send(queue, "x", "y", session_id="a")
    receiver = bus.receiver(queue, session_id="a")
    message = one(receiver)
    bus.fault(kind="drop", on="disposition")
    with pytest.raises((ServiceBusConnectionError, SessionLockLostError)):
        receiver.complete_message(message)
    assert bodies(many(bus.receiver(queue, session_id="a"), 2)) == ["x", "y"]


@pytest.mark.parametrize(
    "wanted",
    [
        {"kind": "fire"},
        {"kind": "drop", "on": "lunch"},
        {"kind": "busy", "nth": 0},
        {"kind": "busy", "often": 3},
        {},
        [],
    ],
)
def test_trouble_that_is_not_known_is_refused(bus: Bus, wanted: object) -> None:
    with pytest.raises(AssertionError, match="400"):
        bus.control("POST", "_faults", wanted)
    assert bus.control("GET", "_faults") == {"faults": []}


def test_requests_are_counted(bus: Bus) -> None:
    queue = bus.queue()
    sender, receiver = bus.sender(queue), bus.receiver(queue)
    one_before = bus.stats()
    bus.send(queue, "a", "b", "c")
    for message in many(receiver, 3):
        receiver.complete_message(message)
    sender.schedule_messages(ServiceBusMessage("x"), soon(60))
    counted = {name: value - one_before.get(name, 0) for name, value in bus.stats().items()}
    assert (counted["transfers"], counted["messages"]) == (1, 4)
    assert (counted["deliveries"], counted["dispositions"], counted["management"]) == (3, 3, 1)
    assert counted["flows"] >= 1
    assert bus.control("GET", "_health")["status"] == "ok"
    with pytest.raises(AssertionError, match="404"):
        bus.control("GET", "_nothing")
