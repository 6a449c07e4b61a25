"""Keeps the leases of what is in hand, in batches, from a thread that no task can starve."""

from __future__ import annotations

import logging
import threading
import time

from cloudq.broker import Broker
from cloudq.driver import Code
from cloudq.worker.flight import Flight, Flights

log = logging.getLogger("cloudq.worker")


class Leases:
    """Extends each lease when a third of it has passed. Runs in the supervisor's process."""

    def __init__(self, broker: Broker, flights: Flights, lease: float) -> None:
        self._broker = broker
        self._flights = flights
        self._lease = lease
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    @property
    def margin(self) -> float:
        """What is taken off a lease's end for the time that requests take."""
        return min(2.0, self._lease / 5)

    def ends(self) -> float:
        """When a lease that was given just now ends, to be on the safe side; monotonic."""
        return time.monotonic() + self._lease - self.margin

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopped.wait(self._lease / 12):
            try:
                self.extend(time.monotonic())
            except Exception:  # without this thread every lease would end
                log.exception("leases were not extended, and are tried again")

    def extend(self, now: float) -> None:
        """Extend what is due."""
        due_within = self._lease * 2 / 3 - self.margin
        due = [
            flight
            for flight in self._flights.all()
            if not flight.lost and flight.lease_ends - now < due_within
        ]
        if not due:
            return
        ends = self.ends()
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
                flight.lease_ends = ends
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
