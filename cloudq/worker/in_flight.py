"""Deliveries that this worker holds, from receive to settlement."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cloudq.driver import Delivery
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, Settlement


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """One delivery that the worker holds. Times are monotonic seconds.

    After `lease_ends` others may get the message; `extended` says that its lease is no longer the
    one that it was received with. `doubtful` is set once that moment may have
    passed, and stays. `lost` says that the broker refused to extend its lease, `short` that it has
    yet to be extended before the call may start. `stop_at` is the
    hard limit of the task while a child runs it. `restarts` counts how often its child died and
    another task was, or may have been, the cause; `death` is the number of the last death that it
    is suspected of. `lined_up_at` is when it began to wait for a child, `given_at` when one got it,
    in epoch seconds, and `took` are the seconds that it ran there. `revoked` is set by a command
    that ends it. `asked_at` is when its lease was asked for that has no answer yet, else 0.
    """

    number: int
    delivery: Delivery
    lease_ends: float
    job: Job | None = None
    extended: bool = False
    doubtful: bool = False
    lost: bool = False
    short: bool = False
    stop_at: float | None = None
    settling: bool = False
    restarts: int = 0
    death: int = 0
    lined_up_at: float = 0.0
    given_at: float = 0.0
    took: float = 0.0
    revoked: bool = False
    asked_at: float = 0.0

    def restart(self) -> None:
        """Note that its child died and that it is to run again, within the same delivery."""
        self.restarts += 1
        if self.job is not None:
            self.job = replace(self.job, fenced=True)

    def released(self, reason: str, after: float = 0.0) -> Settlement:
        """Return the settlement that puts it back in its queue, due after this many seconds."""
        message = self.job.message if self.job else None
        return Settlement(
            action=Action.RELEASE,
            task_id=message.id if message else "",
            task=message.task if message else "",
            reason=reason,
            after=after,
        )


class Flights:
    """All deliveries that the worker holds, by number. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[int, Flight] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._all)

    def add(self, deliveries: Iterable[Delivery], lease_ends: float) -> list[Flight]:
        """Number these and hold them."""
        with self._lock:
            added: list[Flight] = []
            for delivery in deliveries:
                self._next += 1
                flight = Flight(number=self._next, delivery=delivery, lease_ends=lease_ends)
                self._all[self._next] = flight
                added.append(flight)
            return added

    def split(self, flight: Flight, parts: Iterable[Delivery]) -> list[Flight]:
        """Hold the parts of a bundle in place of its message."""
        with self._lock:
            del self._all[flight.number]
            made: list[Flight] = []
            for part in parts:
                self._next += 1
                own = Flight(
                    number=self._next,
                    delivery=part,
                    lease_ends=flight.lease_ends,
                    extended=flight.extended,
                    doubtful=flight.doubtful,
                    lost=flight.lost,
                    short=flight.short,
                    revoked=flight.revoked,
                )
                self._all[self._next] = own
                made.append(own)
            return made

    def remove(self, flights: Iterable[Flight]) -> None:
        """Forget these, which are settled or given back."""
        with self._lock:
            for flight in flights:
                self._all.pop(flight.number, None)

    def all(self) -> list[Flight]:
        """Return a copy of the list."""
        with self._lock:
            return list(self._all.values())
