"""The broker on Amazon SQS, standard and FIFO.

Its URL is `sqs://region?endpoint_url=&profile=&client=&prefix=&dead=`.

A queue is a name, looked up once, or a full URL, never looked up. Nothing here lists or creates
queues unless an operator asks for it, so that producers and workers need few rights.

A message is its body and one attribute, `cloudq-id`; a dead letter has `cloudq-reason` and
`cloudq-source` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from cloudq.driver import (
    Address,
    Code,
    Delivery,
    Failure,
    Limits,
    Outgoing,
    Peeked,
    Purged,
    QueueStats,
    is_ordered,
)
from cloudq.errors import ConfigurationError
from cloudq_aws import sqs_admin as admin
from cloudq_aws.client import Access, access
from cloudq_aws.errors import advice, error_code, is_of_service
from cloudq_aws.lost_receives import LostReceives
from cloudq_aws.messages import (
    BATCH,
    ID,
    MAX_BATCH,
    MAX_BODY,
    MAX_LEASE,
    SYSTEM,
    by_size,
    dead_entry,
    failures,
    outgoing_entry,
    receipt_of,
    seconds,
    to_delivery,
    too_large,
    whole,
)
from cloudq_aws.metering import meter_sqs
from cloudq_aws.queues import Queues, no_dead_letters

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

_STANDARD = Limits(
    batch=BATCH,
    body=MAX_BODY,
    batch_body=MAX_BATCH,
    max_delay=900,
    max_lease=MAX_LEASE,
    max_wait=20,
    min_wait=1,
    polls_outlive_callers=True,
)
_FIFO = Limits(
    batch=BATCH,
    body=MAX_BODY,
    batch_body=MAX_BATCH,
    max_delay=0,  # a FIFO queue has one delay for all of its messages
    max_lease=MAX_LEASE,
    max_wait=20,
    min_wait=1,
    ordered=True,
    dedup_window=300,
    polls_outlive_callers=True,
)
# Seconds of a lease in which a message moves to the dead letters, and to no other worker.
_MOVING = 60


def open_broker(address: Address) -> SQS:
    """The driver of an `sqs://` URL. Raises `ConfigurationError`."""
    if address.path:
        raise ConfigurationError(f"{address.url} has a path: the region is all, as sqs://eu-west-1")
    reach = access(address, region=address.host, options=("client", "prefix", "dead"))
    dead = address.options.get("dead")
    if dead is not None and "{queue}" not in dead:
        raise ConfigurationError(f"dead={dead} has no {{queue}} in it, as {{queue}}-dead has")
    return SQS(reach, prefix=address.options.get("prefix", ""), dead=dead)


class SQS:
    """A `BrokerDriver` and `QueueAdmin` on one account and region."""

    def __init__(self, reach: Access, *, prefix: str = "", dead: str | None = None) -> None:
        self.client = cast("SQSClient", reach.client("sqs"))
        self._queues = Queues(self.client, prefix=prefix, dead=dead)
        self._lost = LostReceives()
        self._lost.watch(self.client)
        self.meter = meter_sqs(self.client, prefix=prefix)

    def limits(self, queue: str) -> Limits:
        """Return the limits of the queue, of the kind that its name tells."""
        return _FIFO if is_ordered(queue) else _STANDARD

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Send a batch in one request."""
        fifo = is_ordered(queue)
        refused = [
            too_large(index, message)
            for index, message in enumerate(messages)
            if len(message.body) > MAX_BODY
        ]
        large = {failure.index for failure in refused}
        entries = [
            outgoing_entry(index, message, fifo=fifo)
            for index, message in enumerate(messages)
            if index not in large
        ]
        if not entries:
            return refused
        reply = self.client.send_message_batch(QueueUrl=self._queues.url(queue), Entries=entries)
        return [*refused, *failures(reply, [int(entry["Id"]) for entry in entries])]

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        """Lease messages in one request, by long polling when `wait` is not 0.

        While answers of receives are lost the leases are shorter than asked for, as they tell.
        """
        leased = seconds(lease)
        # Below 1 s SQS asks only some of its servers, and misses messages that are there.
        waited = min(max(int(wait), 1), 20) if wait > 0 else 0
        url = self._queues.url(queue)
        if is_ordered(queue):
            found = self._received_in_order(url, count, waited, leased)
        else:
            leased = self._lost.lease(leased)
            found = self._received(url, count, waited, leased)
        return [to_delivery(queue, message, leased) for message in found]

    def _received_in_order(
        self, url: str, count: int, wait: int, lease: int
    ) -> Sequence[MessageTypeDef]:
        attempt = self._lost.attempt(url, count, lease)
        try:
            return self._received(
                url, attempt.count, wait, lease, ReceiveRequestAttemptId=attempt.id
            )
        except Exception:
            self._lost.unanswered(url, attempt)
            raise

    def _received(
        self, url: str, count: int, wait: int, lease: int, **more: Any
    ) -> Sequence[MessageTypeDef]:
        reply = self.client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=wait,
            VisibilityTimeout=lease,
            MessageSystemAttributeNames=SYSTEM,
            MessageAttributeNames=[ID],
            **more,
        )
        return whole(reply)

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        """Delete the messages. SQS may let a lost lease pass if nobody else has deleted."""
        reply = self.client.delete_message_batch(
            QueueUrl=self._queues.url(deliveries[0].queue),
            Entries=[
                {"Id": str(index), "ReceiptHandle": receipt_of(delivery)}
                for index, delivery in enumerate(deliveries)
            ],
        )
        return failures(reply, range(len(deliveries)))

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        """Make the messages visible `after` seconds from now."""
        return self.extend(deliveries, lease=after)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        """Change the messages' visibility; SQS allows 12 h from their receipt in total."""
        timeout = seconds(lease)
        reply = self.client.change_message_visibility_batch(
            QueueUrl=self._queues.url(deliveries[0].queue),
            Entries=[
                {
                    "Id": str(index),
                    "ReceiptHandle": receipt_of(delivery),
                    "VisibilityTimeout": timeout,
                }
                for index, delivery in enumerate(deliveries)
            ],
        )
        return failures(reply, range(len(deliveries)))

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Extend the leases, copy the messages to the dead-letter queue, then delete them."""
        queue = deliveries[0].queue
        url = self._queues.dead_url(queue)
        if url is None:
            why = no_dead_letters(queue)
            return [
                Failure(index=index, code=Code.NOT_FOUND, reason=why)
                for index in range(len(deliveries))
            ]
        # A message that another worker has leased by now must not be copied: it would run twice.
        failed = list(self.extend(deliveries, lease=_MOVING))
        lost = {failure.index for failure in failed}
        held = [index for index in range(len(deliveries)) if index not in lost]
        for part in by_size(held, lambda index: len(deliveries[index].body)):
            try:
                failed += self._bury(url, deliveries, part, reason)
            except Exception as error:
                if part[0] == held[0] or not is_of_service(error):
                    raise
                # What has moved already is not to be moved once more.
                code, why = error_code(error), str(error)
                rest = held[held.index(part[0]) :]
                failed += [Failure(index=index, code=code, reason=why) for index in rest]
                break
        return sorted(failed, key=attrgetter("index"))

    def _bury(
        self, url: str, deliveries: Sequence[Delivery], indexes: list[int], reason: str
    ) -> list[Failure]:
        unsent = self._copy(url, deliveries, indexes, reason)
        left = {failure.index for failure in unsent}
        sent = [index for index in indexes if index not in left]
        if not sent:
            return unsent
        undeleted = self.ack([deliveries[index] for index in sent])
        return [
            *unsent,
            *(
                Failure(index=sent[failure.index], code=failure.code, reason=failure.reason)
                for failure in undeleted
            ),
        ]

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Send new messages to the dead-letter queue, with the reason."""
        queue = deliveries[0].queue
        url = self._queues.dead_url(queue)
        if url is None:
            why = no_dead_letters(queue)
            places = range(len(deliveries))
            return [Failure(index=index, code=Code.NOT_FOUND, reason=why) for index in places]
        failed: list[Failure] = []
        for part in by_size(range(len(deliveries)), lambda index: len(deliveries[index].body)):
            failed += self._copy(url, deliveries, part, reason)
        return failed

    def _copy(
        self, url: str, deliveries: Sequence[Delivery], indexes: list[int], reason: str
    ) -> list[Failure]:
        source = self._queues.full_name(deliveries[0].queue)
        fifo = is_ordered(url)
        entries = [
            dead_entry(place, deliveries[index], reason=reason, source=source, fifo=fifo)
            for place, index in enumerate(indexes)
        ]
        reply = self.client.send_message_batch(QueueUrl=url, Entries=entries)
        return failures(reply, range(len(indexes)), indexes)

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error; None for the advice that goes by its code."""
        return advice(error)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def create(self, queue: str, *, lease: float, max_deliveries: int) -> None:
        """Make the queue and its dead-letter queue. Existing ones are left as they are."""
        admin.create(self._queues, queue, lease=lease, max_deliveries=max_deliveries)

    def delete(self, queue: str) -> None:
        """Delete the queue, and its dead letters unless that queue has a name of its own."""
        admin.delete(self._queues, queue)

    def list(self, prefix: str = "") -> Sequence[str]:
        """The names of the queues, dead-letter queues left out."""
        return admin.names(self._queues, prefix)

    def stats(self, queue: str) -> QueueStats:
        """Return the queue's counts; SQS counts approximately, and tells no age."""
        return admin.stats(self._queues, queue)

    def peek(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at messages by leasing them for a moment, which counts as a delivery of each."""
        return admin.peek(self.client, self._queues.url(queue), count)

    def purge(self, queue: str) -> Purged:
        """Delete all messages, leased ones too; SQS does so once a minute, within a minute."""
        return admin.purge(self.client, self._queues.url(queue))

    def peek_dead(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at dead letters, as `peek` does."""
        return admin.peek(self.client, self._queues.require_dead_url(queue), count)

    def redrive(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Send dead letters to their queue again, then delete them from the dead letters."""
        return admin.redrive(self._queues, queue, messages)

    def delete_dead(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Delete the chosen dead letters."""
        return admin.delete_dead(self._queues, queue, messages)

    def purge_dead(self, queue: str) -> Purged:
        """Delete all dead letters, as `purge` does."""
        return admin.purge(self.client, self._queues.require_dead_url(queue))
