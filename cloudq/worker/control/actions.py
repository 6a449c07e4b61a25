"""Looks into a running worker and changes it, on behalf of commands."""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import ParamSpec, TypeVar

from cloudq.errors import ConfigurationError
from cloudq.worker.delayed import DelayedSender
from cloudq.worker.in_flight import Begun, Flight
from cloudq.worker.poller import Poller, WorkerParts
from cloudq.worker.pool.child_handle import Child
from cloudq.worker.pool.pool import ProcessPool
from cloudq.worker.pool_kinds import PoolKind

P = ParamSpec("P")
T = TypeVar("T")

# Seconds that a command may wait for the main thread.
_PATIENCE = 10.0


class Actions:
    """The things that commands may see and do in a worker. Safe to use from many threads.

    What starts or kills children waits for the main thread, which calls `run_waiting`. `pollers`
    is shared with the worker.
    """

    def __init__(
        self,
        parts: WorkerParts,
        *,
        pool: ProcessPool,
        delayed: DelayedSender,
        pollers: list[Poller],
    ) -> None:
        self.app = parts.app
        self.options = parts.options
        self.ledger = parts.ledger
        self.counters = parts.ledger.counters
        self._parts = parts
        self._pool = pool
        self._delayed = delayed
        self._pollers = pollers
        self._paused: frozenset[str] = frozenset()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    # ---- see

    @property
    def processes(self) -> int:
        """The number of processes there should be."""
        return self._pool.processes

    @property
    def weights(self) -> Mapping[str, int]:
        """The queues that are received from, with their weights."""
        return self._parts.slots.weights

    def pids(self) -> list[int]:
        """Return the process ids of the children."""
        return [child.pid for child in self._pool.children]

    def at_work(self) -> tuple[int, list[Begun]]:
        """Count the tasks that children run, and return those that run for longest first."""
        return self._parts.dispatcher.at_work()

    @property
    def in_hand(self) -> int:
        """The number of tasks that were received and that no child has been given."""
        return self._parts.dispatcher.waiting

    def running(self) -> list[tuple[Child, Flight]]:
        """Return the tasks that children run, with the child of each."""
        given = self._parts.dispatcher.running()
        return [(child, flight) for child, flight in given if flight.job and not flight.settling]

    def waiting(self) -> list[Flight]:
        """Return the tasks that were received and that no child has been given."""
        given = {flight.number for _, flight in self._parts.dispatcher.running()}
        return [
            flight
            for flight in self._parts.flights.all()
            if flight.job and not flight.settling and flight.number not in given
        ]

    # ---- tasks

    def revoke(self, ids: Iterable[str]) -> list[str]:
        """End the tasks of these ids that are here, and return the ids of those that ran."""
        return self._in_main_thread(self._revoke, set(ids))

    def _revoke(self, wanted: set[str]) -> list[str]:
        self._parts.dispatcher.take_apart()
        for flight in self._parts.flights.all():
            if flight.job and flight.job.message.id in wanted:
                flight.revoked = True  # from here on no child gets it
        stopped = [(child, flight) for child, flight in self.running() if flight.revoked]
        for child, flight in stopped:
            if flight not in child.killed_for:
                child.killed_for.append(flight)
        for child in {child for child, _ in stopped}:
            child.kill()
        self._parts.dispatcher.pump()
        return [flight.job.message.id for _, flight in stopped if flight.job]

    def limit(self, task: str, soft: float | None, hard: float | None) -> None:
        """Change a task's time limits, in seconds. Raises `UnknownTask`."""
        self._parts.executor.change_time_limit(task, soft, hard)
        self._pool.limit(task, soft, hard)

    def change_rate(self, task: str, rate: str | float) -> str:
        """Change a task's rate limit in this worker. Raises `ConfigurationError`."""
        now = self._parts.executor.change_rate_limit(task, rate)
        return "new rate limit set successfully" if now else "rate limit disabled successfully"

    def limits(self) -> dict[str, dict[str, str | float]]:
        """Return the rate and the time limits of each task that has any, as they are now."""
        found: dict[str, dict[str, str | float]] = {}
        for task in self.app.tasks:
            rate, soft, hard = self._parts.executor.task_limits(task)
            own = {"rate_limit": rate and str(rate), "soft_time_limit": soft, "time_limit": hard}
            given = {name: limit for name, limit in own.items() if limit}
            if given:
                found[task] = given
        return found

    # ---- processes

    def resize(self, by: int) -> int:
        """Change the number of processes, and return it. Raises `ConfigurationError`."""
        return self._in_main_thread(self._resize, by)

    def _resize(self, by: int) -> int:
        if self.processes + by < 1:
            raise ConfigurationError(f"of {self.processes} processes one must stay")
        self._pool.scale(self.processes + by)
        return self.processes

    def autoscale(self, most: int, fewest: int) -> None:
        """Scale the processes between these numbers. Raises `ConfigurationError`."""
        if not 1 <= fewest <= most:
            raise ConfigurationError(f"max={most} min={fewest}: from 1 on, the most first")
        if self.options.pool is not PoolKind.PROCESSES:
            raise ConfigurationError(
                f"autoscale starts and stops processes, and --pool {self.options.pool} has one"
            )
        self._in_main_thread(self._pool.set_autoscale, most, fewest)

    # ---- queues

    def consume(self, queue: str) -> bool:
        """Receive from one more queue; False if it is received from already."""
        return self._in_main_thread(self._consume, queue)

    def _consume(self, queue: str) -> bool:
        if queue in self.weights:
            return False
        if self.app.broker.stores_delayed(queue):
            self._delayed.add(queue)
        self._parts.slots.add(queue)
        poller = Poller(queue, self._parts, added=True)
        if queue in self._paused:
            poller.pause()
        self._pollers.append(poller)
        poller.start()
        return True

    def ignore(self, queue: str) -> bool:
        """Stop receiving from a queue; False if it is not received from.

        What was received before is run.
        """
        return self._in_main_thread(self._ignore, queue)

    def _ignore(self, queue: str) -> bool:
        if queue not in self.weights:
            return False
        for poller in self._pollers:
            if poller.queue == queue:
                poller.stop()
        self._parts.slots.remove(queue)
        return True

    def heed_pauses(self, paused: Collection[str]) -> None:
        """Receive nothing from these queues, and again from those that were paused before.

        What was received is run.
        """
        self._paused = frozenset(paused)
        for poller in self._pollers:
            if poller.queue in self._paused:
                poller.pause()
            else:
                poller.resume()

    # ---- the worker

    def request_stop(self) -> None:
        """Stop the worker warm, as the first SIGTERM does."""
        self._parts.shutdown.request()

    def _in_main_thread(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it in the main thread: children die with the thread that started them."""
        done: Future[T] = Future()
        self._waiting.put(partial(_fulfil, done, partial(action, *args, **kwargs)))
        self._parts.shutdown.wake()
        return done.result(_PATIENCE)

    def run_waiting(self) -> None:
        """Run what waits for the main thread. Call from there, now and then."""
        while not self._waiting.empty():
            self._waiting.get()()


def _fulfil(done: Future[T], action: Callable[[], T]) -> None:
    try:
        done.set_result(action())
    except Exception as error:
        done.set_exception(error)
