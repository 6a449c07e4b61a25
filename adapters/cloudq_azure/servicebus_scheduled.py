"""Schedules messages on Service Bus, lists scheduled ones, and cancels them."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusSender,
)
from azure.servicebus.exceptions import MessageNotFoundError

from cloudq.driver import Code, Failure, Outgoing, Scheduled
from cloudq_azure.errors import incomplete
from cloudq_azure.links import peek
from cloudq_azure.messages import MAX_STANDARD, due, outgoing, to_scheduled, too_large
from cloudq_azure.queues import Queue
from cloudq_azure.sending import failed

# What a message has beside its body, in bytes.
_AROUND = 1024
_PAGE = 250


def schedule(
    queue: Queue, messages: Sequence[Outgoing], *, most: int, fifo: bool
) -> Sequence[str | Failure]:
    """Schedule messages; return each one's sequence number, or the reason of its refusal."""
    answers: dict[int, str | Failure] = {
        index: too_large(index, message, most)
        for index, message in enumerate(messages)
        if len(message.body) > most
    }
    now = datetime.now(UTC)
    parts = list(_parts(messages, set(range(len(messages))) - answers.keys()))

    def use(sender: ServiceBusSender) -> None:
        any_sent = False
        for at, part in enumerate(parts):
            copies = [_prompt(messages[index], fifo=fifo) for index in part]
            when = due(messages[part[0]].delay, now)
            try:
                numbers = sender.schedule_messages(copies, when)
                if len(numbers) != len(part):
                    raise incomplete("a sequence number of each message")
            except Exception as error:
                if not any_sent:
                    raise
                left = [index for rest in parts[at:] for index in rest]
                answers.update({failure.index: failure for failure in failed(left, error)})
                return
            any_sent = True
            answers.update(zip(part, map(str, numbers), strict=True))

    if parts:
        queue.send(use)
    return [answers[index] for index in range(len(messages))]


def _prompt(message: Outgoing, *, fifo: bool) -> ServiceBusMessage:
    copy = outgoing(message, fifo=fifo)
    copy.scheduled_enqueue_time_utc = None  # the request sets it
    return copy


def _parts(messages: Sequence[Outgoing], fit: set[int]) -> Iterator[list[int]]:
    """Messages of one delay whose sizes go into one request."""
    delays: dict[float, list[int]] = {}
    for index in sorted(fit):
        delays.setdefault(messages[index].delay, []).append(index)
    for indexes in delays.values():
        part: list[int] = []
        size = 0
        for index in indexes:
            needs = len(messages[index].body) + _AROUND
            if part and size + needs > MAX_STANDARD:
                yield part
                part, size = [], 0
            part.append(index)
            size += needs
        yield part


def unschedule(queue: Queue, handles: Sequence[str]) -> Sequence[Failure]:
    """Cancel messages one by one: a request for several tells nothing about each."""
    refused: list[Failure] = []

    def use(sender: ServiceBusSender) -> None:
        for index, handle in enumerate(handles):
            if not handle.isdecimal():
                reason = f"{handle!r} is no sequence number of a scheduled message"
                refused.append(Failure(index=index, code=Code.INVALID, reason=reason))
                continue
            try:
                sender.cancel_scheduled_messages(int(handle))
            except MessageNotFoundError as error:
                refused.extend(failed([index], error))

    queue.send(use)
    return refused


def scheduled(queue: Queue, *, count: int, after: str | None) -> Sequence[Scheduled]:
    """Look at scheduled messages by their sequence numbers, which never change while they wait."""
    first = int(after) + 1 if after and after.isdecimal() else 1
    found: list[Scheduled] = []
    for message in browse(queue, first):
        if len(found) == count:
            break
        if message.state is ServiceBusMessageState.SCHEDULED:
            found.append(to_scheduled(message))
    return found


def browse(queue: Queue, first: int = 1) -> Iterator[ServiceBusReceivedMessage]:
    """All messages of a queue in the order of their sequence numbers, asked for by pages."""
    while page := _page(queue, first):
        yield from page
        last = page[-1].sequence_number
        if last is None or last < first:  # it would be asked for again, for ever
            raise incomplete("the messages' numbers")
        first = last + 1


def _page(queue: Queue, first: int) -> Sequence[ServiceBusReceivedMessage]:
    found: list[ServiceBusReceivedMessage] = []
    queue.send(lambda sender: found.extend(peek(sender, first=first, count=_PAGE)))
    return found
