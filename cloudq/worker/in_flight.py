"""Deliveries in this worker's hands, from receive to settlement."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from cloudq.driver import Delivery
from cloudq.execution.outcomes import Job


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """One delivery in hand. Times are monotonic seconds.

    `lease_ends` is when others may get the message; `doubtful` is set once that moment may have
    passed, and stays. `stop_at` is the hard limit of the task while a child runs it. `restarts`
    counts how often its child was killed for the sake of another task. `given_at` is when a child
    got it, in epoch seconds; `revoked` is set by whoever wants it ended.
    """

    number: int
    delivery: Delivery
    lease_ends: float
    job: Job | None = None
    doubtful: bool = False
    lost: bool = False
    stop_at: float | None = None
    settling: bool = False
    restarts: int = 0
    given_at: float = 0.0
    revoked: bool = False


class Flights:
    """All deliveries in hand, by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[int, Flight] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._all)

    def add(self, deliveries: Iterable[Delivery], lease_ends: float) -> list[Flight]:
        with self._lock:
            added: list[Flight] = []
            for delivery in deliveries:
                self._next += 1
                flight = Flight(number=self._next, delivery=delivery, lease_ends=lease_ends)
                self._all[self._next] = flight
                added.append(flight)
            return added

    def get(self, number: int) -> Flight | None:
        return self._all.get(number)

    def remove(self, flights: Iterable[Flight]) -> None:
        with self._lock:
            for flight in flights:
                self._all.pop(flight.number, None)

    def all(self) -> list[Flight]:
        with self._lock:
            return list(self._all.values())
