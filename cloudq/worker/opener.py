"""Sorts what a worker has received into jobs and settlements, and survives a failing store."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from cloudq.broker.broker import Broker
from cloudq.errors import CloudQError
from cloudq.execution.error_text import reason_of
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Action, Settlement
from cloudq.worker.in_flight import Flight
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.settler import Settler
from cloudq.worker.work_off import work_off

log = logging.getLogger("cloudq.worker")

# What could not be opened for a reason that may pass is not hot meanwhile.
_RELEASED_FOR = 5.0
# Threads for messages without order. One request that is slow, or tried again, holds one of them.
_THREADS = 4
# Messages that are opened together at most: a store reads about so many at once.
_MOST = 100


@dataclass(slots=True)
class _Line:
    """Flights that wait to be opened, and the number of threads that do it."""

    threads: int
    flights: queue.SimpleQueue[Sequence[Flight] | None] = field(
        default_factory=queue.SimpleQueue[Sequence[Flight] | None]
    )
    started: bool = False


class Opener:
    """Stands between the pollers and the dispatcher. Safe to use from many threads.

    Where a request to the store is a round trip, messages are opened in threads of their own, so
    that no poller waits for it; else by the poller, until the store fails. What the store refuses
    is tried again: at once after a try in which something passed, else after growing pauses.
    Messages that have an order stay with one thread.
    """

    def __init__(
        self, executor: Executor, broker: Broker, dispatcher: Dispatcher, settler: Settler
    ) -> None:
        self._executor = executor
        self._broker = broker
        self._dispatcher = dispatcher
        self._settler = settler
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._loose, self._ordered = _Line(_THREADS), _Line(1)

    def open(self, flights: Sequence[Flight]) -> None:
        """Sort these, now or soon; after `stop` they are released."""
        if not flights:
            return
        backend = self._executor.backend
        line = self._loose
        if self._broker.limits(flights[0].delivery.queue).ordered:
            line = self._ordered
        if backend is None or not (backend.driver.limits.billed or line.started):
            flights = self._tried(flights)
        if flights and not self._put(line, flights):
            self._tried(flights)

    def stop(self) -> None:
        """Release what is not opened yet, and all that comes from now on."""
        with self._lock:
            self._stopping.set()
            for line in (self._loose, self._ordered):
                for _ in range(line.threads if line.started else 0):
                    line.flights.put(None)

    def _put(self, line: _Line, flights: Sequence[Flight]) -> bool:
        with self._lock:
            if self._stopping.is_set():
                return False
            line.flights.put(flights)
            threads = 0 if line.started else line.threads
            line.started = True
        for _ in range(threads):
            threading.Thread(target=self._run, args=(line,), name="open", daemon=True).start()
        return True

    def _run(self, line: _Line) -> None:
        work_off(line.flights, self._tried, most=_MOST, hurries=self._stopping.is_set)

    def _tried(self, flights: Sequence[Flight]) -> list[Flight]:
        """As `_opened`, whatever raises: without its thread all that comes would wait for ever."""
        try:
            return self._opened(flights)
        except Exception:
            log.exception("%d messages wait to be opened", len(flights))
            return [flight for flight in flights if flight.job is None and not flight.settling]

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
        except Exception as error:  # else they would keep their leases and slots for ever
            return self._opened_singly(flights, error)
        if opened.settled:
            self._settler.settle(
                [(by_delivery[id(delivery)], done) for delivery, done in opened.settled]
            )
        ready: list[Flight] = []
        for job in opened.jobs:
            flight = by_delivery[id(job.delivery)]
            flight.job = job
            ready.append(flight)
        if ready:
            self._dispatcher.submit(ready)
        if opened.waiting:
            log.warning("%d messages wait for the store: %s", len(opened.waiting), opened.error)
        return [by_delivery[id(delivery)] for delivery in opened.waiting]

    def _opened_singly(self, flights: Sequence[Flight], error: Exception) -> list[Flight]:
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
