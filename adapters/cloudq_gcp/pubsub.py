"""The broker on Google Pub/Sub: `pubsub://project?emulator=&endpoint=&prefix=&dead=&...`.

A queue is a topic and a subscription, both of the queue's name; its dead letters are such a pair
too, named `{queue}-dead`. Nothing here lists or creates them unless an operator asks for it: a
producer needs `roles/pubsub.publisher` on the topic, a worker this too, for retries, and
`roles/pubsub.subscriber` on the subscription (and `roles/pubsub.viewer`, which saves a request for
each receive) and `roles/pubsub.publisher` on the topic for dead letters. A topic without a
subscription forgets what is published, so `create` makes all four.

    emulator       HOST:PORT of Google's emulator, else `PUBSUB_EMULATOR_HOST`
    endpoint       a regional one, such as us-east1-pubsub.googleapis.com: publishers must use the
                   same for the order of groups to hold
    prefix         before every name
    subscription   another name for a queue's subscription, such as {queue}-workers
    dead           another name for a queue's dead letters, such as failed-{queue}
    exactly_once   true: `create` makes subscriptions that refuse to settle a lost lease
    tasks          LOCATION/QUEUE of Cloud Tasks, which then keeps delayed messages (see
                   `cloud_tasks`); with `account`, and `tasks_endpoint` for a local stand-in

A message is its body and one attribute, `cloudq-id`; a dead letter has `cloudq-reason`,
`cloudq-source` and `cloudq-group` as well. A `.fifo` queue's groups are ordering keys. Where one
of a group is received again, Pub/Sub repeats all that came after it, those acked too.

Deliveries are counted by subscriptions with a dead-letter policy only, such as `create` makes.
On others each delivery is the first as far as one can see (`attempts` is 1): then a task whose
process dies each time is run for ever, and the late record of a worker that lost its lease is
not told from that of its successor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import cast

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
    Scheduled,
    is_ordered,
)
from cloudq.driver.billing import SCHEDULE
from cloudq.errors import ConfigurationError
from cloudq_gcp import pubsub_admin as admin
from cloudq_gcp.client import access
from cloudq_gcp.cloud_tasks import MAX_DELAY, CloudTasks
from cloudq_gcp.errors import REQUEST_ERRORS, error_code
from cloudq_gcp.messages import (
    BATCH,
    MAX_BATCH,
    MAX_BODY,
    MAX_LEASE,
    by_key,
    by_size,
    dead_copy,
    packed,
    refused,
    seconds,
    to_delivery,
)
from cloudq_gcp.pubsub_leases import Leasing
from cloudq_gcp.pubsub_requests import Requests
from cloudq_gcp.queues import QUEUE, Queues

_STANDARD = Limits(
    batch=BATCH,
    body=MAX_BODY,
    batch_body=MAX_BATCH,
    max_delay=0,
    max_lease=MAX_LEASE,
    max_wait=60,
    min_wait=1,
)
_ORDERED = replace(_STANDARD, ordered=True)
# Seconds of a lease in which a message moves to the dead letters, and to no other worker.
_MOVING = 60

_TEMPLATES = ("subscription", "dead")
_TASKS = ("tasks", "account", "tasks_endpoint")
_TRUTHS = {"true": True, "false": False, "": False}


def open_broker(address: Address) -> PubSub:
    """The driver of a `pubsub://` URL. Raises `ConfigurationError`."""
    options = address.options
    if address.path:
        raise ConfigurationError(
            f"{address.url} has a path: the project is all, as pubsub://my-project"
        )
    reach = access(address, options=("prefix", "exactly_once", *_TEMPLATES, *_TASKS))
    for name in _TEMPLATES:
        if QUEUE not in options.get(name, QUEUE):
            raise ConfigurationError(f"{name}={options[name]} has no {QUEUE} in it")
    exactly_once = options.get("exactly_once", "")
    if exactly_once not in _TRUTHS:
        raise ConfigurationError(f"exactly_once={exactly_once} is neither true nor false")
    given = {name: options[name] for name in _TEMPLATES if name in options}
    queues = Queues(project=reach.project, prefix=options.get("prefix", ""), **given)
    if queues.dead == QUEUE:
        raise ConfigurationError(f"dead={QUEUE} is the queue itself")
    tasks = CloudTasks.of(reach, options)
    requests, once = Requests(reach, queues), _TRUTHS[exactly_once]
    if tasks is None:
        return PubSub(requests, queues, exactly_once=once)
    return PubSubWithTasks(requests, queues, exactly_once=once, tasks=tasks)


class PubSub:
    """A `BrokerDriver` and `QueueAdmin` on one project."""

    def __init__(self, requests: Requests, queues: Queues, *, exactly_once: bool = False) -> None:
        self._requests = requests
        self.meter = requests.meter
        self._queues = queues
        self._exactly_once = exactly_once
        self._leasing = Leasing(requests)
        self._with_dead_letters: set[str] = set()

    def limits(self, queue: str) -> Limits:
        """Return the limits of the queue, of the kind that its name tells."""
        return _ORDERED if is_ordered(queue) else _STANDARD

    # ---- publishing

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Publish a batch in one request; in one for each group where messages have groups."""
        return self._send(queue, dict(enumerate(messages)))

    def _send(self, queue: str, messages: Mapping[int, Outgoing]) -> list[Failure]:
        """Publish messages by their places in the caller's sequence."""
        found = [failure for place in messages if (failure := refused(place, messages[place]))]
        bad = {failure.index for failure in found}
        parts = by_key({p: m.group or "" for p, m in messages.items() if p not in bad})
        if not parts:
            return found
        batches = [[packed(messages[place]) for place in part] for part in parts]
        outcomes = self._requests.publish(self._queues.topic(queue), batches)
        for part, error in zip(parts, outcomes, strict=True):
            found += self._failures(part, error) if error else ()
        return sorted(found, key=attrgetter("index"))

    def _failures(self, places: Sequence[int], error: Exception) -> list[Failure]:
        code = self.error_code(error)
        return [Failure(index=place, code=code, reason=str(error)) for place in places]

    # ---- leases

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        """Lease messages, in whole seconds; `Leasing.pull` says in how many requests."""
        subscription, leased = self._queues.subscribed(queue), seconds(lease)
        received = self._leasing.pull(subscription, count, wait, leased)
        return [to_delivery(queue, message, leased) for message in received]

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        """Delete the messages. Only exactly-once subscriptions tell that a lease was lost."""
        subscription = self._queues.subscribed(deliveries[0].queue)
        return self._requests.acknowledge(subscription, _receipts(deliveries))

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        """Make the leases end `after` seconds from now; 0 is a nack."""
        return self.extend(deliveries, lease=after)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        """Make the leases end `lease` seconds from now, as often as wanted."""
        subscription = self._queues.subscribed(deliveries[0].queue)
        return self._requests.modify(subscription, _receipts(deliveries), seconds(lease))

    # ---- dead letters

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Extend the leases, publish the messages to the dead letters, then ack them."""
        queue = deliveries[0].queue
        if not self._has_dead_letters(queue):
            return _undying(deliveries)
        # A message that another worker has leased by now must not be copied: it would run twice.
        failed = list(self.extend(deliveries, lease=_MOVING))
        lost = {failure.index for failure in failed}
        held = [index for index in range(len(deliveries)) if index not in lost]
        for part in by_size(held, lambda index: len(deliveries[index].body)):
            moved = [deliveries[index] for index in part]
            try:
                self._copy_to_dead(moved, reason)
                unsettled = self.ack(moved)
            except REQUEST_ERRORS as error:
                if part[0] == held[0]:
                    raise
                # What has moved already is not to be moved once more.
                failed += self._failures(held[held.index(part[0]) :], error)
                break
            failed += [replace(failure, index=part[failure.index]) for failure in unsettled]
        return sorted(failed, key=attrgetter("index"))

    def bury(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Publish messages pushed to a function to the dead letters; the function's return acks."""
        if not self._has_dead_letters(deliveries[0].queue):
            return _undying(deliveries)
        places = range(len(deliveries))
        for part in by_size(places, lambda index: len(deliveries[index].body)):
            try:
                self._copy_to_dead([deliveries[index] for index in part], reason)
            except REQUEST_ERRORS as error:
                if part[0] == 0:
                    raise
                # What is copied already is not to be copied once more.
                return self._failures(places[part[0] :], error)
        return []

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Publish new messages to the dead letters, with the reason."""
        return self.bury(deliveries, reason=reason)

    def _copy_to_dead(self, deliveries: Sequence[Delivery], reason: str) -> None:
        queue = deliveries[0].queue
        source = self._queues.topic_name(queue)
        copies = [dead_copy(delivery, reason=reason, source=source) for delivery in deliveries]
        self._requests.publish(self._queues.topic(self._queues.dead_queue(queue)), [copies])

    def _has_dead_letters(self, queue: str) -> bool:
        # A topic without a subscription takes a message and forgets it, so it is looked at once.
        if queue not in self._with_dead_letters:
            if not admin.keeps(self._requests, self._queues, self._queues.dead_queue(queue)):
                return False
            self._with_dead_letters.add(queue)
        return True

    # ---- the rest of a driver

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def close(self) -> None:
        """Close the connection."""
        self._requests.close()

    # ---- administration

    def create(self, queue: str, *, lease: float, max_deliveries: int) -> None:
        """Make the queue and its dead letters, as `pubsub_admin.create` says."""
        self._leasing.forget(self._queues.subscribed(queue))
        admin.create(
            self._requests,
            self._queues,
            queue,
            lease=lease,
            max_deliveries=max_deliveries,
            exactly_once=self._exactly_once,
        )

    def delete(self, queue: str) -> None:
        """Delete the queue's topic and subscription, and those of its dead letters."""
        self._with_dead_letters.discard(queue)
        self._leasing.forget(self._queues.subscribed(queue))
        admin.delete(self._requests, self._queues, queue)

    def list(self, prefix: str = "") -> Sequence[str]:
        """The names of the queues, dead letters left out."""
        return admin.names(self._requests, self._queues, prefix)

    def stats(self, queue: str) -> QueueStats:
        """Check that the queue exists; only Cloud Monitoring has its counts.

        Its metrics are `subscription/num_undelivered_messages` and
        `subscription/oldest_unacked_message_age`, some minutes late.
        """
        return admin.stats(self._requests, self._queues, queue)

    def peek(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at messages by leasing them for a moment, which counts as a delivery of each."""
        return admin.peek(self._requests, self._queues.subscribed(queue), count)

    def purge(self, queue: str) -> Purged:
        """Delete all messages published until now, leased ones too, by a seek to this time."""
        return admin.purge(self._requests, self._queues.subscribed(queue))

    def peek_dead(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at dead letters, as `peek` does."""
        return admin.peek(self._requests, self._dead(queue), count)

    def redrive(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Publish dead letters to their queue again, then delete them from the dead letters."""
        return admin.redrive(self._requests, self._dead(queue), self._queues.topic(queue), messages)

    def delete_dead(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Delete the chosen dead letters."""
        return admin.delete_dead(self._requests, self._dead(queue), messages)

    def purge_dead(self, queue: str) -> Purged:
        """Delete all dead letters, as `purge` does."""
        return admin.purge(self._requests, self._dead(queue))

    def _dead(self, queue: str) -> str:
        return self._queues.subscribed(self._queues.dead_queue(queue))


class PubSubWithTasks(PubSub):
    """Pub/Sub whose delayed messages wait in Cloud Tasks; `Scheduling` as well."""

    def __init__(
        self, requests: Requests, queues: Queues, *, exactly_once: bool = False, tasks: CloudTasks
    ) -> None:
        super().__init__(requests, queues, exactly_once=exactly_once)
        self._tasks = tasks
        self._known: set[str] = set()

    def limits(self, queue: str) -> Limits:
        """Return the limits of the queue; Cloud Tasks keeps a message for up to 30 days."""
        return replace(super().limits(queue), max_delay=MAX_DELAY)

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Publish what is due in one request, and make a task of each delayed message."""
        answers = self.schedule(queue, messages)
        return [answer for answer in answers if isinstance(answer, Failure)]

    def schedule(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[str | Failure]:
        """As `send`; each message's handle, "" of one that is sent at once, or its refusal."""
        late = [place for place, message in enumerate(messages) if message.delay > 0]
        answers: dict[int, str | Failure] = {}
        if late:
            # Its topic is looked for now: nobody would see the task fail.
            topic = self._existing(queue)
            size = sum(len(messages[place].body) for place in late)
            self.meter.count(SCHEDULE, queue, requests=len(late), items=len(late), size=size)
            answers |= zip(
                late, self._tasks.add(topic, [messages[place] for place in late]), strict=True
            )
        prompt = {place: m for place, m in enumerate(messages) if place not in answers}
        try:
            refusals = self._send(queue, prompt)
        except REQUEST_ERRORS as error:
            if not late:
                raise
            refusals = self._failures(list(prompt), error)
        answers |= {failure.index: failure for failure in refusals}
        return [_placed(answers.get(place, ""), place) for place in range(len(messages))]

    def unschedule(self, queue: str, handles: Sequence[str]) -> Sequence[Failure]:
        """Delete tasks; one that has run meanwhile is a `NOT_FOUND`."""
        self._existing(queue)
        return self._tasks.remove(handles)

    def scheduled(self, queue: str, *, count: int, after: str | None = None) -> Sequence[Scheduled]:
        """Look at up to `count` waiting messages, the next one due first."""
        return self._tasks.waiting(self._existing(queue), count, after)

    def _existing(self, queue: str) -> str:
        """The queue's topic, looked for once. Raises `NotFound`."""
        topic = self._queues.topic(queue)
        if queue not in self._known:
            admin.check_topic(self._requests, topic)
            self._known.add(queue)
        return topic

    def create(self, queue: str, *, lease: float, max_deliveries: int) -> None:
        """Make the queue, its dead letters, and the queue of Cloud Tasks if there is none."""
        super().create(queue, lease=lease, max_deliveries=max_deliveries)
        self._tasks.create()

    def delete(self, queue: str) -> None:
        """Delete the queue, its dead letters, and its delayed messages."""
        self._known.discard(queue)
        self._tasks.clear(self._queues.topic(queue))
        super().delete(queue)

    def purge(self, queue: str) -> Purged:
        """Delete all messages, delayed ones too."""
        self._tasks.clear(self._queues.topic(queue))
        return super().purge(queue)

    def close(self) -> None:
        """Close the connections."""
        self._tasks.close()
        super().close()


def _receipts(deliveries: Sequence[Delivery]) -> list[str]:
    return [cast("str", delivery.receipt) for delivery in deliveries]


def _placed(answer: str | Failure, place: int) -> str | Failure:
    return answer if isinstance(answer, str) else replace(answer, index=place)


def _undying(deliveries: Sequence[Delivery]) -> list[Failure]:
    queue = deliveries[0].queue
    why = (
        f"{queue} has no dead letters: a topic and a subscription for them are made by"
        f" `cloudq queues create {queue}`"
    )
    return [
        Failure(index=index, code=Code.NOT_FOUND, reason=why) for index in range(len(deliveries))
    ]
