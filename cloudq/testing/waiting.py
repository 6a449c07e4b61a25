"""Waiting for a condition with a deadline, so that no test sleeps and hopes."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cloudq.driver import BrokerDriver, Delivery, Outgoing

T = TypeVar("T")

HELD = 60.0
"""A lease in seconds that no test outlives."""

PATIENCE = float(os.environ.get("CLOUDQ_PATIENCE") or 180.0)
"""Seconds after which a wait counts as hung. What is right may take long on a loaded machine."""


def eventually(probe: Callable[[], T], *, within: float = PATIENCE) -> T:
    """Call `probe` until it gives something true, and return that.

    Raises `AssertionError` with the last answer when `within` seconds have passed.
    """
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: the last answer was {answer!r}")
        time.sleep(0.01)


def outgoing(
    *,
    body: bytes = b"hello",
    delay: float = 0.0,
    group: str | None = None,
    dedup: str | None = None,
) -> Outgoing:
    """Return one message with a new id."""
    return Outgoing(id=uuid.uuid4().hex, body=body, delay=delay, group=group, dedup=dedup)


def collect(
    driver: BrokerDriver, queue: str, count: int, *, lease: float = HELD, within: float = PATIENCE
) -> list[Delivery]:
    """Receive until `count` messages have come, and return them in the order of their arrival.

    Raises `AssertionError` when `within` seconds have passed before that.
    """
    deadline = time.monotonic() + within
    limits = driver.limits(queue)
    found: list[Delivery] = []
    while len(found) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"{len(found)} of {count} messages came within {within} s"
        wait = max(limits.min_wait, min(limits.max_wait, left, 1.0))
        wanted = min(limits.batch, count - len(found))
        found += driver.receive(queue, count=wanted, wait=wait, lease=lease)
    return found


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """Run `work(0)` to `work(count - 1)`, each in a thread of its own, and return the answers."""
    with ThreadPoolExecutor(count) as pool:
        futures: list[Future[T]] = [pool.submit(work, number) for number in range(count)]
        return [future.result(timeout=PATIENCE) for future in futures]
