"""Counts the messages of a source queue that stay when the others were moved."""

from __future__ import annotations

import time
from collections import Counter
from threading import Event

from cloudq.broker.migration.endpoint import Endpoint, total
from cloudq.driver import QueueStats

_DELAYED = "delayed, and the source does not show it: --wait waits for it"
_LEASED = "somebody else works on it"
_NEW = "came meanwhile, or waits behind one that stays"

# Seconds to wait for a service's counts when they show that something is left: they lag by up to
# a minute. A count of delayed messages is believed sooner.
_LAG, _DELAYED_LAG = 60.0, 5.0


def unseen(side: Endpoint, queue: str, *, listed: int, known: int, stop: Event) -> Counter[str]:
    """Return the service's count beyond the `known` messages, of which `listed` are delayed."""
    started = time.monotonic()
    while True:
        stats = side.stats(queue)
        counted = _beyond(stats, listed, known)
        if stats is None or stats.exact or not counted:
            return counted
        lag = _DELAYED_LAG if counted.keys() == {_DELAYED} else _LAG
        if time.monotonic() - started > lag or stop.wait(0.5):
            return counted


def _beyond(stats: QueueStats | None, listed: int, known: int) -> Counter[str]:
    everything = total(stats)
    if stats is None or everything is None:
        return Counter()
    counted = {_DELAYED: max(0, (stats.delayed or 0) - listed), _LEASED: stats.leased or 0}
    counted[_NEW] = max(0, everything - known - sum(counted.values()))
    return +Counter(counted)
