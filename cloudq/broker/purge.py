"""Empties queues: of what waits in the service, and of what is parked for them in the store."""

from __future__ import annotations

from collections.abc import Iterable

from cloudq.broker.broker import Broker
from cloudq.driver import Code
from cloudq.errors import BrokerError

# How many parked messages are looked at, and taken back, at a time.
_AT_A_TIME = 1000


def purge_queues(broker: Broker, queues: Iterable[str]) -> int | None:
    """Delete all messages of the queues; how many, or None where a service does not tell.

    The count is about right where the service counts so. A queue that there is not holds nothing,
    unless there is none of them. Raises `BrokerError` and `BackendError`.
    """
    counts: list[int | None] = []
    missing: BrokerError | None = None
    for queue in queues:
        try:
            with broker.asking("purge", queue) as admin:
                count = admin.purge(queue).count
        except BrokerError as error:
            if error.code != Code.NOT_FOUND:
                raise
            missing = missing or error
            continue
        delayed = purge_delayed(broker, queue)
        counts.append(None if count is None else count + delayed)
    if missing is not None and not counts:
        raise missing
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def purge_delayed(broker: Broker, queue: str) -> int:
    """Delete what is parked for the queue in the result store; how many messages."""
    deleted = 0
    while broker.stores_delayed(queue):
        found = broker.scheduled(queue, count=_AT_A_TIME)
        if not found:
            break
        failures = broker.unschedule(queue, [message.handle for message in found])
        deleted += len(found) - len(failures)
    return deleted
