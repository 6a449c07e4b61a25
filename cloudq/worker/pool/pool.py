"""Keeps as many child processes as there should be: starts, replaces, scales and ends them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from cloudq.clock import Backoff
from cloudq.errors import ConfigurationError
from cloudq.execution.settlement import Settlement
from cloudq.worker.in_flight import Flight
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool.autoscale import Autoscale, memory_of
from cloudq.worker.pool.child_handle import Child
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.slots import Slots

log = logging.getLogger("cloudq.worker")

# After so many children in a row that died before they were ready none ever will be.
_MOST_YOUNG_DEATHS = 5
# The longest pause between these, in seconds.
_LONGEST_PAUSE = 1.6
# How often the children's memory is looked at.
_WEIGHED_EVERY = 1.0
# How long children that have nothing left to do may take to end.
_ENDING = 5.0


class ProcessPool:
    """The children of a worker. Use it from the main thread.

    `greet` is called with each child before it is given tasks, `ready` once it may be, `settled`
    with outcomes, all in that child's thread. `lost` is given, in a thread of its own, what a
    child had in work when it ended. `failed` hears why no child can be started. `ending` tells
    whether the worker stops.
    """

    def __init__(
        self,
        options: WorkerOptions,
        *,
        processes: int,
        slots: Slots,
        dispatcher: Dispatcher,
        greet: Callable[[Child], None],
        ready: Callable[[], None],
        settled: Callable[[Sequence[tuple[Flight, Settlement]]], None],
        lost: Callable[[Child, Sequence[Flight]], None],
        failed: Callable[[ConfigurationError], None],
        ending: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        self.children: list[Child] = []
        self.processes = processes  # how many there should be
        self._options = options
        self._slots = slots
        self._dispatcher = dispatcher
        self._greet, self._ready = greet, ready
        self._settled, self._lost = settled, lost
        self._failed, self._ending, self._wake = failed, ending, wake
        self._gone: list[Child] = []
        self._restarts = Backoff(0.2, _LONGEST_PAUSE, jitter=0.0)
        self._weigh_at = 0.0
        self._autoscale: Autoscale | None = None
        if options.autoscale is not None:
            self._autoscale = self._between(*options.autoscale)
        self._is_elastic = self._autoscale is not None

    @property
    def retiring(self) -> bool:
        """Whether any child is to leave when its tasks have ended."""
        return any(child.retiring for child in self.children)

    def fill(self) -> None:
        """Start children until as many as asked for take tasks, or will.

        One that retires may take hours to end its last task; what is in hand must not wait for
        it. There may be as many of these as of the others, so that memory has a bound.
        """
        most = 2 * max(self.processes, self._options.processes)
        taking = sum(not child.retiring for child in self.children)
        while taking < self.processes and len(self.children) < most:
            try:
                child = Child(
                    self._options,
                    ready=self._on_ready,
                    settled=self._on_settled,
                    gone=self._on_gone,
                )
            except OSError as error:  # no memory, no file descriptors: what runs may still end
                self._failed(ConfigurationError(f"a child process cannot be started: {error}"))
                return
            self.children.append(child)
            taking += 1

    def look_after(self) -> None:
        """See which children have died, and let those that retire leave. Call now and then."""
        for child in self.children:
            child.look_after()
        self._bury_the_dead()
        self._dismiss_the_retired()

    def adapt(self, busy: int) -> None:
        """Scale to so many tasks in hand, and retire what has grown too big. Call now and then."""
        # While one is still starting there is nothing to be seen of what it changes.
        if self._autoscale is not None and self._ready_ones() >= self.processes:
            self.scale(self._autoscale.decide(time.monotonic(), busy, self.processes))
        if self._options.max_memory_per_child is not None:
            self._weigh(self._options.max_memory_per_child)

    def set_autoscale(self, most: int, fewest: int) -> None:
        """Let the processes be between these from now on."""
        self._autoscale = self._between(most, fewest)
        self.scale(min(most, max(fewest, self.processes)))

    def scale(self, processes: int) -> None:
        """Have so many processes.

        Those to come get work when they are ready; those to leave end what they run.
        """
        if processes == self.processes:
            return
        log.info("scaling from %d to %d processes", self.processes, processes)
        self.processes = processes
        self._is_elastic = True
        taking = sorted(
            (child for child in self.children if not child.retiring and not child.stopped),
            key=lambda child: len(child.flights),
        )
        for child in taking[: max(0, len(taking) - processes)]:
            child.retiring = True
        self._resize()

    def stop(self) -> None:
        """Let the children, which have nothing to do, leave, and wait for them."""
        for child in self.children:
            child.stop()
        self._end()

    def kill(self) -> None:
        """Kill the children with all they have in work."""
        for child in self.children:
            child.kill()
        self._end()
        for child in self.children:
            self._dispatcher.remove_child(child)

    def _between(self, most: int, fewest: int) -> Autoscale:
        idle, threads = self._options.autoscale_idle, self._options.threads
        return Autoscale(most=most, least=fewest, threads=threads, idle=idle)

    def _resize(self) -> None:
        """Take as many messages as the children that are ready have places for."""
        processes = min(self.processes, max(1, self._ready_ones()))
        self._slots.resize(processes * self._options.threads)

    def _ready_ones(self) -> int:
        return sum(child.ready and not child.retiring for child in self.children)

    def _weigh(self, most: int) -> None:
        """Have children that have grown past so many KiB replaced when their tasks have ended."""
        if time.monotonic() < self._weigh_at:
            return
        self._weigh_at = time.monotonic() + _WEIGHED_EVERY
        for child in self.children:
            if child.given and not child.retiring and not child.stopped:
                weight = memory_of(child.pid)
                if weight > most:
                    log.warning("child %d has %d KiB, over %d: replaced", child.pid, weight, most)
                    child.retiring = True

    def _end(self) -> None:
        deadline = time.monotonic() + _ENDING
        for child in self.children:
            while child.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            if child.process.poll() is None:
                child.kill()
            child.close()

    # ---- what children say, in threads of theirs

    def _on_ready(self, child: Child) -> None:
        self._restarts.succeeded()
        log.info("child %d is ready", child.pid)
        self._greet(child)
        self._dispatcher.add_child(child)
        if self._is_elastic:
            self._resize()
        self._ready()

    def _on_settled(self, child: Child, done: Sequence[tuple[Flight, Settlement]]) -> None:
        self._settled(done)
        self._dispatcher.finished(child, done)

    def _on_gone(self, child: Child) -> None:
        self._gone.append(child)
        self._wake()

    # ---- those that leave

    def _dismiss_the_retired(self) -> None:
        for child in self.children:
            if child.retiring and not child.flights and not child.stopped:
                log.info("child %d leaves after %d tasks", child.pid, child.given)
                child.stop()

    def _bury_the_dead(self) -> None:
        while self._gone:
            child = self._gone.pop()
            child.close()
            self.children.remove(child)
            left = self._dispatcher.remove_child(child)
            # Others are handed work here, which blocks where one does not read: this thread is
            # the one that can stop it.
            threading.Thread(
                target=self._lost, args=(child, left), name="after-death", daemon=True
            ).start()
            self._count(child)

    def _count(self, child: Child) -> None:
        """Give up, or pause, when children die before they are ready."""
        if child.ready or self._ending():
            return
        pause = self._restarts.failed()
        if self._restarts.failures >= _MOST_YOUNG_DEATHS:
            self._failed(
                ConfigurationError(
                    f"{self._restarts.failures} children died while starting, the last with exit "
                    f"code {child.process.returncode}: see the errors above"
                )
            )
            return
        time.sleep(pause)
