"""Priorities as separate queues: `orders-high`, `orders` and `orders-low`, polled by weight.

No cloud's queue has priorities, so each level is a queue, and a worker shares its slots among
them. The low one gets few slots while the others are full, but always some.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from cloudq.amounts import count
from cloudq.driver import suffixed
from cloudq.errors import CloudQError, ConfigurationError

HIGHEST = 9
# The lowest priority of each level, the suffix of its queue's name, and its weight.
_LEVELS = ((7, "-high", 16), (3, "", 4), (0, "-low", 1))


def check_priority(priority: Any, error: type[CloudQError], where: str = "") -> None:
    """Raise `error` unless the value is a priority or None."""
    if priority is not None:
        count(priority, f"{where}priority", error, most=HIGHEST)


def queue_for(queue: str, priority: int, declared: Collection[str]) -> str:
    """Return the queue for a priority: 7 to 9 high, 3 to 6 normal, 0 to 2 low.

    Raises `ConfigurationError` if the queue has no priorities.
    """
    if queue not in declared:
        raise ConfigurationError(
            f"queue {queue!r} has no priorities: declare them with "
            f'CloudQ(priority_queues=["{queue}"]), or leave priority out'
        )
    return next(suffixed(queue, suffix) for least, suffix, _ in _LEVELS if priority >= least)


def queues_for(names: Iterable[str], declared: Collection[str]) -> list[str]:
    """Return each queue once, and all levels of a queue that has priorities."""
    return [name for name, _ in weighted([(name, 1) for name in names], declared)]


def weighted(
    queues: Sequence[tuple[str, int]], declared: Collection[str]
) -> tuple[tuple[str, int], ...]:
    """Replace queues that have priorities by their levels; a level in `queues` keeps its weight."""
    given = {name: weight for name, weight in queues if name not in declared}
    found: dict[str, int] = {}
    for name, weight in queues:
        if name not in declared:
            found[name] = weight
            continue
        for _, suffix, share in _LEVELS:
            level = suffixed(name, suffix)
            found[level] = given.get(level, weight * share)
    return tuple(found.items())
