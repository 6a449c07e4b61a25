"""Extends the leases of all deliveries that a worker holds, from threads no task can starve."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from cloudq.amounts import counted
from cloudq.broker.broker import Broker
from cloudq.driver import Code, Delivery
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.execution.bundles import Part, whole_of
from cloudq.worker.in_flight import Flight, Flights

log = Log("cloudq.worker")


FIRST = 15.0
"""Seconds for which what ends a long poll is leased at first, where nobody can end that poll.

Long enough for the supervisor to extend it though the machine is busy, and as long as a message is
late that a poll got whose worker has left."""

# A queue may have leases as short as this, as only its first message says (Service Bus: 5 s).
_SHORTEST = 5.0


# Seconds without an answer after which the other thread asks for a lease as well. A connection that
# has died in silence is waited for longer than a short lease lasts.
_PATIENCE = 2.0

# Seconds between two warnings that leases could not be extended.
_WARNED_EVERY = 5.0


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
        self._warned_at = -_WARNED_EVERY  # monotonic
        self._choosing = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"leases-{number}", daemon=True)
            for number in (1, 2)
        ]

    def ends(self, lease: float) -> float:
        """Return when a lease of this length, given just now, ends at the earliest; monotonic."""
        return time.monotonic() + lease - _margin(lease)

    def hold(self, deliveries: Sequence[Delivery]) -> list[Flight]:
        """Hold what was just received, with much shorter leases extended to their full length.

        A third of the length that it has is enough until it is due, but below `FIRST` seconds:
        SQS is asked for such leases while its answers are lost. No call starts in one: it could
        end while the call runs, which would come twice. What cannot be extended at once is held
        as `short`, and tried again.
        """
        if not deliveries:
            return []
        queue = deliveries[0].queue
        length = self._broker.lease(queue, self._lease)
        ends = self.ends(min(delivery.lease for delivery in deliveries))
        flights = self._flights.add(deliveries, ends)
        short = [flight for flight in flights if _is_short(flight.delivery.lease, length)]
        for flight in short:
            flight.short = True
        try:
            self._extend(short, {queue: length})
        except BaseException as error:
            pass_ends(error)
            log.exception("could not extend %d short leases; trying again", len(short))
        return flights

    def start(self) -> None:
        """Start its threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End its threads; leases then run out."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(5.0)

    def _run(self) -> None:
        shortest = self._lease
        while not self._stopped.wait(min(shortest, self._lease, _SHORTEST) / 12):
            try:
                flights = self._flights.all()
                shortest = min(self._lengths(flights).values(), default=self._lease)
                self.extend(time.monotonic())
            except BaseException as error:  # if the thread ended, every lease would run out
                pass_ends(error)
                log.exception("could not extend leases; trying again")

    def _lengths(self, flights: Sequence[Flight]) -> dict[str, float]:
        """Return the length of an extended lease, by queue."""
        queues = {flight.delivery.queue for flight in flights}
        return {queue: self._broker.lease(queue, self._lease) for queue in queues}

    def extend(self, now: float) -> None:
        """Extend the leases that are due, but those that another thread has just asked for."""
        with self._choosing:
            due, lengths = self._due(now)
            for flight in due:
                flight.asked_at = now
        short = [flight for flight in due if flight.short]
        try:
            self._extend(due, lengths)
        finally:
            for flight in due:
                flight.asked_at = 0.0
        if not all(flight.short for flight in short):
            self._wake()

    def _due(self, now: float) -> tuple[list[Flight], dict[str, float]]:
        """Return those whose leases are to be extended, the most urgent first, and the lengths."""
        flights = [
            flight
            for flight in self._flights.all()
            if not flight.lost and (not flight.asked_at or now >= flight.asked_at + _PATIENCE)
        ]
        lengths = self._lengths(flights)

        due_by = {
            queue: now + length * 2 / 3 - _margin(length) for queue, length in lengths.items()
        }

        def is_due(flight: Flight) -> bool:
            queue, given = flight.delivery.queue, flight.delivery.lease
            if flight.extended or flight.short or given >= lengths[queue]:
                return flight.lease_ends < due_by[queue]
            return flight.lease_ends < now + given * 2 / 3 - _margin(given)

        due = [flight for flight in flights if is_due(flight)]
        return sorted(due, key=attrgetter("lease_ends")), lengths

    def _extend(self, due: Sequence[Flight], lengths: Mapping[str, float]) -> None:
        if not due:
            return
        ends = {queue: self.ends(length) for queue, length in lengths.items()}
        wholes = {id(whole): whole for whole in [whole_of(flight.delivery) for flight in due]}
        refused = {
            id(refusal.delivery): refusal
            for refusal in self._broker.extend(list(wholes.values()), lease=self._lease)
        }
        answered = time.monotonic()
        for flight in due:
            refusal = refused.get(id(whole_of(flight.delivery)))
            # With an old receipt SQS may extend a message that another worker has received since.
            if flight.lease_ends < answered:
                flight.doubtful = True
            if refusal is None:
                # An answer that comes late may be that of the earlier request.
                flight.lease_ends = max(flight.lease_ends, ends[flight.delivery.queue])
                flight.extended, flight.short = True, False
            elif refusal.code is Code.LEASE_LOST:
                self._lost(flight)
        passing = [refusal for refusal in refused.values() if refusal.code is not Code.LEASE_LOST]
        if passing:
            self._warn(len(passing), passing[0].reason)

    def _warn(self, count: int, reason: str) -> None:
        """Tell of leases that wait to be extended, which is tried several times a second."""
        now = time.monotonic()
        level = logging.WARNING if now >= self._warned_at + _WARNED_EVERY else logging.DEBUG
        if level == logging.WARNING:
            self._warned_at = now
        log.log(level, "could not extend %s: %s", counted(count, "lease"), reason)

    @staticmethod
    def _lost(flight: Flight) -> None:
        flight.lost, flight.short = True, False
        if isinstance(flight.delivery, Part):
            flight.delivery.parcel.lost = True
        elif flight.tray is not None:
            flight.tray.parcel.lost = True
        if not flight.settling:  # a settled message is gone because it was just acked
            log.warning(
                "lost the lease of message %s: it may run again elsewhere", flight.delivery.id
            )


def _is_short(lease: float, length: float) -> bool:
    """Tell whether a lease is to be extended before its call starts."""
    return lease * 2 <= length and lease < FIRST


def _margin(lease: float) -> float:
    """Return the seconds taken off a lease's end for the time that requests take."""
    return min(2.0, lease / 5)
