"""Fits messages to the limits of their queue: size, delay, order, batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf

from cloudq.driver import ORDERED_SUFFIX, Limits, Outgoing
from cloudq.errors import ConfigurationError, MessageTooLarge
from cloudq.messages.message import TaskMessage

# The longest hop, in seconds: a worker sees the message before a revocation of it expires.
LONGEST_HOP = 28 * 86_400.0


def fitted(
    message: TaskMessage, body: bytes, limits: Limits, now: float, *, url: str, stores_delayed: bool
) -> Outgoing:
    """Make the message to send at `now`; with `stores_delayed` a result store can delay it.

    Raises `MessageTooLarge`, and `ConfigurationError` for what the queue cannot do.
    """
    if len(body) > limits.body:
        raise MessageTooLarge(
            f"the message for {message.task} is {len(body):,} bytes and {url} takes "
            f"{limits.body:,}: store the data elsewhere and pass its key"
        )
    delay = max(0.0, message.not_before - now) if message.not_before else 0.0
    if delay and not limits.max_delay and not stores_delayed:
        raise ConfigurationError(
            f"queue {message.queue!r} on {url} cannot delay single messages, and the app "
            "has no backend that could keep them: set one, or send without countdown and eta"
        )
    if message.group_key is not None and not limits.ordered:
        raise ConfigurationError(
            f"queue {message.queue!r} on {url} keeps no order, so group_key would do "
            f"nothing: use an ordered queue (one whose name ends in {ORDERED_SUFFIX})"
        )
    if message.dedup_key is not None and not limits.dedup_window:
        raise ConfigurationError(
            f"queue {message.queue!r} on {url} does not deduplicate: "
            "use idempotency_key, which works on every broker"
        )
    return Outgoing(
        id=f"{message.id}.{message.retries}" if message.retries else message.id,
        body=body,
        delay=min(delay, limits.max_delay or inf, LONGEST_HOP),
        group=message.group_key,
        dedup=message.dedup_key,
    )


def batches(
    places: Sequence[int], outgoing: Mapping[int, Outgoing], limits: Limits
) -> Iterator[list[int]]:
    """Cut places into batches within the service's limits of count and size."""
    batch: list[int] = []
    size = 0
    for place in places:
        length = len(outgoing[place].body)
        if batch and (len(batch) == limits.batch or size + length > limits.batch_body):
            yield batch
            batch, size = [], 0
        batch.append(place)
        size += length
    if batch:
        yield batch
