"""Receives from a queue as many messages as there are free slots, and survives all errors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.clock import Backoff
from cloudq.driver import Code, Delivery
from cloudq.errors import BrokerError
from cloudq.execution.executor import Executor
from cloudq.worker.control.counters import Counters
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.leases import Leases
from cloudq.worker.opener import Opener
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.pool.self_pipe import Shutdown
from cloudq.worker.settler import Settler
from cloudq.worker.slots import Slots

log = logging.getLogger("cloudq.worker")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
# The shortest wait for a message of an empty queue, whatever the setting, lest it be a busy loop.
_SHORTEST_WAIT = 0.1
# The longest wait where requests cost nothing.
_UNBILLED_WAIT = 1.0
# Seconds that a receive waits for more slots, or more messages, where requests are billed.
_LINGER = 0.05
# Where requests are billed, a receive as late as this, in seconds, has others made beside it
# by so many threads: one that is slow, or that an SDK tries again, holds up no queue.
_LATE = 0.2
_HELPERS = 2
_FATAL = frozenset({Code.NOT_FOUND, Code.DENIED, Code.CREDENTIALS, Code.INVALID})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """The parts of a worker that its pollers and its commands work with."""

    app: CloudQ
    options: WorkerOptions
    executor: Executor
    flights: Flights
    slots: Slots
    leases: Leases
    dispatcher: Dispatcher
    settler: Settler
    opener: Opener
    counters: Counters
    shutdown: Shutdown


class Poller:
    """Receives from one queue, in a thread, with others that help out where it waits too long.

    While there is work it takes slots first, and asks for as many messages. A queue that was found
    empty is waited on for one message, with no slot taken, so that it keeps no other queue from
    working; if all slots are taken when the message comes, it is held until one is free.

    An error that waiting does not mend, met before the first answer, stops the worker; with
    `added`, for a queue that a command has added, it stops this poller only.
    """

    def __init__(self, queue: str, parts: WorkerParts, *, added: bool = False) -> None:
        self.queue = queue
        self._broker = parts.app.broker
        self._flights = parts.flights
        self._slots = parts.slots
        self._leases = parts.leases
        self._opener = parts.opener
        self._shutdown = parts.shutdown
        self._added = added
        self._lease, wait = parts.options.lease, parts.options.poll_wait
        if not self._broker.limits(queue).billed:  # another request is free, and a stop waits
            wait = min(wait, _UNBILLED_WAIT)
        self._wait = max(wait, _SHORTEST_WAIT)
        self._stopping = threading.Event()
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._reached = False
        self._asked_at: float | None = None  # of the receive under way, if it has slots
        self._threads = [threading.Thread(target=self._run, name=f"poll-{queue}", daemon=True)]
        limits = self._broker.limits(queue)
        if limits.billed and not limits.ordered:
            self._threads += [
                threading.Thread(target=self._help, name=f"late-{queue}", daemon=True)
                for _ in range(_HELPERS)
            ]

    @property
    def receiving(self) -> bool:
        """True until the last receive has come back."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Begin to receive."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Receive no more; a receive that is under way ends by itself."""
        self._stopping.set()

    def _run(self) -> None:
        busy = True
        while not self._stopping.is_set():
            try:
                busy = self._busy() if busy else self._idle()
            except Exception:  # if the thread ended, its queue would stand still
                log.exception("receiving from %s failed, and is tried again", self.queue)
                busy = False
                self._backoff.failed()
            if pause := self._backoff.left:
                self._stopping.wait(pause)

    def _busy(self) -> bool:
        """Take slots, then receive as many messages; False when the queue was empty.

        A receive that fails alone is made again. Where more do, no slots are taken for them.
        """
        limits = self._broker.limits(self.queue)
        linger = _LINGER if limits.billed else 0.0
        slots = self._slots.take(self.queue, limits.batch, linger=linger)
        flights: Sequence[Flight] = ()
        try:
            if slots:
                self._asked_at = time.monotonic()
                flights = self._leases.hold(self._receive(slots, 0.0))
        finally:
            self._asked_at = None
            self._slots.give(slots - len(flights))
        self._opener.open(flights)
        if self._backoff.failures == 1:
            return True
        if not flights:
            self._slots.idle(self.queue)
        elif limits.billed and len(flights) < min(slots, limits.batch):
            # The queue holds no more just now. Let some gather: a request costs the same for ten.
            self._stopping.wait(_LINGER)
        return bool(flights)

    def _help(self) -> None:
        """Receive beside the poller for as long as one of its receives is late."""
        while not self._stopping.wait(_LATE):
            late = self._asked_at
            try:
                while late is not None and self._is_late(late) and self._received_beside():
                    pass
            except Exception as error:  # the poller tells, and makes pauses
                log.debug("a receive from %s beside a late one failed", self.queue, exc_info=error)

    def _is_late(self, asked_at: float) -> bool:
        """Tell whether the receive of that time is still under way, and late."""
        if self._asked_at != asked_at or self._stopping.is_set() or self._backoff.failures:
            return False
        return time.monotonic() - asked_at >= _LATE

    def _received_beside(self) -> bool:
        slots = self._slots.take_free(self.queue, self._broker.limits(self.queue).batch)
        flights: Sequence[Flight] = ()
        try:
            if slots:
                flights = self._leases.hold(
                    self._broker.receive(self.queue, count=slots, wait=0.0, lease=self._lease)
                )
        finally:
            self._slots.give(slots - len(flights))
        self._opener.open(flights)
        return bool(flights)

    def _idle(self) -> bool:
        """Wait for the first message of an empty queue; False when none came."""
        deliveries = self._receive(1, self._wait)
        flights = self._leases.hold(deliveries)
        if flights and not self._slots.take(self.queue, 1):
            self._flights.remove(flights)
            self._broker.release(deliveries)
            return False
        self._opener.open(flights)
        return bool(flights)

    def _receive(self, count: int, wait: float) -> Sequence[Delivery]:
        try:
            deliveries = self._broker.receive(self.queue, count=count, wait=wait, lease=self._lease)
        except BrokerError as error:
            if not self._reached and error.code in _FATAL:
                self._give_up(error)
                return ()
            log.warning("%s", error)
            self._backoff.failed()
            return ()
        if self._backoff.failures:
            log.info("queue %s answers again", self.queue)
        self._reached = True
        self._backoff.succeeded()
        return deliveries

    def _give_up(self, error: BrokerError) -> None:
        self._stopping.set()
        if self._added:
            log.error("stopped receiving from %s, which a command had added: %s", self.queue, error)
            self._slots.remove(self.queue)
        else:
            self._shutdown.fail(error)
