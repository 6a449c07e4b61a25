"""The driver's requests to Pub/Sub's API: one try each, with a deadline."""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import grpc
from google.api_core import exceptions as sdk
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    ModifyAckDeadlineRequest,
    PublishRequest,
    PublishResponse,
    PullRequest,
    PullResponse,
)

from cloudq.driver import Code, Failure
from cloudq.driver.billing import ACK, EXTEND, POLL, RECEIVE, SEND, Meter
from cloudq.driver.log import Log
from cloudq_gcp.calls import TIMEOUT, Method, at_once, call, routed
from cloudq_gcp.client import Access, client
from cloudq_gcp.errors import error_code, incomplete
from cloudq_gcp.messages import Message, Received
from cloudq_gcp.prices import PUBSUB
from cloudq_gcp.queues import Queues
from cloudq_gcp.rest import Rest

log = Log("cloudq.pubsub")

# How much longer than the wait a pull's deadline is, and the shortest one. See `Requests.pull`.
_MARGIN, _SHORTEST = 1.0, 5.0
_PAUSE = 0.1

# Bytes of the leases' ids in one request: it may have 512 KiB.
_MAX_IDS = 480_000
_CONNECT = 4.0
# Bytes of a message besides its body that Pub/Sub bills: its attribute, its time and its id.
_REST = 81

# What an exactly-once subscription says about one lease of a batch.
_LOST = "PERMANENT_FAILURE_INVALID_ACK_ID"
_PASSING = "TRANSIENT_"

_PUBLISH = Method("/google.pubsub.v1.Publisher/Publish", PublishResponse.pb())
_PULL = Method("/google.pubsub.v1.Subscriber/Pull", PullResponse.pb())
_ACKNOWLEDGE = Method("/google.pubsub.v1.Subscriber/Acknowledge", Empty)
_MODIFY = Method("/google.pubsub.v1.Subscriber/ModifyAckDeadline", Empty)
# The classes of protobuf, as those of the SDK wrap them.
_Publish: Any = PublishRequest.pb()
_Pull: Any = PullRequest.pb()
_Acknowledge: Any = AcknowledgeRequest.pb()
_Modify: Any = ModifyAckDeadlineRequest.pb()


class Requests:
    """The two clients of Pub/Sub on one connection. Safe to use from many threads.

    The SDK's own retries would go on for up to ten minutes, so each call is told to have none.
    """

    def __init__(self, reach: Access, queues: Queues | None = None) -> None:
        self._queues = queues or Queues(project=reach.project)
        self.meter = Meter(PUBSUB)
        host = reach.emulator or reach.endpoint or PublisherClient.DEFAULT_ENDPOINT
        channel = self._channel = reach.channel(host, plain=reach.emulator is not None)
        self.publisher = client(PublisherClient, channel, host)
        self.subscriber = client(SubscriberClient, channel, host)
        topics, subscriptions = self.publisher.transport, self.subscriber.transport
        self._publish = call(channel, _PUBLISH, topics.publish, PublishRequest)
        self._pull = call(channel, _PULL, subscriptions.pull, PullRequest)
        self._acknowledge = call(
            channel, _ACKNOWLEDGE, subscriptions.acknowledge, AcknowledgeRequest
        )
        self._modify = call(
            channel, _MODIFY, subscriptions.modify_ack_deadline, ModifyAckDeadlineRequest
        )
        # By HTTP/1.1 the emulator does not see that a caller has gone, and leases messages to it.
        self._impatient = reach.emulator is not None and isinstance(channel, Rest)
        self.shortest_pull = 0.0 if reach.emulator else _SHORTEST

    def close(self) -> None:
        """Close the connection; requests under way are cancelled."""
        self._channel.close()

    # ---- publishing

    def publish(self, topic: str, batches: Sequence[Sequence[Message]]) -> list[Exception | None]:
        """Publish each batch in a request; return each outcome. Raises if all fail alike."""
        for messages in batches:
            self._count(SEND, topic, messages)
        requests = [_Publish(topic=topic, messages=messages) for messages in batches]
        metadata = routed("topic", topic)
        if len(requests) == 1:
            reply = self._publish(requests[0], timeout=TIMEOUT, metadata=metadata)
            if wrong := _published(reply, batches[0]):
                raise wrong
            return [None]
        replies = at_once(self._publish, requests, metadata)
        outcomes = [_published(*pair) for pair in zip(replies, batches, strict=True)]
        if outcomes and outcomes[0] is not None and all(outcomes):
            raise outcomes[0]
        return outcomes

    # ---- leases

    def pull(self, subscription: str, count: int, wait: float) -> Sequence[Received]:
        """Lease up to `count` messages; with none there, wait up to `wait` s for the first.

        An answer that is under way when a pull's deadline passes is lost, and its messages come
        back only when the subscription's own ack deadline ends. The emulator therefore answers
        about a second ahead of it that there is nothing; the service uses all the time it has.
        So the deadline is a second later than the wait, and on the service not so short that it
        cuts often: there a wait for nothing can take five seconds, whatever is asked.
        """
        metadata = routed("subscription", subscription)
        # The SDK's own client warns that this is not for the service.
        request = _Pull(
            subscription=subscription, max_messages=count, return_immediately=self._impatient
        )
        end = time.monotonic() + wait
        left = wait
        while True:
            timeout = max(left + _MARGIN, self.shortest_pull)
            try:
                reply = self._pull(request, timeout=timeout, metadata=metadata)
            except sdk.DeadlineExceeded:
                self._check_connection()
                received: Sequence[Received] = ()
            else:
                received = _whole(reply.received_messages)
            found = [each.message for each in received]
            self._count(RECEIVE if found else POLL, subscription, found)
            left = end - time.monotonic()
            if received or left <= 0:
                return received
            time.sleep(min(left, _PAUSE))  # an early answer; asking again must be no hot loop

    def acknowledge(self, subscription: str, ids: Sequence[str]) -> list[Failure]:
        """Delete leased messages."""
        metadata = routed("subscription", subscription)

        def ask(part: Sequence[str]) -> None:
            request = _Acknowledge(subscription=subscription, ack_ids=part)
            self.meter.count(ACK, self._queues.queue_of(subscription), items=len(part))
            self._acknowledge(request, timeout=TIMEOUT, metadata=metadata)

        return _by_leases(ids, ask)

    def modify(self, subscription: str, ids: Sequence[str], deadline: int) -> list[Failure]:
        """Make the leases end `deadline` seconds from now; 0 gives the messages back."""
        metadata = routed("subscription", subscription)

        def ask(part: Sequence[str]) -> None:
            self.meter.count(EXTEND, self._queues.queue_of(subscription), items=len(part))
            request = _Modify(
                subscription=subscription, ack_ids=part, ack_deadline_seconds=deadline
            )
            self._modify(request, timeout=TIMEOUT, metadata=metadata)

        return _by_leases(ids, ask)

    def ack_deadline(self, subscription: str, patience: float) -> int:
        """The seconds for which a pull from the subscription leases messages."""
        found = self.subscriber.get_subscription(
            subscription=subscription, retry=None, timeout=patience
        )
        if not found.name or not found.ack_deadline_seconds:
            raise incomplete("the name or the ack deadline of the subscription")
        return int(found.ack_deadline_seconds)

    def _count(self, call: str, name: str, messages: Sequence[Message]) -> None:
        size = sum(len(message.data) + _REST for message in messages)
        self.meter.count(call, self._queues.queue_of(name), items=len(messages), size=size)

    def _check_connection(self) -> None:
        # A deadline that passes is how a wait for nothing ends, but also how a host is met that
        # never answers, or no longer: it must not look like an empty queue. gRPC finds a connection
        # lost by the pings that it sends meanwhile.
        if isinstance(self._channel, Rest):
            return
        try:
            grpc.channel_ready_future(self._channel).result(timeout=_CONNECT)
        except grpc.FutureTimeoutError:
            raise sdk.ServiceUnavailable("no connection within some seconds") from None


def _published(reply: Any, messages: Sequence[Message]) -> Exception | None:
    """Return why messages do not count as published: an error, or an answer without their ids."""
    if isinstance(reply, Exception):
        return reply
    ids = set(reply.message_ids) - {""}
    return None if len(ids) == len(messages) else incomplete("an id of each message")


def _whole(received: Sequence[Received]) -> Sequence[Received]:
    """Return the messages that have all parts, each lease once. Raises if none of them has.

    What is left out comes again: taken for a message, it would be buried as an empty one.
    """
    found = {each.ack_id: each for each in received if each.ack_id and each.message.message_id}
    if received and not found:
        raise incomplete("the id of a message or of its lease")
    if len(found) < len(received):
        log.warning("%d received messages are left for later", len(received) - len(found))
    return list(found.values())


def _by_leases(ids: Sequence[str], ask: Callable[[Sequence[str]], None]) -> list[Failure]:
    """Ask with as many ids as fit in a request; return refusals, raise the first call's error.

    An exactly-once subscription answers with one error for the batch, and names in its details
    the leases that it is about; all others are settled. Other subscriptions refuse none.
    """
    failed: list[Failure] = []
    for part in _parts(ids):
        try:
            ask([ids[index] for index in part])
        except sdk.GoogleAPICallError as error:
            told = cast("Mapping[str, str]", error.metadata or {})
            refused = [_failure(index, told[ids[index]]) for index in part if ids[index] in told]
            if not refused and part.start == 0:
                raise
            code, why = error_code(error), str(error)
            failed += refused or [Failure(index=i, code=code, reason=why) for i in part]
    return failed


def _parts(ids: Sequence[str]) -> Iterator[range]:
    start = size = 0
    for index, id in enumerate(ids):
        more = len(id) + 4
        if size + more > _MAX_IDS and index > start:
            yield range(start, index)
            start, size = index, 0
        size += more
    if ids:
        yield range(start, len(ids))


def _failure(index: int, told: str) -> Failure:
    if told == _LOST:
        return Failure(index=index, code=Code.LEASE_LOST, reason="the lease has ended")
    code = Code.THROTTLED if told.startswith(_PASSING) else Code.INVALID
    return Failure(index=index, code=code, reason=told)
