"""Operators' commands on SQS queues.

SQS cannot show a message without leasing it. So `peek` leases messages for a moment and releases
them. Their handles are their ids: to act on one, it is leased again first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING

from cloudq.driver import Code, Failure, Peeked, Purged, QueueStats, is_ordered
from cloudq_aws.answers import number, told
from cloudq_aws.messages import (
    BATCH,
    REASON,
    SYSTEM,
    by_size,
    failures,
    message_id,
    named,
    revived_entry,
    seconds,
    sent_at,
    whole,
)
from cloudq_aws.queues import Queues

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import DeleteMessageBatchRequestEntryTypeDef, MessageTypeDef

_RETENTION = 14 * 24 * 3600  # the longest that SQS keeps a message
_LOOKING = 60  # seconds that a message is leased while somebody looks
_MAX_RECEIVES = 1000
_PURGING = 60.0  # "the message deletion process takes up to 60 seconds"
_COUNTS: Sequence[QueueAttributeNameType] = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)


def create(queues: Queues, queue: str, *, lease: float, max_deliveries: int) -> None:
    """Make the queue and its dead-letter queue. Existing ones are left as they are."""
    dead = _create(queues.client, queues.dead_name(queue), {})
    found = queues.client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
    policy = {
        "deadLetterTargetArn": told(told(found, "Attributes"), "QueueArn"),
        "maxReceiveCount": min(max_deliveries, _MAX_RECEIVES),
    }
    settings: dict[QueueAttributeNameType, str] = {
        "VisibilityTimeout": str(seconds(lease)),
        "RedrivePolicy": json.dumps(policy),
    }
    _create(queues.client, queues.full_name(queue), settings)
    queues.forget(queue)


def _create(client: SQSClient, name: str, settings: Mapping[QueueAttributeNameType, str]) -> str:
    attributes: dict[QueueAttributeNameType, str] = {
        "MessageRetentionPeriod": str(_RETENTION),
        "ReceiveMessageWaitTimeSeconds": "20",
        "SqsManagedSseEnabled": "true",
        **settings,
    }
    if is_ordered(name):
        attributes["FifoQueue"] = "true"
    with suppress(client.exceptions.QueueDoesNotExist):
        return told(client.get_queue_url(QueueName=name), "QueueUrl")
    try:
        return told(client.create_queue(QueueName=name, Attributes=attributes), "QueueUrl")
    except client.exceptions.QueueNameExists:  # made by somebody else in between, another way
        return told(client.get_queue_url(QueueName=name), "QueueUrl")


def delete(queues: Queues, queue: str) -> None:
    """Delete the queue, and the dead-letter queue that `create` made for it alone."""
    dead = queues.dead_url(queue)
    queues.client.delete_queue(QueueUrl=queues.url(queue))
    # Another name means a queue that somebody made by hand, maybe for several queues.
    if dead and dead.rpartition("/")[2] == queues.dead_name(queue):
        queues.client.delete_queue(QueueUrl=dead)
    queues.forget(queue)


def names(queues: Queues, prefix: str) -> Sequence[str]:
    """The names of the queues that start with the broker's prefix and this one."""
    pages = queues.client.get_paginator("list_queues").paginate(
        QueueNamePrefix=queues.prefix + prefix, PaginationConfig={"PageSize": 1000}
    )
    full = {url.rpartition("/")[2] for page in pages for url in page.get("QueueUrls", ())}
    short = {name.removeprefix(queues.prefix) for name in full}
    dead = {queues.dead_name(name) for name in short}
    return sorted(name for name in short if queues.full_name(name) not in dead)


def stats(queues: Queues, queue: str) -> QueueStats:
    """Approximate counts; SQS does not tell the oldest message's age (CloudWatch does)."""
    ready, delayed, leased = _counts(queues.client, queues.url(queue))
    dead = queues.dead_url(queue)
    return QueueStats(
        queue=queue,
        ready=ready,
        delayed=delayed,
        leased=leased,
        dead=sum(_counts(queues.client, dead)) if dead else None,
        dead_queue=dead.rpartition("/")[2] if dead else None,
    )


def _counts(client: SQSClient, url: str) -> tuple[int, int, int]:
    reply = client.get_queue_attributes(QueueUrl=url, AttributeNames=_COUNTS)
    ready, delayed, leased = (number(told(reply, "Attributes"), name) for name in _COUNTS)
    return ready, delayed, leased


def purge(client: SQSClient, url: str) -> Purged:
    """Delete all messages of a queue; the count is that before, approximately."""
    count = sum(_counts(client, url))
    client.purge_queue(QueueUrl=url)
    return Purged(count=count, settles=_PURGING)


def peek(client: SQSClient, url: str, count: int) -> Sequence[Peeked]:
    """Lease up to `count` messages, release them all, and return them."""
    seen: dict[str, MessageTypeDef] = {}
    try:
        for batch in _look(client, url, count):
            seen |= batch
    finally:
        _give_back(client, url, list(seen.values()))
    return [_peeked(message) for message in seen.values()]


def _look(client: SQSClient, url: str, count: int) -> Iterator[dict[str, MessageTypeDef]]:
    # Leases messages, batch by batch, until there is none that was not seen. By SQS's own id.
    known: set[str] = set()
    while len(known) < count:
        reply = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=min(BATCH, count - len(known)),
            WaitTimeSeconds=1,  # the shortest that asks all of SQS's servers
            VisibilityTimeout=_LOOKING,
            MessageSystemAttributeNames=SYSTEM,
            MessageAttributeNames=["All"],
        )
        batch = {message.get("MessageId", ""): message for message in whole(reply)}
        yield batch
        if batch.keys() <= known:  # the end, or so long a look that the first leases are over
            return
        known |= batch.keys()


def _give_back(client: SQSClient, url: str, messages: Sequence[MessageTypeDef]) -> None:
    for start in range(0, len(messages), BATCH):
        client.change_message_visibility_batch(
            QueueUrl=url,
            Entries=[
                {
                    "Id": str(place),
                    "ReceiptHandle": message.get("ReceiptHandle", ""),
                    "VisibilityTimeout": 0,
                }
                for place, message in enumerate(messages[start : start + BATCH])
            ],
        )


def _peeked(message: MessageTypeDef) -> Peeked:
    return Peeked(
        id=message_id(message),
        body=message.get("Body", "").encode(),
        attempts=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
        handle=message.get("MessageId", ""),
        sent_at=sent_at(message),
        reason=named(message, REASON),
    )


def redrive(queues: Queues, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
    """Copy the chosen dead letters to the queue, then delete them; each under a lease."""
    client, target, dead = queues.client, queues.url(queue), queues.require_dead_url(queue)
    leased, failed = _lease_chosen(client, dead, messages)
    for part in by_size(list(leased), lambda index: len(leased[index].get("Body", "").encode())):
        entries = [
            revived_entry(place, leased[index], fifo=is_ordered(target))
            for place, index in enumerate(part)
        ]
        reply = client.send_message_batch(QueueUrl=target, Entries=entries)
        unsent = failures(reply, range(len(part)), part)
        left = {failure.index for failure in unsent}
        sent = {index: leased[index] for index in part if index not in left}
        failed += [*unsent, *_delete(client, dead, sent)]
    return sorted(failed, key=attrgetter("index"))


def delete_dead(queues: Queues, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
    """Delete the chosen dead letters; each under a lease."""
    client, dead = queues.client, queues.require_dead_url(queue)
    leased, failed = _lease_chosen(client, dead, messages)
    chosen = list(leased)
    for start in range(0, len(chosen), BATCH):
        part = {index: leased[index] for index in chosen[start : start + BATCH]}
        failed += _delete(client, dead, part)
    return sorted(failed, key=attrgetter("index"))


def _lease_chosen(
    client: SQSClient, url: str, messages: Sequence[Peeked]
) -> tuple[dict[int, MessageTypeDef], list[Failure]]:
    # A receipt ends with its lease, so the chosen are looked for again, by id: their places in
    # `messages` with fresh receipts, and a failure for each that is not there any more.
    wanted = {str(message.handle): index for index, message in enumerate(messages)}
    seen: dict[str, MessageTypeDef] = {}
    try:
        for batch in _look(client, url, sys.maxsize):
            seen |= batch
            if wanted.keys() <= seen.keys():
                break
    finally:
        others = [message for id, message in seen.items() if id not in wanted]
        _give_back(client, url, others)
    leased = {index: seen[id] for id, index in wanted.items() if id in seen}
    reason = "no longer among the dead letters, or somebody else looks at it now"
    missing = [index for index in range(len(messages)) if index not in leased]
    return leased, [Failure(index=index, code=Code.NOT_FOUND, reason=reason) for index in missing]


def _delete(client: SQSClient, url: str, messages: Mapping[int, MessageTypeDef]) -> list[Failure]:
    # At most ten messages, by their places in the caller's sequence.
    if not messages:
        return []
    entries: list[DeleteMessageBatchRequestEntryTypeDef] = [
        {"Id": str(index), "ReceiptHandle": message.get("ReceiptHandle", "")}
        for index, message in messages.items()
    ]
    reply = client.delete_message_batch(QueueUrl=url, Entries=entries)
    return failures(reply, list(messages))
