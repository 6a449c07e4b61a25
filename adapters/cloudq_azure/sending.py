"""Sends a batch in as few requests as its size allows, and tells which messages failed."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence

from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch, ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

from cloudq.driver import Code, Failure
from cloudq_azure.errors import error_code
from cloudq_azure.queues import Queue

Part = ServiceBusMessage | ServiceBusMessageBatch


def failures(errors: Mapping[int, Exception]) -> Sequence[Failure]:
    """The failures of a batch, by their places."""
    return [failed([index], errors[index])[0] for index in sorted(errors)]


def failed(indexes: Sequence[int], error: Exception) -> list[Failure]:
    """One failure for each of `indexes`."""
    code, reason = error_code(error), str(error)
    return [Failure(index=index, code=code, reason=reason) for index in indexes]


def send_all(queue: Queue, messages: Mapping[int, ServiceBusMessage]) -> Sequence[Failure]:
    """Send messages, by their places in the caller's sequence.

    Raises the SDK's error when nothing was sent; when something was, the rest are failures.
    """
    refused: list[Failure] = []

    def use(sender: ServiceBusSender) -> None:
        refused.extend(_send(sender, messages))

    if messages:
        queue.send(use)
    return refused


def _send(sender: ServiceBusSender, messages: Mapping[int, ServiceBusMessage]) -> list[Failure]:
    refused: list[Failure] = []
    left = dict(messages)
    any_sent = False
    while left:
        part, indexes = _fill(sender, left)
        try:
            sender.send_messages(part)
            any_sent = True
        except MessageSizeExceededError as error:
            if len(indexes) > 1:
                raise
            refused += [
                Failure(index=index, code=Code.TOO_LARGE, reason=str(error)) for index in indexes
            ]
        except Exception as error:
            if not any_sent:
                raise
            return [*refused, *failed(list(left), error)]
        for index in indexes:
            del left[index]
    return refused


def _fill(
    sender: ServiceBusSender, messages: Mapping[int, ServiceBusMessage]
) -> tuple[Part, list[int]]:
    """The first messages that go into one batch, or one alone: the only one, or a large one."""
    if len(messages) == 1:
        return next(iter(messages.values())), [*messages]
    batch = sender.create_message_batch()
    indexes: list[int] = []
    for index, message in messages.items():
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            # On premium a message may be larger than a batch: it goes by itself.
            return (batch, indexes) if indexes else (message, [index])
        indexes.append(index)
    return batch, indexes
