"""Extends the leases of all deliveries that a worker holds, from a thread no task can starve."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from cloudq.broker.broker import Broker
from cloudq.driver import Code, Delivery
from cloudq.worker.in_flight import Flight, Flights

log = logging.getLogger("cloudq.worker")


# A queue may have leases as short as this, as only its first message says (Service Bus: 5 s).
_SHORTEST = 5.0


class Leases:
    """Extends each lease when a third of it has passed, in the supervisor's process.

    It asks for `lease` seconds; a queue may give more or less. `wake` is called when messages
    that were received with a much shorter lease have their full one.
    """

    def __init__(
        self, broker: Broker, flights: Flights, lease: float, *, wake: Callable[[], None]
    ) -> None:
        self._broker = broker
        self._flights = flights
        self._lease = lease
        self._wake = wake
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def ends(self, lease: float) -> float:
        """Return when a lease of this length, given just now, ends at the earliest; monotonic."""
        return time.monotonic() + lease - _margin(lease)

    def hold(self, deliveries: Sequence[Delivery]) -> list[Flight]:
        """Hold what was just received, with much shorter leases extended to their full length.

        SQS is asked for short leases while its answers are lost. No call starts in one: it could
        end while the call runs, which would come twice. What cannot be extended at once is held
        as `short`, and tried again.
        """
        if not deliveries:
            return []
        length = self._broker.lease(deliveries[0].queue, self._lease)
        ends = self.ends(min(delivery.lease for delivery in deliveries))
        flights = self._flights.add(deliveries, ends)
        short = [flight for flight in flights if flight.delivery.lease * 2 <= length]
        for flight in short:
            flight.short = True
        try:
            self._extend(short, {deliveries[0].queue: length})
        except Exception:
            log.exception("could not extend %d short leases; trying again", len(short))
        return flights

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases then run out."""
        self._stopped.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        shortest = self._lease
        while not self._stopped.wait(min(shortest, self._lease, _SHORTEST) / 12):
            try:
                flights = self._flights.all()
                shortest = min(self._lengths(flights).values(), default=self._lease)
                self.extend(time.monotonic())
            except Exception:  # if the thread ended, every lease would run out
                log.exception("could not extend leases; trying again")

    def _lengths(self, flights: Sequence[Flight]) -> dict[str, float]:
        """Return the length of an extended lease, by queue."""
        queues = {flight.delivery.queue for flight in flights}
        return {queue: self._broker.lease(queue, self._lease) for queue in queues}

    def extend(self, now: float) -> None:
        """Extend the leases that are due."""
        flights = [flight for flight in self._flights.all() if not flight.lost]
        lengths = self._lengths(flights)

        def due_within(flight: Flight) -> float:
            length = lengths[flight.delivery.queue]
            return length * 2 / 3 - _margin(length)

        due = [flight for flight in flights if flight.lease_ends - now < due_within(flight)]
        short = [flight for flight in due if flight.short]
        self._extend(due, lengths)
        if not all(flight.short for flight in short):
            self._wake()

    def _extend(self, due: Sequence[Flight], lengths: Mapping[str, float]) -> None:
        if not due:
            return
        ends = {queue: self.ends(length) for queue, length in lengths.items()}
        refused = {
            id(refusal.delivery): refusal
            for refusal in self._broker.extend([f.delivery for f in due], lease=self._lease)
        }
        answered = time.monotonic()
        for flight in due:
            refusal = refused.get(id(flight.delivery))
            # With an old receipt SQS may extend a message that another worker has received since.
            if flight.lease_ends < answered:
                flight.doubtful = True
            if refusal is None:
                flight.lease_ends = ends[flight.delivery.queue]
                flight.short = False
            elif refusal.code is Code.LEASE_LOST:
                self._lost(flight)
        passing = [refusal for refusal in refused.values() if refusal.code is not Code.LEASE_LOST]
        if passing:
            log.warning("could not extend %d leases: %s", len(passing), passing[0].reason)

    @staticmethod
    def _lost(flight: Flight) -> None:
        flight.lost, flight.short = True, False
        if not flight.settling:  # a settled message is gone because it was just acked
            log.warning(
                "lost the lease of message %s: it may run again elsewhere", flight.delivery.id
            )


def _margin(lease: float) -> float:
    """Return the seconds taken off a lease's end for the time that requests take."""
    return min(2.0, lease / 5)
