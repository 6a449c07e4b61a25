"""Translates messages to Service Bus's properties, sessions and counts, and back."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import codecs
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType

from cloudq.driver import Code, Delivery, Failure, Outgoing, Peeked, Scheduled, fitting

BATCH = 100
ID, ATTEMPTS = "cloudq-id", "cloudq-attempts"
BURY = "cloudq-bury"
"""Says of a message for which reason who receives it is to dead-letter it."""
# What the service itself adds to a dead letter.
_BURIED = ("DeadLetterReason", "DeadLetterErrorDescription")

# Properties, annotations and the batch around them count against the size of a message.
ROOM = 4096
MAX_STANDARD = 262_144 - ROOM
MAX_PREMIUM = 104_857_600 - ROOM
_MAX_REASON = 1024
# Of a message id and of a session id: the service's quotas.
_LONGEST_KEY = 128

Properties = dict[str, Any]


class Receipt(NamedTuple):
    """The data to settle a delivery; `session` names that it was received through, if any."""

    token: str
    sequence: int
    session: str | None = None
    properties: Properties | None = None
    """A stranger's own properties, for a copy."""


def outgoing(message: Outgoing, *, fifo: bool, now: datetime | None = None) -> ServiceBusMessage:
    """The message to send; it waits for its time if it has a delay."""
    sent = ServiceBusMessage(
        message.body,
        # The service forgets a second one with the same id, where the queue knows duplicates.
        message_id=key_text(message.dedup or message.id),
        application_properties={ID: message.id},
        # A session of its own leaves a message unordered.
        session_id=key_text(message.group or message.id) if fifo else None,
    )
    if message.delay > 0:
        sent.scheduled_enqueue_time_utc = due(message.delay, now)
    return sent


def key_text(key: str) -> str:
    """Return a group, an id or a deduplication key as Service Bus takes it."""
    return fitting(key, fits)


# Found here, since finding one imports a module, and a process may be forked amid a first send.
_UTF_16 = codecs.lookup("utf-16-le")


def fits(key: str) -> bool:
    """Tell whether Service Bus takes a key as it is: it counts as .NET does, in UTF-16."""
    try:
        return 0 < len(_UTF_16.encode(key)[0]) <= 2 * _LONGEST_KEY
    except UnicodeEncodeError:
        return False


def due(delay: float, now: datetime | None = None) -> datetime:
    """The time `delay` seconds from now, for the service."""
    return (now or datetime.now(UTC)) + timedelta(seconds=delay)


def receipt_of(delivery: Delivery) -> Receipt:
    """Return the lock under which Service Bus knows a delivery."""
    return cast("Receipt", delivery.receipt)


def later(delivery: Delivery, after: float) -> ServiceBusMessage:
    """A copy that comes `after` seconds from now and goes on counting the deliveries."""
    receipt = receipt_of(delivery)
    properties = dict(receipt.properties) if receipt.properties else {}
    return ServiceBusMessage(
        delivery.body,
        message_id=uuid.uuid4().hex,
        application_properties={**properties, ID: delivery.id, ATTEMPTS: delivery.attempts},
        scheduled_enqueue_time_utc=due(after),
    )


def to_bury(delivery: Delivery, reason: str, *, fifo: bool) -> ServiceBusMessage:
    """Make the message that is dead-lettered when it is received, since none can be sent there."""
    return ServiceBusMessage(
        delivery.body,
        message_id=uuid.uuid4().hex,
        application_properties={ID: delivery.id, BURY: burial(reason)[0]},
        session_id=key_text(delivery.group or delivery.id) if fifo else None,
    )


def reason_to_bury(delivery: Delivery) -> str | None:
    """Return why a received message is to be dead-lettered; None for any other."""
    properties = receipt_of(delivery).properties
    reason = properties.get(BURY) if properties else None
    return str(reason) if reason is not None else None


def revived(message: ServiceBusReceivedMessage, *, fifo: bool) -> ServiceBusMessage:
    """The copy of a dead letter that goes back to its queue."""
    properties = properties_of(message)
    id = id_of(message, properties)
    dropped = (*_BURIED, ATTEMPTS, BURY)
    kept = {name: value for name, value in properties.items() if name not in dropped}
    return ServiceBusMessage(
        body_of(message),
        # Another than the first send's, and the same if this is tried again.
        message_id=f"redrive-{message.sequence_number}",
        application_properties={**kept, ID: id},
        session_id=key_text(message.session_id or id) if fifo else None,
    )


def to_delivery(
    queue: str, message: ServiceBusReceivedMessage, *, lease: float, session: str | None
) -> Delivery:
    """A received message; a stranger's has its own message id."""
    properties = properties_of(message)
    id = id_of(message, properties)
    foreign = {name: v for name, v in properties.items() if name not in (ID, ATTEMPTS)}
    return Delivery(
        queue=queue,
        id=id,
        body=body_of(message),
        receipt=Receipt(
            token=str(message.lock_token),
            sequence=message.sequence_number or 0,
            session=session,
            properties=foreign or None,
        ),
        attempts=_attempts(message, properties) + 1,
        lease=lease,
        group=_group(message, id),
        sent_at=_epoch(message.enqueued_time_utc),
    )


def to_peeked(message: ServiceBusReceivedMessage) -> Peeked:
    """A message looked at."""
    properties = properties_of(message)
    return Peeked(
        id=id_of(message, properties),
        body=body_of(message),
        attempts=_attempts(message, properties),
        handle=message.sequence_number,
        sent_at=_epoch(message.enqueued_time_utc),
        reason=reason_of(message),
    )


def to_scheduled(message: ServiceBusReceivedMessage) -> Scheduled:
    """A message that waits for its time."""
    id = id_of(message, properties_of(message))
    return Scheduled(
        handle=str(message.sequence_number),
        id=id,
        body=body_of(message),
        due=_epoch(message.scheduled_enqueue_time_utc) or 0.0,
        group=_group(message, id),
    )


def reason_of(message: ServiceBusReceivedMessage) -> str | None:
    """Return why a message was dead-lettered; the service tells a word and a sentence."""
    reason, description = message.dead_letter_reason, message.dead_letter_error_description
    if reason and description and not description.startswith(reason):
        return f"{reason}: {description}"
    return description or reason


def burial(reason: str) -> tuple[str, str]:
    """The reason and the description of a dead letter, no longer than the service takes."""
    whole = reason or "unknown"
    return _cut(whole, _MAX_REASON), _cut(whole, 4 * _MAX_REASON)


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")


def too_large(index: int, message: Outgoing, most: int) -> Failure:
    """The failure of a body over the limit."""
    reason = f"{len(message.body)} bytes: a message of this queue takes up to {most}"
    return Failure(index=index, code=Code.TOO_LARGE, reason=reason)


def properties_of(message: ServiceBusReceivedMessage) -> Properties:
    """The application properties; the SDK leaves their names, and texts, as bytes."""
    given = cast("Mapping[Any, Any]", message.application_properties or {})
    return {_text(name): _text(value) for name, value in given.items()}


def id_of(message: ServiceBusReceivedMessage, properties: Properties) -> str:
    """The message's id in cloudq."""
    return str(properties.get(ID) or message.message_id or message.sequence_number)


def body_of(message: ServiceBusReceivedMessage) -> bytes:
    """The whole body; a stranger's may be a value of AMQP instead of bytes."""
    if message.body_type is AmqpMessageBodyType.DATA:
        return b"".join(message.body)
    value = message.body
    return value if isinstance(value, bytes) else str(message).encode()


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _attempts(message: ServiceBusReceivedMessage, properties: Properties) -> int:
    carried = properties.get(ATTEMPTS, 0)
    return (message.delivery_count or 0) + (carried if isinstance(carried, int) else 0)


def _group(message: ServiceBusReceivedMessage, id: str) -> str | None:
    session = message.session_id
    return session if session and session != key_text(id) else None


def _epoch(time: datetime | None) -> float | None:
    return time.timestamp() if time else None
