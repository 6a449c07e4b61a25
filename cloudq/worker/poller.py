"""Receives from one queue, for free slots only, and survives every error of the service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from cloudq.broker.broker import Broker
from cloudq.clock import Backoff
from cloudq.driver import Code, Delivery
from cloudq.errors import BackendError, BrokerError
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Settlement
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.leases import Leases
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.slots import Slots

log = logging.getLogger("cloudq.worker")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# The shortest wait for an empty queue, whatever the setting: without one it would be a hot loop.
_SHORTEST_WAIT = 0.1
_UNBILLED_WAIT = 1.0
# How long a receive waits for more slots, or more messages, where requests are billed.
_LINGER = 0.05
_FATAL = frozenset({Code.NOT_FOUND, Code.DENIED, Code.CREDENTIALS, Code.INVALID})


class Poller:
    """One thread that receives from one queue.

    While there is work it takes slots first and asks for as many messages. A queue that was
    found empty is waited on with one message in prospect and no slot held, so that it keeps no
    other queue from working; that message waits in hand should all slots be taken by then.
    """

    def __init__(
        self,
        queue: str,
        *,
        broker: Broker,
        executor: Executor,
        flights: Flights,
        slots: Slots,
        leases: Leases,
        dispatcher: Dispatcher,
        settle: Callable[[Sequence[tuple[Flight, Settlement]]], None],
        release: Callable[[Sequence[Flight], str], None],
        fatal: Callable[[BrokerError], None],
        lease: float,
        wait: float,
    ) -> None:
        self.queue = queue
        self._broker = broker
        self._executor = executor
        self._flights = flights
        self._slots = slots
        self._leases = leases
        self._dispatcher = dispatcher
        self._settle = settle
        self._release = release
        self._fatal = fatal
        self._lease = lease
        if not broker.limits(queue).billed:  # another look costs nothing, and a stop waits for it
            wait = min(wait, _UNBILLED_WAIT)
        self._wait = max(wait, _SHORTEST_WAIT)
        self._stopping = threading.Event()
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._reached = False
        self.thread = threading.Thread(target=self._run, name=f"poll-{queue}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Receive no more; a receive that is under way ends by itself."""
        self._stopping.set()

    def _run(self) -> None:
        busy = True
        while not self._stopping.is_set():
            try:
                busy = self._busy() if busy else self._idle()
            except Exception:  # a poller must not die: its queue would stand still
                log.exception("polling %s failed", self.queue)
                busy = False
                self._stopping.wait(self._backoff.failed())

    def _busy(self) -> bool:
        """Take slots, then that many messages; whether there may be more."""
        limits = self._broker.limits(self.queue)
        linger = _LINGER if limits.billed else 0.0
        slots = self._slots.take(self.queue, limits.batch, linger=linger)
        deliveries: Sequence[Delivery] = ()
        try:
            if slots:
                deliveries = self._receive(slots, 0.0)
        finally:
            self._slots.give(slots - len(deliveries))
        self._accept(deliveries)
        if not deliveries:
            self._slots.idle(self.queue)
        elif limits.billed and len(deliveries) < min(slots, limits.batch):
            # There are no more just now: let some gather, for a request costs the same for ten.
            self._stopping.wait(_LINGER)
        return bool(deliveries)

    def _idle(self) -> bool:
        """Wait for the first message of an empty queue; whether one came."""
        deliveries = self._receive(1, self._wait)
        flights = self._in_hand(deliveries)
        if flights and not self._slots.take(self.queue, 1):
            self._flights.remove(flights)
            self._broker.release(deliveries)
            return False
        self._open(flights)
        return bool(flights)

    def _receive(self, count: int, wait: float) -> Sequence[Delivery]:
        try:
            deliveries = self._broker.receive(self.queue, count=count, wait=wait, lease=self._lease)
        except BrokerError as error:
            if not self._reached and error.code in _FATAL:
                self._stopping.set()
                self._fatal(error)
                return ()
            log.warning("%s", error)
            self._stopping.wait(self._backoff.failed())
            return ()
        if self._backoff.failures:
            log.info("queue %s answers again", self.queue)
        self._reached = True
        self._backoff.succeeded()
        return deliveries

    def _accept(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            self._open(self._in_hand(deliveries))

    def _in_hand(self, deliveries: Sequence[Delivery]) -> list[Flight]:
        ends = self._leases.ends(min((d.lease for d in deliveries), default=0.0))
        return self._flights.add(deliveries, ends)

    def _open(self, flights: Sequence[Flight]) -> None:
        """Sort what came into jobs and settlements; held in hand while the store is down."""
        if not flights:
            return
        by_delivery = {id(flight.delivery): flight for flight in flights}
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            if self._stopping.is_set():
                self._release(flights, "the worker stops")
                return
            try:
                jobs, settled = self._executor.open([flight.delivery for flight in flights])
            except BackendError as error:
                log.warning("%d messages wait for the store: %s", len(flights), error)
                self._stopping.wait(backoff.failed())
            except Exception:  # else their leases would be kept, and their slots held, for ever
                self._release(flights, "it could not be opened")
                raise
            else:
                break
        if settled:
            self._settle([(by_delivery[id(delivery)], done) for delivery, done in settled])
        ready: list[Flight] = []
        for job in jobs:
            flight = by_delivery[id(job.delivery)]
            flight.job = job
            ready.append(flight)
        self._dispatcher.submit(ready)
