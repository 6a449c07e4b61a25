"""A worker inside of a test's process: real threads and the real executor, over any broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from cloudq.amounts import seconds
from cloudq.app import CloudQ
from cloudq.driver.log import Log
from cloudq.execution.event_loop import Loop
from cloudq.execution.settlement import Settlement
from cloudq.results.record import State
from cloudq.results.waiting import Places
from cloudq.testing.kit.clock import VirtualClock
from cloudq.testing.kit.faults import FaultPlan
from cloudq.testing.kit.hand import Hand
from cloudq.testing.kit.in_memory import in_memory, in_memory_services

log = Log("cloudq.testing")

# How long an idle thread looks away, in seconds. Asking a queue in memory costs some microseconds.
_GLANCE = 0.01


class Worker:
    """Runs an app's messages in threads, from `start` to `stop` or inside a `with` block.

    `queues` left out means the app's default queue and those its tasks name. Where the app goes
    by virtual time, advancing the clock waits for this worker. Leases are not extended: a task
    has `lease` seconds of the app's time, which a virtual clock never lets pass while one runs.
    """

    def __init__(
        self, app: CloudQ, *, queues: Sequence[str] | None = None, threads: int = 4
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}: a worker has at least 1")
        self.app = app
        self.settlements: list[Settlement] = []
        """What became of each message, in the order in which they were settled."""
        self._told = 0
        self._queues = None if queues is None else list(queues)
        self._count = threads
        self._places = Places(threads)
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._busy = 0
        # Who waits for idleness asks for another look: one that found nothing before is no answer.
        self._events = 0
        self._empty_at = -1
        self._error: BaseException | None = None
        self._loop = Loop()  # one, as in a process of a real worker

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except Exception:
            if error is None:  # what the block raised says more
                raise

    @property
    def failures(self) -> list[Settlement]:
        """The tasks that have failed for good; `error` is what each raised."""
        return [s for s in self.settlements if s.state is State.FAILURE]

    @property
    def failed(self) -> bool:
        """Tell whether a service failed since the last wait for the worker."""
        return self._error is not None

    def start(self) -> None:
        """Start the threads."""
        self._loop = Loop()
        inside = in_memory_services(self.app)
        if inside is not None and inside.time is not None:
            inside.time.join(self._idle)
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"cloudq-test-{number}")
            for number in range(self._count)
        ]
        for thread in self._threads:
            thread.daemon = True  # a task that hangs must not keep the test run from ending
            thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Let running tasks end and stop the threads.

        Raises `TimeoutError` naming what runs, and what a service raised that nobody was told.
        """
        seconds(timeout, "timeout")
        inside = in_memory_services(self.app)
        if inside is not None and inside.time is not None and self._threads:
            inside.time.part(self._idle)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        self._threads = []
        if alive:
            raise TimeoutError(f"after {timeout:g} s a task still runs in {', '.join(alive)}")
        self._loop.close(timeout)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def run_until_idle(self, timeout: float = 60.0) -> list[Settlement]:
        """Wait until nothing runs and nothing is due; what was settled since the last call of this.

        Raises `TimeoutError` after `timeout` real seconds, and what a service raised that fails
        and goes on failing.
        """
        self._idle(timeout)
        told, self._told = self._told, len(self.settlements)
        return self.settlements[told : self._told]

    def _idle(self, timeout: float = 60.0) -> None:
        seconds(timeout, "timeout")
        deadline = time.monotonic() + timeout
        with self._changed:
            if not self._threads:
                raise RuntimeError("the worker is not running: start it, or use a with block")
            self._events += 1
            self._changed.notify_all()
            while self._error is None and (self._busy or self._empty_at != self._events):
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(
                        f"{self._busy} tasks still run, {len(self.settlements)} have "
                        f"ended after {timeout:g} s: does one send itself, or wait for the test?"
                    )
            error, self._error = self._error, None
        if error is not None:
            raise error

    # ---- the threads

    def _work(self, number: int) -> None:
        name, loop = f"test-{number}", self._loop
        hand = Hand(self.app, hostname=name, run_async=loop.run, places=self._places)
        while True:
            with self._changed:
                if self._stopping:
                    return
                events = self._events
                self._busy += 1
            try:
                # Busy until it finds nothing, so that what a task sends is not overlooked.
                while not self._stopping and self._look(hand, number):
                    number += 1
            except BaseException as error:  # shown where the test waits; a thread shows it nobody
                log.exception("a thread of the test's worker failed")
                self._error = error
            with self._changed:
                self._busy -= 1
                self._empty_at = max(self._empty_at, events)
                self._changed.notify_all()
                if not self._stopping and self._events == events:
                    self._changed.wait(_GLANCE)

    def _look(self, hand: Hand, turn: int) -> bool:
        """Run one message of the first queue that has one; whether there was any."""
        queues = self.app.queues() if self._queues is None else self._queues
        for place in range(len(queues)):
            delivery = hand.receive(queues[(turn + place) % len(queues)])
            if delivery is not None:
                self.settlements += hand.run(delivery)
                return True
        return False


@contextmanager
def worker(
    app: CloudQ,
    *,
    queues: Sequence[str] | None = None,
    threads: int = 4,
    clock: VirtualClock | None = None,
    faults: FaultPlan | None = None,
) -> Generator[Worker]:
    """Run the app's tasks in this process for a block, over memory and not its own services.

    An app that is in memory already (`in_memory`) stays where it is, and has its clock and its
    faults from there. The block's end waits for running tasks, and for no others.
    """
    if in_memory_services(app) is not None:
        if clock is not None or faults is not None:
            raise ValueError("the app is in memory already: give clock and faults to in_memory")
        with Worker(app, queues=queues, threads=threads) as running:
            yield running
        return
    with (
        in_memory(app, clock=clock, faults=faults, task_always_eager=False),
        Worker(app, queues=queues, threads=threads) as running,
    ):
        yield running


def run_until_idle(
    app: CloudQ, queues: Sequence[str] | None = None, timeout: float = 60.0
) -> list[Settlement]:
    """Run in this thread what is due, and what comes of it; what became of each message, in order.

    It stands services that fail for a while, as `drain` does not. What is delayed stays where it
    is. Raises `TimeoutError` when there is still work after `timeout` seconds.
    """
    with Loop() as loop:
        return _until_idle(app, queues, Hand(app, hostname="test", run_async=loop.run), timeout)


def _until_idle(
    app: CloudQ, queues: Sequence[str] | None, hand: Hand, timeout: float
) -> list[Settlement]:
    deadline = time.monotonic() + timeout
    done: list[Settlement] = []
    idle = turn = 0
    while True:
        names = app.queues() if queues is None else list(queues)
        if idle >= len(names):
            return done
        delivery = hand.receive(names[turn % len(names)])
        turn += 1
        idle = 0 if delivery is not None else idle + 1
        if delivery is not None:
            done += hand.run(delivery)
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(done)} messages were run and there were still some after {timeout:g} s: "
                    "does a task send itself, or fail and retry without a delay?"
                )
