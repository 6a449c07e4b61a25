"""Empties queues, in the service and in the result store, which may keep delayed messages."""

from __future__ import annotations

from collections.abc import Iterable

from cloudq.broker.broker import Broker
from cloudq.driver import Code
from cloudq.errors import BrokerError

# Delayed messages to list and delete at a time.
_AT_A_TIME = 1000


def purge_queues(broker: Broker, queues: Iterable[str]) -> int | None:
    """Delete all messages of the queues; return their number, None where a service does not tell.

    The number is approximate where the service's counts are. Missing queues are skipped, unless
    all are missing. Raises `BrokerError` and `BackendError`.
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
    """Delete the queue's delayed messages in the result store; return their number."""
    deleted = 0
    while broker.stores_delayed(queue):
        found = broker.scheduled(queue, count=_AT_A_TIME)
        if not found:
            break
        failures = broker.unschedule(queue, [message.handle for message in found])
        deleted += len(found) - len(failures)
    return deleted
