"""Keeps the leases of what is in hand, in batches, from a thread that no task can starve."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from cloudq.broker.broker import Broker
from cloudq.driver import Code
from cloudq.worker.in_flight import Flight, Flights

log = logging.getLogger("cloudq.worker")


# A queue may have leases as short as this, and only its first message tells (Service Bus: 5 s).
_SHORTEST = 5.0


class Leases:
    """Extends each lease when a third of it has passed. Runs in the supervisor's process.

    `lease` is what is asked for; a queue may give more or less.
    """

    def __init__(self, broker: Broker, flights: Flights, lease: float) -> None:
        self._broker = broker
        self._flights = flights
        self._lease = lease
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def ends(self, lease: float) -> float:
        """When a lease that was given just now ends, to be on the safe side; monotonic."""
        return time.monotonic() + lease - _margin(lease)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        shortest = self._lease
        while not self._stopped.wait(min(shortest, self._lease, _SHORTEST) / 12):
            try:
                flights = self._flights.all()
                shortest = min(self._lengths(flights).values(), default=self._lease)
                self.extend(time.monotonic())
            except Exception:  # without this thread every lease would end
                log.exception("leases were not extended, and are tried again")

    def _lengths(self, flights: Sequence[Flight]) -> dict[str, float]:
        """How long an extended lease is, by queue."""
        queues = {flight.delivery.queue for flight in flights}
        return {queue: self._broker.lease(queue, self._lease) for queue in queues}

    def extend(self, now: float) -> None:
        """Extend what is due."""
        flights = [flight for flight in self._flights.all() if not flight.lost]
        lengths = self._lengths(flights)

        def due_within(flight: Flight) -> float:
            length = lengths[flight.delivery.queue]
            return length * 2 / 3 - _margin(length)

        due = [flight for flight in flights if flight.lease_ends - now < due_within(flight)]
        if not due:
            return
        ends = {queue: self.ends(length) for queue, length in lengths.items()}
        refused = {
            id(refusal.delivery): refusal
            for refusal in self._broker.extend([f.delivery for f in due], lease=self._lease)
        }
        answered = max(now, time.monotonic())
        for flight in due:
            refusal = refused.get(id(flight.delivery))
            # SQS may extend with an old receipt what someone else has received since.
            if flight.lease_ends < answered:
                flight.doubtful = True
            if refusal is None:
                flight.lease_ends = ends[flight.delivery.queue]
            elif refusal.code is Code.LEASE_LOST:
                self._lost(flight)
        passing = [refusal for refusal in refused.values() if refusal.code is not Code.LEASE_LOST]
        if passing:
            log.warning("%d leases were not extended: %s", len(passing), passing[0].reason)

    @staticmethod
    def _lost(flight: Flight) -> None:
        flight.lost = True
        if not flight.settling:  # a settled one is gone because it was acked a moment ago
            log.warning("the lease of message %s was lost", flight.delivery.id)


def _margin(lease: float) -> float:
    """What is taken off a lease's end for the time that requests take."""
    return min(2.0, lease / 5)
