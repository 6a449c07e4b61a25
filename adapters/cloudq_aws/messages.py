"""Translates messages to SQS's entries and attributes, and the answers to a batch."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cloudq.driver import Code, Delivery, Failure, Outgoing, fitting
from cloudq.driver.log import Log
from cloudq_aws.answers import number, told
from cloudq_aws.errors import AwsError, entry_code

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import MessageSystemAttributeNameType
    from mypy_boto3_sqs.type_defs import (
        MessageAttributeValueTypeDef,
        MessageTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

log = Log("cloudq.sqs")

T = TypeVar("T")

BATCH = 10
MAX_LEASE = 43_200
# Bytes for attributes, which count against SQS's 1 MiB: id, reason and queue of a dead letter.
ROOM = 2048
_MAX_REQUEST = 1_048_576
MAX_BODY = _MAX_REQUEST - ROOM
# All ten bodies of one send share the 1 MiB; `ROOM` is enough for ten ids as well.
MAX_BATCH = MAX_BODY

ID, REASON, SOURCE = "cloudq-id", "cloudq-reason", "cloudq-source"
_MAX_REASON = 1000
SYSTEM: Sequence[MessageSystemAttributeNameType] = (
    "ApproximateReceiveCount",
    "SentTimestamp",
    "MessageGroupId",
)


# What SQS takes as MessageGroupId and MessageDeduplicationId: its API reference, SendMessage.
_KEY = re.compile(r"[0-9A-Za-z!-/:-@\[-`{-~]{1,128}")


def key_text(key: str) -> str:
    """Return a group, an id or a deduplication key as SQS takes it; what it takes stays."""
    return fitting(key, fits)


def fits(key: str) -> bool:
    """Tell whether SQS takes a key as it is."""
    return _KEY.fullmatch(key) is not None


def seconds(duration: float, most: int = MAX_LEASE) -> int:
    """Return a duration for SQS, in whole seconds, rounded up."""
    return min(max(math.ceil(duration), 0), most)


def text(value: str) -> MessageAttributeValueTypeDef:
    """A message attribute."""
    return {"DataType": "String", "StringValue": value}


def outgoing_entry(
    index: int, message: Outgoing, *, fifo: bool
) -> SendMessageBatchRequestEntryTypeDef:
    """The entry of one message in a send."""
    entry: SendMessageBatchRequestEntryTypeDef = {
        "Id": str(index),
        "MessageBody": message.body.decode(),
        "MessageAttributes": {ID: text(message.id)},
    }
    if fifo:
        # A group of its own leaves a message unordered, and SQS free to hand it out at once.
        entry["MessageGroupId"] = key_text(message.group or message.id)
        entry["MessageDeduplicationId"] = key_text(message.dedup or message.id)
    elif message.delay > 0:
        entry["DelaySeconds"] = math.ceil(message.delay)
    return entry


def dead_entry(
    index: int, delivery: Delivery, *, reason: str, source: str, fifo: bool
) -> SendMessageBatchRequestEntryTypeDef:
    """The entry of a message that goes to the dead letters."""
    short = reason.encode()[:_MAX_REASON].decode(errors="ignore")
    attributes = {ID: text(delivery.id), REASON: text(short or "unknown"), SOURCE: text(source)}
    body = delivery.body.decode()
    entry = _copy(index, body, attributes, group=delivery.group, id=delivery.id, fifo=fifo)
    if fifo:
        # The same for every delivery of the message, so that burying it again doubles nothing, and
        # another for one that was redriven: SQS would swallow its copy, and we delete it then.
        life = f"{delivery.id}/{delivery.sent_at}"
        entry["MessageDeduplicationId"] = f"dead-{hashlib.sha256(life.encode()).hexdigest()}"
    return entry


def revived_entry(
    index: int, message: MessageTypeDef, *, fifo: bool
) -> SendMessageBatchRequestEntryTypeDef:
    """The entry of a dead letter that goes back to its queue."""
    id = message_id(message)
    attributes = {
        name: cast("MessageAttributeValueTypeDef", value)
        for name, value in message.get("MessageAttributes", {}).items()
        if name not in (REASON, SOURCE)
    }
    attributes[ID] = text(id)
    group = message.get("Attributes", {}).get("MessageGroupId")
    entry = _copy(index, message.get("Body", ""), attributes, group=group, id=id, fifo=fifo)
    if fifo:
        # SQS's own id: another than the first send's, and the same if this is tried again.
        entry["MessageDeduplicationId"] = f"redrive-{message.get('MessageId', '')}"
    return entry


def _copy(
    index: int,
    body: str,
    attributes: Mapping[str, MessageAttributeValueTypeDef],
    *,
    group: str | None,
    id: str,
    fifo: bool,
) -> SendMessageBatchRequestEntryTypeDef:
    entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(index), "MessageBody": body}
    if len(body.encode()) <= MAX_BODY:  # else from a stranger: its body matters, the rest does not
        entry["MessageAttributes"] = attributes
    if fifo:
        entry["MessageGroupId"] = key_text(group or id)
    return entry


def whole(reply: Mapping[str, Any]) -> list[MessageTypeDef]:
    """Return the messages that were received, each once.

    One that lacks a part is left out, with a line in the log, and comes again after its lease:
    taken as it is, it would be buried as empty. Raises `AwsError` if no message is whole.
    """
    found: dict[str, MessageTypeDef] = {}
    given: list[MessageTypeDef] = reply.get("Messages", [])
    wrong: AwsError | None = None
    for message in given:
        try:
            for name in ("MessageId", "Body"):
                told(message, name)
            number(told(message, "Attributes"), "ApproximateReceiveCount")
            found[told(message, "ReceiptHandle")] = message
        except AwsError as error:
            wrong = error
            log.warning("a received message is left for later: %s", error)
    if wrong is not None and not found:
        raise wrong
    return list(found.values())


def to_delivery(queue: str, message: MessageTypeDef, lease: float) -> Delivery:
    """Convert a received message that is whole; one from another program has SQS's own id."""
    system = told(message, "Attributes")
    id = message_id(message)
    group = system.get("MessageGroupId")
    return Delivery(
        queue=queue,
        id=id,
        body=told(message, "Body").encode(),
        receipt=told(message, "ReceiptHandle"),
        attempts=number(system, "ApproximateReceiveCount"),
        lease=lease,
        group=None if group == key_text(id) else group,
        sent_at=sent_at(message),
    )


def message_id(message: MessageTypeDef) -> str:
    """The id that the sender gave, else the one that SQS gave."""
    return named(message, ID) or message.get("MessageId", "")


def named(message: MessageTypeDef, attribute: str) -> str | None:
    """The text of a received message's attribute."""
    found = message.get("MessageAttributes", {}).get(attribute)
    return found.get("StringValue") if found else None


def sent_at(message: MessageTypeDef) -> float | None:
    """Return the time when SQS took the message, in epoch seconds."""
    stamp = message.get("Attributes", {}).get("SentTimestamp")
    return int(stamp) / 1000 if stamp and stamp.isdecimal() else None


def failures(
    reply: Mapping[str, Any], ids: Sequence[int], indexes: Sequence[int] | None = None
) -> list[Failure]:
    """Return what the answer to a batch does not confirm, which comes with HTTP 200.

    That is its `Failed`, and each of the `ids` that is in neither list. `indexes` are the places
    of the entries in the caller's own sequence, where they differ. Raises `AwsError` for an answer
    with neither list.
    """
    if "Successful" not in reply and "Failed" not in reply:
        told(reply, "Successful")
    refused = {str(entry.get("Id")): entry for entry in reply.get("Failed") or ()}
    done = {str(entry.get("Id")) for entry in reply.get("Successful") or ()} - refused.keys()
    found: list[Failure] = []
    for place, id in enumerate(map(str, ids)):
        if id not in done:
            index = indexes[place] if indexes is not None else ids[place]
            found.append(_failure(index, refused.get(id)))
    return sorted(found, key=attrgetter("index"))


def _failure(index: int, entry: Mapping[str, Any] | None) -> Failure:
    if entry is None:
        reason = "SQS's answer names it neither among what was done nor among what was refused"
        return Failure(index=index, code=Code.UNREACHABLE, reason=reason)
    name, message = entry.get("Code", ""), entry.get("Message", "")
    code = entry_code(name, message, sender_fault=entry.get("SenderFault", False))
    return Failure(index=index, code=code, reason=f"{name}: {message}" if message else name)


def too_large(index: int, message: Outgoing) -> Failure:
    """The refusal of a body over the limit."""
    reason = f"the body has {len(message.body)} bytes, and SQS takes {MAX_BODY}"
    return Failure(index=index, code=Code.TOO_LARGE, reason=reason)


def by_size(parts: Sequence[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """Batches of copies that fit into one send, by number and by bytes, attributes included."""
    batch: list[T] = []
    total = 0
    for part in parts:
        more = length(part) + ROOM
        if batch and (len(batch) == BATCH or total + more > _MAX_REQUEST):
            yield batch
            batch, total = [], 0
        batch.append(part)
        total += more
    if batch:
        yield batch


def receipt_of(delivery: Delivery) -> str:
    """Return the receipt handle under which SQS knows a delivery."""
    return cast("str", delivery.receipt)
