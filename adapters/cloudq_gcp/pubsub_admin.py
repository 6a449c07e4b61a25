"""Operators' commands on Pub/Sub queues.

Pub/Sub cannot show a message without leasing it. So `peek` leases messages for a moment and
releases them. Their handles are their ids: to act on one, it is leased again first. Each look is a
delivery of the message, and counts for the dead-letter policy.
"""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from google.api_core import exceptions as sdk
from google.pubsub_v1.types import (
    DeadLetterPolicy,
    ExpirationPolicy,
    SeekRequest,
    Subscription,
    Topic,
)

from cloudq.driver import Code, Failure, Peeked, Purged, QueueStats, is_ordered
from cloudq_gcp.calls import TIMEOUT
from cloudq_gcp.errors import error_code, incomplete, listed, named
from cloudq_gcp.messages import BATCH, Received, by_key, by_size, revived_copy, to_peeked
from cloudq_gcp.pubsub_requests import Requests
from cloudq_gcp.queues import Queues

# The longest that a subscription keeps a message, and what it once was: the emulator's limit.
_RETENTIONS = (timedelta(days=31), timedelta(days=7))
_LEASES = (10, 600)
_DELIVERIES = (5, 100)
_LOOKING = 60  # seconds that a message is leased while somebody looks
_PATIENCE = 1.0  # seconds without a message after which all are taken for seen
_SETTLES = 60.0  # a seek reaches all of Pub/Sub's servers "eventually": within a minute


def create(
    requests: Requests,
    queues: Queues,
    queue: str,
    *,
    lease: float,
    max_deliveries: int,
    exactly_once: bool,
) -> None:
    """Make topic and subscription, and the same for dead letters. What exists is left as it is.

    The dead-letter policy takes 5 to 100 deliveries. Pub/Sub moves a message to the dead letters
    in the name of its own account, which is, with the number of the project in it,
    `service-NUMBER@gcp-sa-pubsub.iam.gserviceaccount.com`. It needs `roles/pubsub.publisher` on
    the topic for dead letters and `roles/pubsub.subscriber` on the subscription that they come
    from; without them Pub/Sub goes on delivering, and counting.
    There is no retry policy, which would hold back what a worker releases.
    """
    dead, topic = queues.topic(queues.dead_queue(queue)), queues.topic(queue)
    dead_subscription = Subscription(
        name=queues.subscribed(queues.dead_queue(queue)),
        topic=dead,
        ack_deadline_seconds=_LOOKING,
    )
    subscription = Subscription(
        name=queues.subscribed(queue),
        topic=topic,
        ack_deadline_seconds=_within(lease, _LEASES),
        enable_message_ordering=is_ordered(queue),
        enable_exactly_once_delivery=exactly_once,
        dead_letter_policy=DeadLetterPolicy(
            dead_letter_topic=dead, max_delivery_attempts=_within(max_deliveries, _DELIVERIES)
        ),
    )
    # The dead letters come first: a queue never exists without them.
    for name, made in ((dead, dead_subscription), (topic, subscription)):
        with suppress(sdk.AlreadyExists):
            topic = Topic(name=name)
            named(requests.publisher.create_topic(topic, retry=None, timeout=TIMEOUT), "topic")
        with suppress(sdk.AlreadyExists):
            _create_subscription(requests, made)


def _create_subscription(requests: Requests, wanted: Subscription) -> None:
    wanted.expiration_policy = ExpirationPolicy()  # else it is deleted after 31 idle days
    call = requests.subscriber.create_subscription
    longest, shorter = (Subscription(wanted, message_retention_duration=d) for d in _RETENTIONS)
    try:
        made = call(request=longest, retry=None, timeout=TIMEOUT)
    except sdk.InvalidArgument:
        made = call(request=shorter, retry=None, timeout=TIMEOUT)
    named(made, "subscription")


def _within(value: float, span: tuple[int, int]) -> int:
    return min(max(int(-(-value // 1)), span[0]), span[1])


def keeps(requests: Requests, queues: Queues, queue: str) -> bool:
    """Tell whether the queue keeps messages: its subscription exists, and is one of this topic.

    True as well if the credentials may not read the subscription.
    """
    try:
        found = _subscription(requests, queues.subscribed(queue))
    except sdk.NotFound:
        return False
    except sdk.Forbidden:
        return True
    return found.topic == queues.topic(queue)


def check_topic(requests: Requests, topic: str) -> None:
    """Raise `NotFound` if there is no such topic; not if the credentials may not read it."""
    with suppress(sdk.Forbidden):
        named(requests.publisher.get_topic(topic=topic, retry=None, timeout=TIMEOUT), "topic")


def _subscription(requests: Requests, name: str) -> Subscription:
    found = requests.subscriber.get_subscription(subscription=name, retry=None, timeout=TIMEOUT)
    if not found.topic:
        raise incomplete("the subscription's topic")
    return named(found, "subscription")


def delete(requests: Requests, queues: Queues, queue: str) -> None:
    """Delete the queue's topic and subscription, and those of its dead letters.

    Raises `NotFound` where the queue itself had neither.
    """
    missing: list[sdk.NotFound] = []
    for name in (queue, queues.dead_queue(queue)):
        subscription, topic = queues.subscribed(name), queues.topic(name)
        missing += _missing(requests.subscriber.delete_subscription, subscription=subscription)
        missing += _missing(requests.publisher.delete_topic, topic=topic)
        if len(missing) == 2 and name == queue:
            raise missing[0]


def _missing(call: Callable[..., object], **names: str) -> list[sdk.NotFound]:
    try:
        call(**names, retry=None, timeout=TIMEOUT)
    except sdk.NotFound as error:
        return [error]
    return []


def names(requests: Requests, queues: Queues, prefix: str) -> Sequence[str]:
    """The topics whose subscription is there, dead letters left out: two lists of the project."""
    project = f"projects/{queues.project}"
    topics = requests.publisher.list_topics(project=project, retry=None, timeout=TIMEOUT)
    found = {named(topic, "topic").name for topic in listed(topics, "topics")}
    subscriptions = requests.subscriber.list_subscriptions(
        project=project, retry=None, timeout=TIMEOUT
    )
    pairs = {
        (made.topic, named(made, "subscription").name)
        for made in listed(subscriptions, "subscriptions")
    }
    whole = {topic for topic in found if (topic, queues.subscribed(topic)) in pairs}
    living = whole - {queues.dead_queue(topic) for topic in whole}
    start = f"{project}/topics/{queues.prefix}"
    short = (topic.removeprefix(start) for topic in living if topic.startswith(start + prefix))
    return sorted(short)


def stats(requests: Requests, queues: Queues, queue: str) -> QueueStats:
    """Return the name of the dead-letter queue, without counts. Raises `NotFound`."""
    _subscription(requests, queues.subscribed(queue))
    dead = queues.dead_queue(queue)
    return QueueStats(
        queue=queue,
        ready=None,
        delayed=None,
        leased=None,
        dead=None,
        dead_queue=queues.topic_name(dead) if keeps(requests, queues, dead) else None,
    )


def purge(requests: Requests, subscription: str) -> Purged:
    """Mark every message published until now as acked."""
    request = SeekRequest(subscription=subscription, time=datetime.now(UTC))
    requests.subscriber.seek(request=request, retry=None, timeout=TIMEOUT)
    return Purged(count=None, settles=_SETTLES)


def peek(requests: Requests, subscription: str, count: int) -> Sequence[Peeked]:
    """Lease up to `count` messages, release them all, and return them."""
    seen: dict[str, Received] = {}
    try:
        for batch in _look(requests, subscription, count):
            seen |= batch
    finally:
        _give_back(requests, subscription, list(seen.values()))
    return [to_peeked(received) for received in seen.values()]


def _look(requests: Requests, subscription: str, count: int) -> Iterator[dict[str, Received]]:
    # Leases messages, batch by batch, until there is none that was not seen. By Pub/Sub's own id.
    known: set[str] = set()
    while len(known) < count:
        received = requests.pull(subscription, min(BATCH, count - len(known)), _PATIENCE)
        batch = {found.message.message_id: found for found in received}
        yield batch
        if batch.keys() <= known:  # the end, or so long a look that the first leases are over
            return
        known |= batch.keys()
        requests.modify(subscription, [found.ack_id for found in received], _LOOKING)


def _give_back(requests: Requests, subscription: str, received: Sequence[Received]) -> None:
    requests.modify(subscription, [found.ack_id for found in received], 0)


def redrive(
    requests: Requests, subscription: str, topic: str, messages: Sequence[Peeked]
) -> Sequence[Failure]:
    """Publish the chosen dead letters to the topic, then delete them; each under a lease."""
    leased, failed = _lease_chosen(requests, subscription, messages)
    for part in by_size(list(leased), lambda index: leased[index].message.ByteSize()):
        copies = {index: revived_copy(leased[index]) for index in part}
        groups = by_key({index: copy.ordering_key for index, copy in copies.items()})
        batches = [[copies[index] for index in group] for group in groups]
        outcomes = requests.publish(topic, batches)
        for group, error in zip(groups, outcomes, strict=True):
            if error is None:
                failed += _delete(requests, subscription, {i: leased[i] for i in group})
            else:
                code, reason = error_code(error), str(error)
                failed += [Failure(index=index, code=code, reason=reason) for index in group]
    return sorted(failed, key=attrgetter("index"))


def delete_dead(
    requests: Requests, subscription: str, messages: Sequence[Peeked]
) -> Sequence[Failure]:
    """Delete the chosen dead letters; each under a lease."""
    leased, failed = _lease_chosen(requests, subscription, messages)
    failed += _delete(requests, subscription, leased)
    return sorted(failed, key=attrgetter("index"))


def _lease_chosen(
    requests: Requests, subscription: str, messages: Sequence[Peeked]
) -> tuple[dict[int, Received], list[Failure]]:
    # A lease that was looked at is given back, so the chosen are looked for again, by id: their
    # places in `messages` with fresh leases, and a failure for each that is not there any more.
    wanted = {str(message.handle): index for index, message in enumerate(messages)}
    seen: dict[str, Received] = {}
    try:
        for batch in _look(requests, subscription, sys.maxsize):
            seen |= batch
            if wanted.keys() <= seen.keys():
                break
    finally:
        others = [received for id, received in seen.items() if id not in wanted]
        _give_back(requests, subscription, others)
    leased = {index: seen[id] for id, index in wanted.items() if id in seen}
    reason = "no longer among the dead letters, or somebody else looks at it now"
    missing = [index for index in range(len(messages)) if index not in leased]
    return leased, [Failure(index=index, code=Code.NOT_FOUND, reason=reason) for index in missing]


def _delete(requests: Requests, subscription: str, leased: Mapping[int, Received]) -> list[Failure]:
    places = list(leased)
    ids = [received.ack_id for received in leased.values()]
    failed = requests.acknowledge(subscription, ids)
    return [replace(failure, index=places[failure.index]) for failure in failed]
