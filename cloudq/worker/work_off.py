"""Works off what other threads put into a queue; what a service refuses is tried again."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import TypeVar

from cloudq.clock import Backoff

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 30.0


def work_off(
    source: queue.SimpleQueue[Sequence[T] | None],
    attempt: Callable[[list[T]], list[T]],
    *,
    most: int,
    hurries: Callable[[], bool] = lambda: False,
) -> None:
    """Make attempts at what is queued until None is; each takes about `most` and returns the rest.

    The rest is tried again at once after an attempt in which something passed, else after growing
    pauses of up to 30 s, which `hurries` ends.
    """
    waiting: list[T] = []
    backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    while True:
        fresh, ended = drain(source, backoff.left if waiting else None, most)
        waiting += fresh
        # While the service is down only the clock starts a new try, however much comes in.
        if waiting and (ended or hurries() or not backoff.left):
            left = attempt(waiting)
            if len(left) == len(waiting):
                backoff.failed()
            else:
                backoff.succeeded()
            waiting = left
        if ended:
            return


def drain(
    source: queue.SimpleQueue[Sequence[T] | None], patience: float | None, most: int
) -> tuple[list[T], bool]:
    """Wait for the first of what is queued and take about `most`; also tell if the end was met."""
    found: list[T] = []
    try:
        item = source.get(timeout=patience)
        while item is not None:
            found += item
            if len(found) >= most:
                return found, False
            item = source.get_nowait()
    except queue.Empty:
        return found, False
    return found, True
