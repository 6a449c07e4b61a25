"""Translates messages to Pub/Sub's attributes and sizes, and copies dead letters.

The classes of the SDK wrap those of protobuf, field by field; building and reading a thousand
messages through them takes ten times as long, so the ones of protobuf are used here.
"""

# The classes of protobuf have no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from google.pubsub_v1.types import PubsubMessage

from cloudq.driver import Code, Delivery, Failure, Outgoing, Peeked, fitting

T = TypeVar("T")

Message = Any
"""A `PubsubMessage` of protobuf."""
Received = Any
"""A `ReceivedMessage` of protobuf: a message, its lease (`ack_id`) and its deliveries."""

BATCH = 1_000
MAX_LEASE = 600
# What Pub/Sub takes in one publish, the name of the topic and all attributes included.
_MAX_REQUEST = 10_000_000
_MAX_TOPIC = 600
# Of a message beside its body: an id and a group of 1 KiB each, which is the longest that either
# can be, and for a dead letter the reason, its queue and its group as well.
_ROOM = 2_200
_DEAD_ROOM = 4_400
MAX_BODY = _MAX_REQUEST - _MAX_TOPIC - _DEAD_ROOM
MAX_BATCH = _MAX_REQUEST - _MAX_TOPIC - BATCH * _ROOM
MAX_GROUP = 1_024

ID, GROUP, REASON, SOURCE = "cloudq-id", "cloudq-group", "cloudq-reason", "cloudq-source"
_MAX_REASON = 1_000
# What Pub/Sub adds to a message that it moves to the dead letters by itself.
_DELIVERED = "CloudPubSubDeadLetterSourceDeliveryCount"

_Message = cast("Callable[..., Message]", PubsubMessage.pb())


def seconds(duration: float) -> int:
    """Return a lease for Pub/Sub, in whole seconds, rounded up."""
    return min(max(math.ceil(duration), 0), MAX_LEASE)


def key_text(group: str) -> str:
    """Return a group as Pub/Sub takes it for an ordering key."""
    return fitting(group, fits)


def fits(group: str) -> bool:
    """Tell whether Pub/Sub takes a group as it is."""
    return len(group.encode(errors="surrogatepass")) <= MAX_GROUP


def packed(message: Outgoing) -> Message:
    """A message to publish."""
    return _Message(
        data=message.body, attributes={ID: message.id}, ordering_key=key_text(message.group or "")
    )


def refused(index: int, message: Outgoing) -> Failure | None:
    """Return why a message cannot be sent, where that is known without a request."""
    if len(message.body) > MAX_BODY:
        reason = f"the body has {len(message.body)} bytes, and Pub/Sub takes {MAX_BODY}"
        return Failure(index=index, code=Code.TOO_LARGE, reason=reason)
    return None


def dead_copy(delivery: Delivery, *, reason: str, source: str) -> Message:
    """A message as it goes to the dead letters.

    The group is an attribute there: a publish takes ordering keys one at a time.
    """
    if len(delivery.body) > MAX_BODY:  # from a stranger: its body matters, the rest does not
        return _Message(data=delivery.body)
    short = reason.encode()[:_MAX_REASON].decode(errors="ignore")
    attributes = {ID: delivery.id, REASON: short or "unknown", SOURCE: source}
    if delivery.group:
        attributes[GROUP] = delivery.group
    return _Message(data=delivery.body, attributes=attributes)


def revived_copy(received: Received) -> Message:
    """A dead letter as it goes back to its queue."""
    message = received.message
    if len(message.data) > MAX_BODY:
        return _Message(data=message.data)
    attributes = {
        name: value
        for name, value in message.attributes.items()
        if name not in (REASON, SOURCE, GROUP) and not name.startswith("CloudPubSub")
    }
    attributes[ID] = message_id(message)
    group = message.attributes.get(GROUP) or message.ordering_key
    return _Message(data=message.data, attributes=attributes, ordering_key=group)


def to_delivery(queue: str, received: Received, lease: float) -> Delivery:
    """A received message; a stranger's has Pub/Sub's own id."""
    message = received.message
    return Delivery(
        queue=queue,
        id=message_id(message),
        body=message.data,
        receipt=received.ack_id,
        attempts=max(1, received.delivery_attempt),
        lease=lease,
        group=message.ordering_key or None,
        sent_at=sent_at(message),
    )


def to_peeked(received: Received) -> Peeked:
    """A message that was looked at; its handle is Pub/Sub's own id."""
    message = received.message
    delivered = message.attributes.get(_DELIVERED)
    return Peeked(
        id=message_id(message),
        body=message.data,
        attempts=max(1, received.delivery_attempt),
        handle=message.message_id,
        sent_at=sent_at(message),
        reason=message.attributes.get(REASON)
        or (f"delivered {delivered} times" if delivered else None),
    )


def message_id(message: Message) -> str:
    """The id that the sender gave, else the one that Pub/Sub gave."""
    return message.attributes.get(ID) or message.message_id


def sent_at(message: Message) -> float | None:
    """Return the time when Pub/Sub took the message, in epoch seconds."""
    stamp = message.publish_time
    return (stamp.seconds + stamp.nanos / 1e9) or None


def by_key(keys: Mapping[int, str]) -> list[list[int]]:
    """The places of messages, one list for each ordering key: a publish takes only one."""
    groups: dict[str, list[int]] = {}
    for place, key in keys.items():
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def by_size(parts: Sequence[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """Batches of copies that fit into one publish, by number and by bytes."""
    batch: list[T] = []
    total = _MAX_TOPIC
    for part in parts:
        more = length(part) + _DEAD_ROOM
        if batch and (len(batch) == BATCH or total + more > _MAX_REQUEST):
            yield batch
            batch, total = [], _MAX_TOPIC
        batch.append(part)
        total += more
    if batch:
        yield batch
