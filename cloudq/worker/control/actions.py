"""What commands from outside may see and do in a worker."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from cloudq.app import CloudQ
from cloudq.errors import BrokerError, ConfigurationError
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Settlement
from cloudq.worker.control.commands import WorkerCommands
from cloudq.worker.control.counters import Counters
from cloudq.worker.control.heartbeat import HeartbeatSender
from cloudq.worker.delayed import DelayedSender
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.options import WorkerOptions
from cloudq.worker.poller import Poller
from cloudq.worker.pool.child_handle import Child
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.pool.pool import ProcessPool
from cloudq.worker.pool_kinds import PoolKind
from cloudq.worker.slots import Slots

log = logging.getLogger("cloudq.worker")

T = TypeVar("T")

# How long a command may wait for the main thread.
_OBEYED = 10.0


class MakePoller(Protocol):
    """Makes a poller; `fatal` hears of errors that waiting does not mend."""

    def __call__(
        self, queue: str, fatal: Callable[[BrokerError], None] | None = None
    ) -> Poller: ...


class Actions:
    """Holds the parts of a worker that commands change. `pollers` is its own list.

    Safe to use from many threads: what children are started or stopped for is done by the main
    thread, in `obey`.
    """

    def __init__(
        self,
        *,
        app: CloudQ,
        options: WorkerOptions,
        executor: Executor,
        flights: Flights,
        slots: Slots,
        dispatcher: Dispatcher,
        parked: DelayedSender,
        pool: ProcessPool,
        pollers: list[Poller],
        poller: MakePoller,
        settle: Callable[[Iterable[tuple[Flight, Settlement]]], None],
        stop: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self.app = app
        self.options = options
        self.counters = Counters()
        self._executor = executor
        self._flights = flights
        self._slots = slots
        self._dispatcher = dispatcher
        self._parked = parked
        self._pool = pool
        self._pollers = pollers
        self._poller = poller
        self._settle = settle
        self._stop = stop
        self._wake = wake
        self._limits: dict[str, tuple[float | None, float | None]] = {}
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    @property
    def processes(self) -> int:
        """How many processes there should be."""
        return self._pool.processes

    @property
    def weights(self) -> Mapping[str, int]:
        """The queues that are received from, with their weights."""
        return self._slots.weights

    def heartbeat(self) -> HeartbeatSender:
        """The heartbeat that brings the commands."""
        remote, app = WorkerCommands(self), self.app
        every = app.conf.worker_heartbeat
        return HeartbeatSender(lambda: app.backend, heart=remote.heart, run=remote.run, every=every)

    def settle(self, done: Sequence[tuple[Flight, Settlement]]) -> None:
        """Count outcomes and have them carried out."""
        self.counters.add(settlement for _, settlement in done)
        self._settle(done)

    def tell_limits(self, child: Child) -> None:
        """Tell a new child what was changed before it came."""
        for task, limits in self._limits.items():
            child.limit(task, *limits)

    def pids(self) -> list[int]:
        return [child.pid for child in self._pool.children]

    def running(self) -> list[tuple[Child, Flight]]:
        """What children have in work."""
        return [(c, f) for c, f in self._dispatcher.running() if f.job and not f.settling]

    def waiting(self) -> list[Flight]:
        """What is in hand and no child has."""
        given = {flight.number for _, flight in self._dispatcher.running()}
        return [
            flight
            for flight in self._flights.all()
            if flight.job and not flight.settling and flight.number not in given
        ]

    def revoke(self, ids: Iterable[str]) -> list[str]:
        """End what is in hand of these tasks; the ids of those that were running."""
        wanted = set(ids)
        return self._ordered(lambda: self._revoke(wanted))

    def _revoke(self, wanted: set[str]) -> list[str]:
        for flight in self._flights.all():
            if flight.job and flight.job.message.id in wanted:
                flight.revoked = True  # from here on no child gets it
        stopped = [(child, flight) for child, flight in self.running() if flight.revoked]
        for child, flight in stopped:
            if flight not in child.killed_for:
                child.killed_for.append(flight)
        for child in {child for child, _ in stopped}:
            child.kill()
        self._dispatcher.pump()
        return [flight.job.message.id for _, flight in stopped if flight.job]

    def end(self, flights: Sequence[Flight]) -> None:
        """End what was revoked before its start."""
        done = [(f, self._executor.revoked(f.job, "revoked")) for f in flights if f.job]
        self.settle(done)
        self._dispatcher.finished(None, done)

    def limit(self, task: str, soft: float | None, hard: float | None) -> None:
        """Give a task other time limits. Raises `UnknownTask`."""
        self._executor.change_time_limit(task, soft, hard)
        self._limits[task] = soft, hard
        for child in self._pool.children:
            if child.ready:
                child.limit(task, soft, hard)

    def change_rate(self, task: str, rate: str | float) -> str:
        """Give a task another rate limit in this worker. Raises `ConfigurationError`."""
        now = self._executor.change_rate_limit(task, rate)
        return "new rate limit set successfully" if now else "rate limit disabled successfully"

    def resize(self, by: int) -> int:
        """Have so many more processes, or fewer; how many then. Raises `ConfigurationError`."""
        return self._ordered(lambda: self._resize(by))

    def _resize(self, by: int) -> int:
        if self.processes + by < 1:
            raise ConfigurationError(f"of {self.processes} processes one must stay")
        self._pool.scale(self.processes + by)
        return self.processes

    def autoscale(self, most: int, fewest: int) -> None:
        """Let the processes come and go between these. Raises `ConfigurationError`."""
        if not 1 <= fewest <= most:
            raise ConfigurationError(f"max={most} min={fewest}: from 1 on, the most first")
        if self.options.pool is not PoolKind.PROCESSES:
            raise ConfigurationError(
                f"autoscale starts and stops processes, and --pool {self.options.pool} has one"
            )
        self._ordered(lambda: self._pool.set_autoscale(most, fewest))

    def consume(self, queue: str) -> bool:
        """Receive from a queue too; False if it is received from already."""
        return self._ordered(lambda: self._consume(queue))

    def _consume(self, queue: str) -> bool:
        if queue in self.weights:
            return False
        if self.app.broker.stores_delayed(queue):
            self._parked.add(queue)
        self._slots.add(queue)
        poller = self._poller(queue, fatal=lambda error: self._gave_up(queue, error))
        self._pollers.append(poller)
        poller.start()
        return True

    def _gave_up(self, queue: str, error: BrokerError) -> None:
        log.error("queue %s, which a command has added, is left alone: %s", queue, error)
        self._slots.remove(queue)

    def ignore(self, queue: str) -> bool:
        """Receive no more from a queue; False if it is not received from. What is in hand stays."""
        return self._ordered(lambda: self._ignore(queue))

    def _ignore(self, queue: str) -> bool:
        if queue not in self.weights:
            return False
        for poller in self._pollers:
            if poller.queue == queue:
                poller.stop()
        self._slots.remove(queue)
        return True

    def request_stop(self) -> None:
        """Stop warm, as the first SIGTERM does."""
        self._stop()

    def _ordered(self, action: Callable[[], T]) -> T:
        """Let the main thread do it, which children must be started and stopped from."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(action())
            except Exception as error:
                done.set_exception(error)

        self._orders.put(run)
        self._wake()
        return done.result(_OBEYED)

    def obey(self) -> None:
        """Do what commands have ordered. Call from the main thread, now and then."""
        while not self._orders.empty():
            self._orders.get()()
