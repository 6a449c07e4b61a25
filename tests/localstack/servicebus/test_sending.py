"""Messages arrive unchanged, once, and in time; those that may not be sent do not arrive."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import (
    MessageNotFoundError,
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
)

from cloudq.testing import eventually
from tests.localstack.servicebus.bus import Bus, bodies, many, nothing, one, soon


def test_a_message_arrives_with_all_its_properties(bus: Bus) -> None:
    queue = bus.queue()
    before = datetime.now(UTC) - timedelta(seconds=1)
    number = uuid4()
    bus.sender(queue).send_messages(
        ServiceBusMessage(
            b"\x00\xffbody",
            application_properties={"text": "é", "int": 7, "real": 0.5, "no": False, "id": number},
            message_id="m-1",
            session_id="s-1",
            correlation_id="c-1",
            content_type="application/json",
            subject="label",
            to="there",
            reply_to="here",
            reply_to_session_id="s-2",
            partition_key="s-1",
            time_to_live=timedelta(hours=1),
        )
    )
    message = one(bus.receiver(queue))
    assert b"".join(message.body) == b"\x00\xffbody"
    assert message.application_properties == {
        b"text": "é".encode(),
        b"int": 7,
        b"real": 0.5,
        b"no": False,
        b"id": number,
    }
    assert (message.message_id, message.session_id) == ("m-1", "s-1")
    assert (message.correlation_id, message.content_type) == ("c-1", "application/json")
    assert (message.subject, message.to, message.reply_to) == ("label", "there", "here")
    assert (message.reply_to_session_id, message.partition_key) == ("s-2", "s-1")
    assert message.time_to_live == timedelta(hours=1)
    assert (message.sequence_number, message.delivery_count) == (1, 0)
    assert message.enqueued_time_utc is not None
    assert before <= message.enqueued_time_utc <= datetime.now(UTC)


def test_bodies_of_values_and_sequences_arrive(bus: Bus) -> None:
    queue = bus.queue()
    sender, receiver = bus.sender(queue), bus.receiver(queue)
    sender.send_messages(AmqpAnnotatedMessage(value_body={"k": [1, None]}))
    assert one(receiver).body == {b"k": [1, None]}
    sender.send_messages(AmqpAnnotatedMessage(sequence_body=[["a", 1], ["b"]]))
    assert list(one(receiver).body) == [[b"a", 1], [b"b"]]


def test_a_batch_is_its_messages_in_order(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue, *(f"m{n}" for n in range(100)))
    found = many(bus.receiver(queue), 100)
    assert bodies(found) == [f"m{n}" for n in range(100)]
    assert [message.sequence_number for message in found] == list(range(1, 101))


def test_a_message_of_many_frames_arrives_whole(bus: Bus) -> None:
    queue = bus.queue()
    body = bytes(range(256)) * 900  # 230 KB; a frame has 64 KB at most
    bus.sender(queue).send_messages(ServiceBusMessage(body))
    assert b"".join(one(bus.receiver(queue)).body) == body


def test_a_message_over_the_limit_is_refused_and_the_sender_lives_on(bus: Bus) -> None:
    queue = bus.queue()
    sender = bus.sender(queue)
    with pytest.raises(MessageSizeExceededError, match="262144"):
        sender.send_messages(ServiceBusMessage(b"x" * 256 * 1024))
    sender.send_messages(ServiceBusMessage(b"x" * 255 * 1024))
    assert bus.counts(queue) == (1, 0, 0)


def test_the_sdk_learns_how_large_a_batch_may_be(bus: Bus) -> None:
    batch = bus.sender(bus.queue()).create_message_batch()
    assert batch.max_size_in_bytes == 256 * 1024
    with pytest.raises(MessageSizeExceededError):
        batch.add_message(ServiceBusMessage(b"x" * 257 * 1024))


def test_a_full_queue_refuses_a_message(bus: Bus) -> None:
    queue = bus.queue(max_size_in_megabytes=1)
    sender = bus.sender(queue)
    for _ in range(4):
        sender.send_messages(ServiceBusMessage(b"x" * 250 * 1024))
    with pytest.raises(ServiceBusQuotaExceededError):
        sender.send_messages(ServiceBusMessage(b"x" * 250 * 1024))
    receiver = bus.receiver(queue)
    receiver.complete_message(one(receiver))
    sender.send_messages(ServiceBusMessage(b"x" * 250 * 1024))


def test_a_queue_that_is_not_there_is_not_found(bus: Bus) -> None:
    with pytest.raises(MessagingEntityNotFoundError):
        bus.sender("nowhere")
    with pytest.raises(MessagingEntityNotFoundError):
        bus.refused("nowhere")


def test_names_are_the_same_in_upper_and_lower_case(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue.upper(), "x")
    assert bodies([one(bus.receiver(queue.title()))]) == ["x"]


@pytest.mark.parametrize("status", ["Disabled", "SendDisabled"])
def test_nothing_is_sent_to_a_queue_that_is_switched_off(bus: Bus, status: str) -> None:
    queue = bus.queue()
    sender = bus.sender(queue)
    bus.admin.update_queue(bus.admin.get_queue(queue), status=status)
    with pytest.raises(MessagingEntityDisabledError):
        sender.send_messages(ServiceBusMessage("x"))
    with pytest.raises(MessagingEntityDisabledError):
        bus.sender(queue)
    bus.admin.update_queue(bus.admin.get_queue(queue), status="Active")
    bus.send(queue, "y")
    assert bus.counts(queue) == (1, 0, 0)


def test_duplicates_within_the_window_are_dropped(bus: Bus) -> None:
    queue = bus.queue(
        requires_duplicate_detection=True, duplicate_detection_history_time_window=0.5
    )
    sender = bus.sender(queue)
    sender.send_messages(ServiceBusMessage("first", message_id="a"))
    sender.send_messages(ServiceBusMessage("again", message_id="a"))
    sender.send_messages([ServiceBusMessage("other", message_id=i) for i in ("a", "b", "b")])
    sender.send_messages([ServiceBusMessage("no id"), ServiceBusMessage("no id")])
    receiver = bus.receiver(queue)
    assert bodies(many(receiver, 4)) == ["first", "other", "no id", "no id"]
    nothing(receiver)
    time.sleep(0.5)  # the window is what is tested
    sender.send_messages(ServiceBusMessage("later", message_id="a"))
    assert str(one(receiver)) == "later"


def test_without_duplicate_detection_the_same_id_is_two_messages(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue, "x", "y", message_id="a")
    assert bus.counts(queue) == (2, 0, 0)


def test_a_scheduled_message_appears_when_its_time_has_come(bus: Bus) -> None:
    queue = bus.queue()
    receiver = bus.receiver(queue)
    due = soon(0.6)
    numbers = bus.sender(queue).schedule_messages(
        [ServiceBusMessage("a"), ServiceBusMessage("b")], due
    )
    assert list(numbers) == [1, 2]
    assert bus.counts(queue) == (0, 2, 0)
    assert [m.state for m in receiver.peek_messages(5)] == [ServiceBusMessageState.SCHEDULED] * 2
    found = many(receiver, 2)
    assert datetime.now(UTC) >= due
    assert bodies(found) == ["a", "b"]
    assert [m.sequence_number for m in found] == [3, 4]  # they join the queue now
    assert found[0].enqueued_time_utc is not None
    assert found[0].enqueued_time_utc >= due - timedelta(milliseconds=50)


def test_a_message_sent_with_a_time_is_scheduled(bus: Bus) -> None:
    queue = bus.queue()
    message = ServiceBusMessage("x", scheduled_enqueue_time_utc=soon(0.5))
    bus.sender(queue).send_messages(message)
    assert bus.counts(queue) == (0, 1, 0)
    assert str(one(bus.receiver(queue))) == "x"


def test_a_time_in_the_past_is_now(bus: Bus) -> None:
    queue = bus.queue()
    bus.sender(queue).schedule_messages(ServiceBusMessage("x"), soon(-60))
    assert bus.counts(queue) == (1, 0, 0)


def test_a_cancelled_message_never_appears(bus: Bus) -> None:
    queue = bus.queue()
    sender = bus.sender(queue)
    first, second = sender.schedule_messages(
        [ServiceBusMessage("a"), ServiceBusMessage("b")], soon(0.4)
    )
    sender.cancel_scheduled_messages(first)
    with pytest.raises(MessageNotFoundError):
        sender.cancel_scheduled_messages(first)
    with pytest.raises(MessageNotFoundError):  # all of them, or none
        sender.cancel_scheduled_messages([second, first])
    receiver = bus.receiver(queue)
    assert str(one(receiver)) == "b"
    nothing(receiver)
    with pytest.raises(MessageNotFoundError):  # it is no longer scheduled
        sender.cancel_scheduled_messages(second)


def test_an_expired_message_is_gone(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue, "short", time_to_live=timedelta(seconds=1))
    bus.send(queue, "long", time_to_live=timedelta(seconds=60))
    assert bus.counts(queue) == (2, 0, 0)
    eventually(lambda: bus.counts(queue) == (1, 0, 0))
    receiver = bus.receiver(queue)
    assert str(one(receiver)) == "long"
    nothing(receiver)


def test_an_expired_message_goes_to_the_dead_letters_where_the_queue_says_so(bus: Bus) -> None:
    queue = bus.queue(
        dead_lettering_on_message_expiration=True,
        default_message_time_to_live=timedelta(seconds=0.3),
    )
    # The queue's limit holds for a message that wants to live longer.
    bus.send(queue, "x", time_to_live=timedelta(seconds=60))
    eventually(lambda: bus.counts(queue) == (0, 0, 1))
    message = one(bus.dead(queue))
    assert message.dead_letter_reason == "TTLExpiredException"


def test_a_locked_message_outlives_its_time(bus: Bus) -> None:
    queue = bus.queue()
    bus.send(queue, "x", time_to_live=timedelta(seconds=1))
    receiver = bus.receiver(queue)
    message = one(receiver)
    time.sleep(1.1)  # its time to live is what is tested
    receiver.complete_message(message)
    bus.send(queue, "y", time_to_live=timedelta(seconds=1))
    message = one(receiver)
    time.sleep(1.1)
    receiver.abandon_message(message)
    nothing(receiver)


def test_nothing_can_be_sent_to_dead_letters(bus: Bus) -> None:
    with pytest.raises(ServiceBusError, match="dead-letter"):
        bus.sender(f"{bus.queue()}/$DeadLetterQueue")
