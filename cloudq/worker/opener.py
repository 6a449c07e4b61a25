"""Sorts what a worker has received into jobs and settlements, and survives a failing store."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from cloudq.broker.broker import Broker
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.errors import CloudQError
from cloudq.execution.bundles import Part
from cloudq.execution.error_text import reason_of
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Action, Settlement
from cloudq.execution.unpacking import Opened
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.settler import Settler
from cloudq.worker.slots import Slots
from cloudq.worker.work_off import Crew

log = Log("cloudq.worker")

# What could not be opened for a reason that may pass is not hot meanwhile.
_RELEASED_FOR = 5.0
# Messages that are opened together at most: a store reads about so many at once.
_MOST = 100
# Threads for messages without order that help where a request to the store is slow.
_HELPERS = 3


class Opener:
    """Stands between the pollers and the dispatcher. Safe to use from many threads.

    Where a request to the store is a round trip, messages are opened in threads of their own, so
    that no poller waits for it; else by the poller, until the store fails. What the store refuses
    is tried again: at once after a try in which something passed, else after growing pauses.
    Messages that have an order stay with one thread.
    """

    def __init__(
        self,
        executor: Executor,
        broker: Broker,
        dispatcher: Dispatcher,
        settler: Settler,
        flights: Flights,
        slots: Slots,
    ) -> None:
        self._executor = executor
        self._broker = broker
        self._dispatcher = dispatcher
        self._settler = settler
        self._flights = flights
        self._slots = slots
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._loose = Crew(self._tried, name="open", full=_MOST)
        self._ordered = Crew(self._tried, name="open", full=_MOST)
        self._started: set[Crew[Flight]] = set()

    def open(self, flights: Sequence[Flight]) -> None:
        """Sort these, now or soon; after `stop` they are released."""
        if not flights:
            return
        backend = self._executor.backend
        line = self._loose
        if self._broker.limits(flights[0].delivery.queue).ordered:
            line = self._ordered
        if backend is None or not (backend.driver.limits.billed or line in self._started):
            flights = self._tried(flights)
        if flights and not self._put(line, flights):
            self._tried(flights)

    def stop(self) -> None:
        """Release what is not opened yet, and all that comes from now on."""
        with self._lock:
            self._stopping.set()
            for line in self._started:
                line.end()

    def _put(self, line: Crew[Flight], flights: Sequence[Flight]) -> bool:
        with self._lock:
            if self._stopping.is_set():
                return False
            if line not in self._started:
                self._started.add(line)
                line.start(_HELPERS if line is self._loose else 0)
            line.put(flights)
        return True

    def _tried(self, flights: Sequence[Flight]) -> list[Flight]:
        """As `_opened`, whatever raises: without its thread all that comes would wait for ever."""
        try:
            return self._opened(flights)
        except BaseException as error:
            pass_ends(error)
            log.exception("%d messages wait to be opened", len(flights))
            return [
                flight
                for flight in flights
                if flight.job is None and flight.tray is None and not flight.settling
            ]

    def _opened(self, flights: Sequence[Flight]) -> list[Flight]:
        """Sort flights, and return those that the store has refused."""
        if self._stopping.is_set():
            self._settler.release(flights, "the worker stops")
            return []
        by_delivery = {id(flight.delivery): flight for flight in flights}
        try:
            opened = self._executor.sort([flight.delivery for flight in flights])
        except MemoryError:
            log.exception("%d messages could not be opened", len(flights))
            self._settler.release(flights, "it could not be opened", _RELEASED_FOR)
            return []
        except BaseException as error:  # else they would keep their leases and slots for ever
            pass_ends(error)
            return self._opened_singly(flights, error)
        self._unbundle(opened, by_delivery)
        if opened.settled:
            self._settler.settle(
                [(by_delivery[id(delivery)], done) for delivery, done in opened.settled]
            )
        ready = self._on_trays(opened, by_delivery)
        for job in opened.jobs:
            flight = by_delivery[id(job.delivery)]
            flight.job = job
            ready.append(flight)
        if ready:
            self._dispatcher.submit(ready)
        if opened.waiting:
            log.warning("%d messages wait for the store: %s", len(opened.waiting), opened.error)
        return [by_delivery[id(delivery)] for delivery in opened.waiting]

    def _on_trays(self, opened: Opened, flights: dict[int, Flight]) -> list[Flight]:
        """Hold the calls of plain bundles, each with a slot of its own, in their messages."""
        trays = [flights[id(plain.parcel.whole)] for plain in opened.plain]
        for flight, plain in zip(trays, opened.plain, strict=True):
            self._flights.hold_plain(flight, plain)
            self._slots.overdraw(flight.delivery.queue, len(plain.calls) - 1)
        return trays

    def _unbundle(self, opened: Opened, flights: dict[int, Flight]) -> None:
        """Hold the calls of a bundle, each with a slot of its own, in place of their message."""
        found = [job.delivery for job in opened.jobs]
        found += [delivery for delivery, _ in opened.settled]
        for part in (*found, *opened.waiting):
            if not isinstance(part, Part) or id(part) in flights:
                continue
            whole = flights.pop(id(part.parcel.whole))
            parts = self._flights.split(whole, part.parcel.parts)
            self._slots.overdraw(part.queue, len(parts) - 1)
            flights |= {id(flight.delivery): flight for flight in parts}

    def _opened_singly(self, flights: Sequence[Flight], error: BaseException) -> list[Flight]:
        """Sort flights of which one made the sorting of all fail; put that one alone away."""
        if len(flights) > 1:
            for index, flight in enumerate(flights):
                if self._opened([flight]):  # the store refused it: it stays before the others
                    return list(flights[index:])
            return []
        delivery = flights[0].delivery
        log.error("message %s on %s cannot be opened", delivery.id, delivery.queue, exc_info=error)
        if isinstance(error, CloudQError):  # a service, or the app, may be mended meanwhile
            self._settler.release(flights, "it could not be opened", _RELEASED_FOR)
            return []
        buried = Settlement(
            action=Action.DEAD_LETTER, reason=f"it cannot be opened: {reason_of(error)}"
        )
        self._settler.settle([(flights[0], buried)])
        return []
