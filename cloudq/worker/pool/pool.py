"""Starts, replaces, scales and ends the child processes of a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from operator import attrgetter

from cloudq.amounts import counted
from cloudq.clock import Backoff
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError
from cloudq.execution.settlement import Action, Settlement
from cloudq.worker.control.ledger import Ledger
from cloudq.worker.in_flight import Flight
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pace import Pace
from cloudq.worker.pool.autoscale import Autoscale, memory_of
from cloudq.worker.pool.child_handle import Child
from cloudq.worker.pool.crashes import Crashes
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.pool.fork_server import ForkServer
from cloudq.worker.pool.frozen import Frozen
from cloudq.worker.pool.pipe import PackedEnds
from cloudq.worker.pool.self_pipe import Shutdown
from cloudq.worker.pool.suspects import has_room
from cloudq.worker.settler import Settler
from cloudq.worker.slots import Slots

log = Log("cloudq.worker")

# After this many children in a row that died before they were ready, the worker gives up.
_MOST_YOUNG_DEATHS = 5
# The longest pause before the next of these, in seconds.
_LONGEST_PAUSE = 1.6
# Seconds between two looks at the memory of the children.
_WEIGHED_EVERY = 1.0
# Seconds that idle children may take to end.
_ENDING = 5.0


class ProcessPool:
    """The child processes of a worker. Use it from the main thread.

    `ready` is called whenever a child may be given tasks, in that child's thread.
    """

    def __init__(
        self,
        options: WorkerOptions,
        forks: ForkServer,
        *,
        slots: Slots,
        pace: Pace,
        dispatcher: Dispatcher,
        settler: Settler,
        crashes: Crashes,
        shutdown: Shutdown,
        ready: Callable[[], None],
        ledger: Ledger,
    ) -> None:
        self.children: list[Child] = []
        self.processes = options.at_start  # how many there should be
        self._options = options
        self._slots = slots
        self._pace = pace
        self._dispatcher = dispatcher
        self._settler = settler
        self._crashes = crashes
        self._shutdown = shutdown
        self._ready = ready
        self._ledger = ledger
        self._forks = forks
        self._gone: list[Child] = []
        self._limits: dict[str, tuple[float | None, float | None]] = {}
        self._restarts = Backoff(0.2, _LONGEST_PAUSE, jitter=0.0)
        self._weigh_at = 0.0
        self._frozen = Frozen(options.lease)
        self._autoscale: Autoscale | None = None
        if options.autoscale is not None:
            self._autoscale = self._between(*options.autoscale)
        self._is_elastic = self._autoscale is not None

    @property
    def retiring(self) -> bool:
        """True while a child only ends what it runs, to leave then."""
        return any(child.retiring for child in self.children)

    def fill(self) -> None:
        """Start children until as many as there should be take tasks, or will.

        A retiring child may take hours to end its last task, and is not waited for. There may be
        as many of these as of the others, so that memory has a bound. For suspects there is one
        child more, a new one for each; several when their calls last.
        """
        most = 2 * max(self.processes, self._options.processes)
        common = [child for child in self.children if not child.alone]
        missing = self.processes - sum(not child.retiring for child in common)
        for _ in range(min(missing, most - len(common))):
            self._start()
        if self._dispatcher.suspects and self._has_room_for_a_suspect():
            self._start(alone=True)

    def _has_room_for_a_suspect(self) -> bool:
        lone = [child for child in self.children if child.alone and not child.stopped]
        begun = [child.given_at if child.flights else None for child in lone]
        return has_room(begun, time.monotonic(), self.processes * self._options.threads)

    def _start(self, *, alone: bool = False) -> None:
        if self._shutdown.error is not None:
            return
        try:
            child = Child(
                self._options,
                self._forks,
                alone=alone,
                ready=self._on_ready,
                settled=self._on_settled,
                ended=self._on_ended,
                flight=self._dispatcher.flight,
                gone=self._on_gone,
                spent=self._ledger.take_in,
            )
        except OSError as error:  # no memory, no file descriptors: what runs may still end
            failure = ConfigurationError(f"a child process cannot be started: {error}")
            self._shutdown.fail(failure)
        else:
            self.children.append(child)

    def check(self) -> None:
        """Replace children that have died, and end those that have retired. Call now and then."""
        for child in self.children:
            child.check()
        self._end_the_frozen()
        self._remove_the_dead()
        self._stop_the_retired()

    def adapt(self, busy: int) -> None:
        """Scale to `busy` tasks, and retire children with too much memory. Call now and then."""
        # While a child is still starting, its effect cannot be seen.
        if self._autoscale is not None and self._ready_ones() >= self.processes:
            self.scale(self._autoscale.decide(time.monotonic(), busy, self.processes))
        if self._options.max_memory_per_child is not None:
            self._weigh(self._options.max_memory_per_child)

    def set_autoscale(self, most: int, fewest: int) -> None:
        """Scale between these numbers of processes from now on."""
        self._autoscale = self._between(most, fewest)
        self.scale(min(most, max(fewest, self.processes)))

    def scale(self, processes: int) -> None:
        """Change the number of processes.

        New ones get tasks once they are ready, those that leave first end what they run.
        """
        if processes == self.processes:
            return
        log.info("scaling from %d to %d processes", self.processes, processes)
        self.processes = processes
        self._is_elastic = True
        taking = sorted(
            (c for c in self.children if not (c.retiring or c.stopped or c.alone)),
            key=attrgetter("busy"),
        )
        for child in taking[: max(0, len(taking) - processes)]:
            child.retiring = True
        self._resize()

    def limit(self, task: str, soft: float | None, hard: float | None) -> None:
        """Tell all children, also those to come, a task's new time limits. From any thread."""
        self._limits[task] = soft, hard
        for child in self.children:
            if child.ready:
                child.limit(task, soft, hard)

    def stop(self) -> None:
        """Tell the children, which are idle, to leave, and wait until they have."""
        for child in self.children:
            child.stop()
        self._end()

    def kill(self) -> None:
        """Kill the children with all that they run."""
        for child in self.children:
            child.kill()
        self._end()
        for child in self.children:
            self._dispatcher.remove_child(child)

    def _between(self, most: int, fewest: int) -> Autoscale:
        idle, threads = self._options.autoscale_idle, self._options.threads
        return Autoscale(most=most, least=fewest, threads=threads, idle=idle)

    def _resize(self) -> None:
        """Have as many slots as the ready children have threads."""
        processes = min(self.processes, max(1, self._ready_ones()))
        self._slots.resize(processes * self._options.threads)

    def _ready_ones(self) -> int:
        return sum(c.ready and not (c.retiring or c.alone) for c in self.children)

    def _weigh(self, most: int) -> None:
        """Retire children that use more KiB of memory than `most`."""
        if time.monotonic() < self._weigh_at:
            return
        self._weigh_at = time.monotonic() + _WEIGHED_EVERY
        for child in self.children:
            if child.given and not child.retiring and not child.stopped:
                weight = memory_of(child.pid)
                if weight > most:
                    log.warning(
                        "child %d uses %d KiB of memory, more than %d: it is replaced",
                        child.pid,
                        weight,
                        most,
                    )
                    child.retiring = True

    def _end(self) -> None:
        deadline = time.monotonic() + _ENDING
        for child in self.children:
            while child.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            if child.process.poll() is None:
                child.kill()
            child.close()

    # ---- called by children, each in its own thread

    def _on_ready(self, child: Child) -> None:
        self._restarts.succeeded()
        log.info("child %d is ready", child.pid)
        for task, limits in list(self._limits.items()):
            child.limit(task, *limits)
        self._dispatcher.add_child(child)
        if self._is_elastic:
            self._resize()
        self._ready()

    def _on_settled(self, child: Child, done: Sequence[tuple[Flight, Settlement]]) -> None:
        self._pace.did(flight for flight, end in done if end.action is not Action.RELEASE)
        self._slots.ran()
        self._settler.settle(done)
        self._dispatcher.finished(child, done)

    def _on_ended(self, child: Child, batch: Sequence[PackedEnds]) -> None:
        plain, single = self._dispatcher.ended(child, batch)
        times: dict[str, list[float]] = {}
        for each in plain:
            queue = each.tray.parcel.whole.queue
            times.setdefault(queue, []).extend([end[4] for end in each.ends])
        self._pace.took(times)
        self._settler.settle_plain(plain)
        self._on_settled(child, single)

    def _on_gone(self, child: Child) -> None:
        self._gone.append(child)
        self._shutdown.wake()

    # ---- children that end

    def _end_the_frozen(self) -> None:
        """Kill those that a signal has stopped for as long as a lease: they count as dead."""
        frozen = self._frozen.look([child.pid for child in self.children], time.monotonic())
        for child in self.children:
            if child.pid in frozen:
                log.error("child %d was stopped by a signal and does not go on", child.pid)
                child.kill()

    def _stop_the_retired(self) -> None:
        self._dispatcher.retire_idle()
        for child in self.children:
            if child.retiring and not child.busy and not child.stopped:
                log.info("child %d leaves after %s", child.pid, counted(child.given, "task"))
                child.stop()

    def _remove_the_dead(self) -> None:
        while self._gone:
            child = self._gone.pop()
            child.close()
            self.children.remove(child)
            left = self._dispatcher.remove_child(child)
            # This hands jobs to other children, and blocks while one does not read. Only the main
            # thread can kill that one, so it must not wait here.
            threading.Thread(
                target=self._crashes.settle, args=(child, left), name="crash", daemon=True
            ).start()
            self._count(child)

    def _count(self, child: Child) -> None:
        """Pause, and in the end give up, when children die before they are ready."""
        if child.ready or self._shutdown.requested:
            return
        pause = self._restarts.failed()
        if self._restarts.failures >= _MOST_YOUNG_DEATHS:
            self._shutdown.fail(
                ConfigurationError(
                    f"{self._restarts.failures} children died while starting, the last with exit "
                    f"code {child.process.returncode}: see the errors above"
                )
            )
            return
        time.sleep(pause)
