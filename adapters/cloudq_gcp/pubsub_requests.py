"""The driver's requests to Pub/Sub's API: one try each, with a deadline."""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
from google.api_core import exceptions as sdk
from google.api_core.gapic_v1 import routing_header
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.types import PublishRequest, PullRequest, PullResponse

from cloudq.driver import Code, Failure
from cloudq_gcp.client import Access, client
from cloudq_gcp.errors import REQUEST_ERRORS, error_code, incomplete
from cloudq_gcp.messages import Message, Received
from cloudq_gcp.rest import Rest

log = logging.getLogger("cloudq.pubsub")

TIMEOUT = 30.0
"""Seconds for one request. One that finds no server is told so within five."""
# How much longer than the wait a pull's deadline is, and the shortest one. See `Requests.pull`.
_MARGIN, _SHORTEST = 1.0, 5.0
_PAUSE = 0.1

# Bytes of the leases' ids in one request: it may have 512 KiB.
_MAX_IDS = 480_000
_CONNECT = 4.0
# Publishes of one send under way at a time: a connection bears a hundred.
_AT_ONCE = 64
_THREADS = 16

# What an exactly-once subscription says about one lease of a batch.
_LOST = "PERMANENT_FAILURE_INVALID_ACK_ID"
_PASSING = "TRANSIENT_"

_Request = cast("Callable[..., Any]", PublishRequest.pb())


class Requests:
    """The two clients of Pub/Sub on one connection. Safe to use from many threads.

    The SDK's own retries would go on for up to ten minutes, so each call is told to have none.
    """

    def __init__(self, reach: Access) -> None:
        host = reach.emulator or reach.endpoint or PublisherClient.DEFAULT_ENDPOINT
        self._channel = reach.channel(host, plain=reach.emulator is not None)
        self.publisher = client(PublisherClient, self._channel, host)
        self.subscriber = client(SubscriberClient, self._channel, host)
        # By HTTP/1.1 the emulator does not see that a caller has gone, and leases messages to it.
        self._impatient = reach.emulator is not None and isinstance(self._channel, Rest)
        self.shortest_pull = 0.0 if reach.emulator else _SHORTEST
        self._connected = False

    def close(self) -> None:
        """Close the connection; requests under way are cancelled."""
        self._channel.close()

    # ---- publishing

    def publish(self, topic: str, batches: Sequence[Sequence[Message]]) -> list[Exception | None]:
        """Publish each batch in a request; return each outcome. Raises if all fail alike."""
        requests = [
            PublishRequest.wrap(_Request(topic=topic, messages=messages)) for messages in batches
        ]
        if len(requests) == 1:
            reply = self.publisher.publish(request=requests[0], retry=None, timeout=TIMEOUT)
            if wrong := _published(reply, batches[0]):
                raise wrong
            return [None]
        replies = at_once(self.publisher.transport.publish, requests, routed(topic=topic))
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
        end = time.monotonic() + wait
        left = wait
        while True:
            timeout = max(left + _MARGIN, self.shortest_pull)
            try:
                reply = self._pull(subscription, count, timeout)
            except sdk.DeadlineExceeded:
                self._check_connection()
                return ()
            self._connected = True
            received = _whole(PullResponse.pb(reply).received_messages)
            left = end - time.monotonic()
            if received or left <= 0:
                return received
            time.sleep(min(left, _PAUSE))  # an early answer; asking again must be no hot loop

    def _pull(self, subscription: str, count: int, timeout: float) -> PullResponse:
        request = PullRequest(subscription=subscription, max_messages=count)
        if not self._impatient:
            return self.subscriber.pull(request=request, retry=None, timeout=timeout)
        # The client's own method warns that this is not for the service.
        request.return_immediately = True
        return cast("Any", self.subscriber.transport).pull(request, timeout=timeout)

    def acknowledge(self, subscription: str, ids: Sequence[str]) -> list[Failure]:
        """Delete leased messages."""

        def call(part: Sequence[str]) -> None:
            request = {"subscription": subscription, "ack_ids": part}
            self.subscriber.acknowledge(request=request, retry=None, timeout=TIMEOUT)

        return _by_leases(ids, call)

    def modify(self, subscription: str, ids: Sequence[str], deadline: int) -> list[Failure]:
        """Make the leases end `deadline` seconds from now; 0 gives the messages back."""

        def call(part: Sequence[str]) -> None:
            self.subscriber.modify_ack_deadline(
                request={
                    "subscription": subscription,
                    "ack_ids": part,
                    "ack_deadline_seconds": deadline,
                },
                retry=None,
                timeout=TIMEOUT,
            )

        return _by_leases(ids, call)

    def _check_connection(self) -> None:
        # A deadline that passes is how a wait for nothing ends, but also how a host is met that
        # never answers: it must not look like an empty queue.
        if self._connected or isinstance(self._channel, Rest):
            return
        try:
            grpc.channel_ready_future(self._channel).result(timeout=_CONNECT)
        except grpc.FutureTimeoutError:
            raise sdk.ServiceUnavailable("no connection within some seconds") from None
        self._connected = True


def routed(**names: str) -> Sequence[tuple[str, str]]:
    """The metadata by which Google routes a request, as the SDK's clients add it."""
    return (routing_header.to_grpc_metadata(tuple(names.items())),)


def at_once(
    call: Any, requests: Sequence[Any], metadata: Sequence[tuple[str, str]]
) -> list[Any | Exception]:
    """Make many requests at a time; return each one's answer or error."""
    answers: list[Any | Exception] = []
    if not hasattr(call, "future"):  # not of gRPC, which needs no threads for it
        with ThreadPoolExecutor(min(len(requests), _THREADS) or 1) as pool:
            made = [
                pool.submit(call, request, timeout=TIMEOUT, metadata=metadata)
                for request in requests
            ]
            return [_outcome(future) for future in made]
    for start in range(0, len(requests), _AT_ONCE):
        futures = [
            call.future(request, timeout=TIMEOUT, metadata=metadata)
            for request in requests[start : start + _AT_ONCE]
        ]
        answers += [_outcome(future) for future in futures]
    return answers


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


def _outcome(future: Any) -> Any | Exception:
    try:
        return future.result()
    except grpc.RpcError as error:
        return sdk.from_grpc_error(error)
    except REQUEST_ERRORS as error:
        return error


def _by_leases(ids: Sequence[str], call: Callable[[Sequence[str]], None]) -> list[Failure]:
    """Call with as many ids as fit in a request; return refusals, raise the first call's error.

    An exactly-once subscription answers with one error for the batch, and names in its details
    the leases that it is about; all others are settled. Other subscriptions refuse none.
    """
    failed: list[Failure] = []
    for part in _parts(ids):
        try:
            call([ids[index] for index in part])
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
