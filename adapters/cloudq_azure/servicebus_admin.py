"""Operators' commands on Service Bus queues.

A look locks no message, so a message's handle is its sequence number. To act on a dead letter, it
is locked first, with all that lie before it.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from operator import attrgetter
from typing import Any

from azure.core.exceptions import ResourceExistsError
from azure.servicebus import (
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
)
from azure.servicebus.exceptions import MessageNotFoundError
from azure.servicebus.management import ServiceBusAdministrationClient

from cloudq.driver import Code, Failure, Peeked, Purged, QueueStats, is_ordered
from cloudq_azure.client import Access
from cloudq_azure.errors import incomplete
from cloudq_azure.links import Link, accept, close_link, settle
from cloudq_azure.messages import BATCH, revived, to_peeked
from cloudq_azure.pulls import pull
from cloudq_azure.queues import Queue
from cloudq_azure.sending import send_all
from cloudq_azure.servicebus_scheduled import browse

_SHORTEST_LOCK, _LONGEST_LOCK = 5.0, 300.0
_MAX_DELIVERIES = 2000
_DEDUP_WINDOW = timedelta(minutes=10)
# The largest message that a premium queue can be made to take.
_LARGE = 102_400
# How long the end of a queue is waited for, and how much is taken at a time.
_PATIENCE, _GULP = 0.5, 500


def create(
    client: ServiceBusAdministrationClient,
    reach: Access,
    queue: str,
    *,
    lease: float,
    max_deliveries: int,
) -> None:
    """Make the queue. An existing one is left as it is."""
    shortest = 0.0 if reach.emulator else _SHORTEST_LOCK
    options: dict[str, Any] = {}
    if is_ordered(queue):
        options["requires_session"] = True
        options["requires_duplicate_detection"] = True
        options["duplicate_detection_history_time_window"] = _DEDUP_WINDOW
    if reach.premium:
        options["max_message_size_in_kilobytes"] = _LARGE
    with suppress(ResourceExistsError):
        client.create_queue(
            reach.prefix + queue,
            lock_duration=timedelta(seconds=min(max(lease, shortest), _LONGEST_LOCK)),
            max_delivery_count=min(max_deliveries, _MAX_DELIVERIES),
            dead_lettering_on_message_expiration=True,
            **options,
        )


def names(client: ServiceBusAdministrationClient, ours: str, prefix: str) -> Sequence[str]:
    """The names of the queues that start with the broker's prefix and this one."""
    full = (each.name for each in client.list_queues())
    return sorted(name.removeprefix(ours) for name in full if name.startswith(ours + prefix))


def stats(client: ServiceBusAdministrationClient, queue: str, name: str) -> QueueStats:
    """The service's counts; it does not tell leased messages from ready ones."""
    found = client.get_queue_runtime_properties(name)
    counts = (
        found.active_message_count,
        found.scheduled_message_count,
        found.dead_letter_message_count,
    )
    if None in counts:
        raise incomplete("the queue's counts")
    return QueueStats(
        queue=queue,
        ready=found.active_message_count,
        delayed=found.scheduled_message_count,
        leased=None,
        dead=found.dead_letter_message_count,
        dead_queue=f"{name}/$DeadLetterQueue",
    )


def peek(queue: Queue, count: int) -> Sequence[Peeked]:
    """Look at messages that can be received, or are."""
    found: list[Peeked] = []
    for message in browse(queue):
        if len(found) == count:
            break
        if message.state is ServiceBusMessageState.ACTIVE:
            found.append(to_peeked(message))
    return found


def peek_dead(dead: Queue, count: int) -> Sequence[Peeked]:
    """Look at dead letters."""
    found: list[Peeked] = []
    link = dead.settler
    first = 1
    while len(found) < count:
        with link.lock:
            page = link.receiver.peek_messages(count - len(found), sequence_number=first)
        if not page:
            break
        found += [to_peeked(message) for message in page]
        last = page[-1].sequence_number
        if last is None or last < first:  # it would be asked for again, for ever
            raise incomplete("the messages' numbers")
        first = last + 1
    return found


# ---- purging


def purge(queue: Queue, closers: ThreadPoolExecutor, *, fifo: bool) -> Purged:
    """Receive and delete what can be received, and cancel what is scheduled."""
    count = _cancel_all(queue)
    count += _purge_sessions(queue, closers) if fifo else _purge(queue, closers, dead=False)
    return Purged(count=count)


def purge_dead(dead: Queue, closers: ThreadPoolExecutor) -> Purged:
    """Receive and delete all dead letters."""
    return Purged(count=_purge(dead, closers, dead=True))


def _purge(queue: Queue, closers: ThreadPoolExecutor, *, dead: bool) -> int:
    receiver = queue.namespace.receiver(queue.name, take=True, dead=dead)
    try:
        return _empty(receiver)
    finally:
        closers.submit(close_link, Link(receiver))


def _purge_sessions(queue: Queue, closers: ThreadPoolExecutor) -> int:
    count = 0
    while True:
        receiver = queue.namespace.receiver(queue.name, take=True, session_wait=_PATIENCE)
        try:
            if not accept(receiver, _PATIENCE):
                return count
            count += _empty(receiver)
        finally:
            closers.submit(close_link, Link(receiver))


def _empty(receiver: ServiceBusReceiver) -> int:
    count = 0
    while found := pull(receiver, count=_GULP, wait=_PATIENCE):
        count += len(found)
    return count


def _cancel_all(queue: Queue) -> int:
    numbers = [
        message.sequence_number or 0
        for message in browse(queue)
        if message.state is ServiceBusMessageState.SCHEDULED
    ]
    cancelled = 0

    def use(sender: ServiceBusSender) -> None:
        nonlocal cancelled
        for number in numbers:
            with suppress(MessageNotFoundError):  # it has come due
                sender.cancel_scheduled_messages(number)
                cancelled += 1

    if numbers:
        queue.send(use)
    return cancelled


# ---- dead letters


def redrive(
    queue: Queue, dead: Queue, messages: Sequence[Peeked], *, fifo: bool
) -> Sequence[Failure]:
    """Copy the chosen dead letters to the queue, then delete them; each under a lock."""
    locked, missing = _lock_chosen(dead, messages)
    copies = {index: revived(message, fifo=fifo) for index, message in locked.items()}
    unsent = send_all(queue, copies)
    left = {failure.index for failure in unsent}
    _settle(dead, "abandoned", [locked[index] for index in left])
    _settle(dead, "completed", [each for index, each in locked.items() if index not in left])
    return sorted([*missing, *unsent], key=attrgetter("index"))


def delete_dead(dead: Queue, messages: Sequence[Peeked]) -> Sequence[Failure]:
    """Delete the chosen dead letters; each under a lock."""
    locked, missing = _lock_chosen(dead, messages)
    _settle(dead, "completed", list(locked.values()))
    return missing


def _lock_chosen(
    dead: Queue, messages: Sequence[Peeked]
) -> tuple[dict[int, ServiceBusReceivedMessage], list[Failure]]:
    """The chosen by their places, locked, and a failure for each that is not there any more."""
    wanted = {message.handle: index for index, message in enumerate(messages)}
    seen: dict[int, ServiceBusReceivedMessage] = {}
    try:
        while wanted.keys() - seen.keys():
            found, _ = dead.receive(BATCH, _PATIENCE)
            fresh = {message.sequence_number or 0: message for message in found}
            again = fresh.keys() & seen.keys()
            seen |= fresh
            if not fresh or again:  # the end, or so long a look that the first locks are over
                break
    finally:
        _settle(dead, "abandoned", [m for number, m in seen.items() if number not in wanted])
    locked = {index: seen[number] for number, index in wanted.items() if number in seen}  # pyright: ignore[reportArgumentType]
    reason = "no longer among the dead letters, or somebody else looks at it now"
    missing = [index for index in range(len(messages)) if index not in locked]
    return locked, [Failure(index=index, code=Code.NOT_FOUND, reason=reason) for index in missing]


def _settle(dead: Queue, settlement: Any, messages: Sequence[ServiceBusReceivedMessage]) -> None:
    # A lock that has ended meanwhile leaves a dead letter there, which is the safe side.
    link = dead.settler
    tokens = [str(message.lock_token) for message in messages]
    for start in range(0, len(tokens), BATCH):
        with link.lock:
            settle(link.receiver, settlement, tokens[start : start + BATCH], dead.locks)
