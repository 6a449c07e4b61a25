"""The administration client of the SDK makes, changes, lists and deletes queues."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.servicebus import ServiceBusMessage

from tests.localstack.servicebus.bus import Bus, one, soon
from tests.servers import unique


def test_a_queue_has_the_properties_it_was_made_with(bus: Bus) -> None:
    name = unique("team/q")
    made = bus.admin.create_queue(
        name,
        lock_duration=timedelta(seconds=45),
        max_delivery_count=7,
        requires_session=True,
        requires_duplicate_detection=True,
        duplicate_detection_history_time_window=timedelta(minutes=2),
        default_message_time_to_live=timedelta(days=3, seconds=1.5),
        dead_lettering_on_message_expiration=True,
        max_size_in_megabytes=2048,
        user_metadata="é <&>",
    )
    for queue in (made, bus.admin.get_queue(name)):
        assert queue.name == name
        assert queue.lock_duration == timedelta(seconds=45)
        assert (queue.max_delivery_count, queue.max_size_in_megabytes) == (7, 2048)
        assert queue.requires_session is True
        assert queue.requires_duplicate_detection is True
        assert queue.duplicate_detection_history_time_window == timedelta(minutes=2)
        assert queue.default_message_time_to_live == timedelta(days=3, seconds=1.5)
        assert queue.dead_lettering_on_message_expiration is True
        assert (queue.user_metadata, queue.status) == ("é <&>", "Active")


def test_azures_defaults(bus: Bus) -> None:
    queue = bus.admin.get_queue(bus.queue(warm=0))
    assert queue.lock_duration == timedelta(minutes=1)
    assert (queue.max_delivery_count, queue.max_size_in_megabytes) == (10, 1024)
    assert (queue.requires_session, queue.requires_duplicate_detection) == (False, False)
    assert queue.duplicate_detection_history_time_window == timedelta(minutes=10)
    assert queue.dead_lettering_on_message_expiration is False
    assert str(queue.default_message_time_to_live).startswith("10675199 days")
    assert queue.max_message_size_in_kilobytes == 256


def test_a_change_holds_from_then_on(bus: Bus) -> None:
    name = bus.queue(lock_duration=60)
    queue = bus.admin.get_queue(name)
    queue.lock_duration = timedelta(seconds=20)
    queue.max_delivery_count = 3
    bus.admin.update_queue(queue)
    assert bus.admin.get_queue(name).max_delivery_count == 3
    bus.send(name, "x")
    until = one(bus.receiver(name)).locked_until_utc
    assert until is not None
    assert until - datetime.now(UTC) <= timedelta(seconds=20)


def test_what_azure_does_not_change_is_not_changed(bus: Bus) -> None:
    queue = bus.admin.get_queue(bus.queue(warm=0))
    queue.requires_session = True
    with pytest.raises(HttpResponseError, match="RequiresSession") as caught:
        bus.admin.update_queue(queue)
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ({"lock_duration": timedelta(minutes=6)}, "LockDuration"),
        ({"max_delivery_count": 0}, "MaxDeliveryCount"),
        ({"forward_to": "elsewhere"}, "ForwardTo"),
        ({"default_message_time_to_live": "soon"}, "duration"),
    ],
)
def test_what_a_queue_cannot_be_is_refused(
    bus: Bus, properties: dict[str, object], problem: str
) -> None:
    name = unique("q")
    with pytest.raises((HttpResponseError, ValueError), match=problem):
        bus.admin.create_queue(name, **properties)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ResourceNotFoundError):
        bus.admin.get_queue(name)


def test_a_name_that_azure_does_not_take_is_refused(bus: Bus) -> None:
    for name in ("-q", "a b", "q?", "x" * 261):
        with pytest.raises(HttpResponseError, match="name"):
            bus.admin.create_queue(name)


def test_a_name_that_is_taken_is_a_conflict(bus: Bus) -> None:
    name = bus.queue(warm=0)
    with pytest.raises(ResourceExistsError):
        bus.admin.create_queue(name.upper())


def test_what_is_not_there_is_not_found(bus: Bus) -> None:
    name = bus.queue(warm=0)
    queue = bus.admin.get_queue(name)
    bus.admin.delete_queue(name)
    with pytest.raises(ResourceNotFoundError):
        bus.admin.get_queue(name)
    with pytest.raises(ResourceNotFoundError):
        bus.admin.get_queue_runtime_properties(name)
    with pytest.raises(ResourceNotFoundError):
        bus.admin.delete_queue(name)
    with pytest.raises(ResourceNotFoundError):
        bus.admin.update_queue(queue)


def test_a_queue_made_again_is_empty(bus: Bus) -> None:
    name = bus.queue()
    bus.send(name, "x")
    bus.admin.delete_queue(name)
    bus.admin.create_queue(name)
    assert bus.counts(name) == (0, 0, 0)


def test_counts_and_times_of_a_queue(bus: Bus) -> None:
    before = datetime.now(UTC)
    name = bus.queue()
    bus.send(name, *"abcd")
    bus.sender(name).schedule_messages(ServiceBusMessage("later"), soon(60))
    receiver = bus.receiver(name)
    receiver.dead_letter_message(one(receiver))
    receiver.defer_message(one(receiver))
    one(receiver)  # locked
    found = bus.admin.get_queue_runtime_properties(name)
    assert (found.active_message_count, found.scheduled_message_count) == (3, 1)
    assert (found.dead_letter_message_count, found.total_message_count) == (1, 5)
    assert (found.transfer_message_count, found.transfer_dead_letter_message_count) == (0, 0)
    assert 5 < (found.size_in_bytes or 0) < 5_000
    assert found.created_at_utc is not None
    assert found.accessed_at_utc is not None
    assert before <= found.created_at_utc <= found.accessed_at_utc <= datetime.now(UTC)


def test_queues_are_listed_page_by_page(bus: Bus) -> None:
    prefix = unique("list")
    names = [f"{prefix}-{n}" for n in range(5)]
    for name in names:
        bus.admin.create_queue(name)
    before = bus.stats()["admin"]
    listed = [queue.name for queue in bus.admin.list_queues(max_page_size=2)]
    assert [name for name in listed if name.startswith(prefix)] == names
    assert len(set(listed)) == len(listed)
    assert bus.stats()["admin"] - before == (len(listed) + 1) // 2  # requests of two each
    runtime = [queue.name for queue in bus.admin.list_queues_runtime_properties()]
    assert set(names) <= set(runtime)
    assert list(bus.admin.list_topics()) == []


def test_the_namespace_tells_its_tier(bus: Bus) -> None:
    found = bus.admin.get_namespace_properties()
    assert (found.messaging_sku, found.namespace_type) == ("Standard", "Messaging")


def test_topics_are_not_here(bus: Bus) -> None:
    with pytest.raises(HttpResponseError, match="supports only queues"):
        bus.admin.create_topic(unique("topic"))


def test_a_denied_administrator(bus: Bus) -> None:
    bus.fault(kind="deny")
    with pytest.raises(ClientAuthenticationError):
        bus.admin.get_queue("any")
