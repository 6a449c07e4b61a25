"""Tells whether anybody works on a queue, as far as heartbeats show."""

from __future__ import annotations

from cloudq.app import CloudQ
from cloudq.driver.adapters import adapter
from cloudq.errors import CloudQError


def is_cloud(app: CloudQ) -> bool:
    """Tell whether the app's queues are a cloud's, whose functions may run its tasks too."""
    return adapter(app.conf.broker).tariff is not None


def read_queues(app: CloudQ) -> set[str] | None:
    """Return the queues that live workers read; None without a store that may be asked."""
    try:
        alive = app.control.heartbeats.alive()
    except CloudQError:
        return None
    return {name for heart in alive for name in heart.queues}


def nobody_reads(app: CloudQ, queue: str) -> str | None:
    """Say that no live worker reads this queue; None where one does, or nobody can know."""
    read = read_queues(app)
    if read is None or queue in read:
        return None
    if any(name.startswith(f"{queue}-") for name in read):  # of a priority
        return None
    functions = " (a cloud function may)" if is_cloud(app) else ""
    others = f" ({', '.join(sorted(read))} has one)" if read else ""
    return (
        f"no live worker reads the queue {queue!r}{functions}: `cloudq worker -Q {queue}` starts "
        f"one{others}"
    )
