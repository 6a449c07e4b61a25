"""The worker: pollers, leases and settling in this process, tasks in children it looks after."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from cloudq import signals
from cloudq.app import CloudQ
from cloudq.driver import Code
from cloudq.errors import (
    BackendError,
    BrokerError,
    CloudQError,
    ConfigurationError,
    TimeLimitExceeded,
)
from cloudq.schedules.beat import Beat, BeatThread
from cloudq.settlement import Action, Settlement
from cloudq.worker.banner import banner
from cloudq.worker.children import Child
from cloudq.worker.dispatcher import Dispatcher
from cloudq.worker.flight import Flight, Flights
from cloudq.worker.growth import Autoscale, memory_of
from cloudq.worker.leases import Leases
from cloudq.worker.metrics import Page
from cloudq.worker.options import WorkerOptions
from cloudq.worker.parked import Parked
from cloudq.worker.poller import Poller
from cloudq.worker.reins import Reins
from cloudq.worker.settler import Settler
from cloudq.worker.slots import Slots

log = logging.getLogger("cloudq.worker")

# How soon a message whose child died may be received again.
_LOST_AFTER = 1.0
# After so many children in a row that died before they were ready none ever will be.
_MOST_YOUNG_DEATHS = 5
# A task whose neighbours are stopped so often goes back to its queue, where that is counted.
_MOST_RESTARTS = 3
_TICK = 0.05
# How often the children's memory is looked at.
_WEIGHED_EVERY = 1.0
_PATIENCE = 0.2


class Worker:
    """Runs an app's tasks until it is told to stop.

    The first SIGTERM or SIGINT stops it warm: nothing more is received, what has not started
    goes back, what runs may end within the grace time. The second stops it cold: children are
    killed and their messages go back.
    """

    def __init__(self, app: CloudQ, options: WorkerOptions) -> None:
        self._app = app
        self._options = options
        self._flights = Flights()
        self._autoscale: Autoscale | None = None
        if options.autoscale is not None:
            self._autoscale = self._scale_between(*options.autoscale)
        self._is_elastic = self._autoscale is not None
        processes = options.processes if self._autoscale is None else self._autoscale.least
        self._weigh_at = 0.0
        self._slots = Slots(processes * options.threads, dict(options.queues))
        self._executor = app.executor(hostname=options.hostname)
        self._leases = Leases(app.broker, self._flights, options.lease)
        self._settler = Settler(
            app, released=self._out_of_hand, starved=lambda: self._slots.free <= 0
        )
        self._dispatcher = Dispatcher(
            limit_of=self._limit_of,
            ordered=lambda queue: app.broker.limits(queue).ordered,
            release=self._release,
            max_tasks_per_child=options.max_tasks_per_child,
            end=lambda flights: self._reins.end(flights),
        )
        self._parked = Parked(
            app.broker,
            [queue for queue, _ in options.queues],
            poll=app.conf.worker_parked_poll,
        )
        self._pollers = [self._poller(queue) for queue, _ in options.queues]
        self._children: list[Child] = []
        self._gone: list[Child] = []
        self._signals = 0
        self._last_signal = ""
        self._was_ready = False
        self._failure: CloudQError | None = None
        self._young_deaths = 0
        self._reins = Reins(
            app=app,
            options=options,
            executor=self._executor,
            flights=self._flights,
            slots=self._slots,
            dispatcher=self._dispatcher,
            parked=self._parked,
            children=self._children,
            processes=processes,
            scale=self._scale,
            autoscale=self._set_autoscale,
            pollers=self._pollers,
            poller=self._poller,
            settle=self._settler.settle,
            stop=self._request_stop,
            wake=self._wake,
        )
        self._heartbeat = self._reins.heartbeat()
        self._beat: BeatThread | None = None
        if options.beat:
            self._beat = BeatThread(Beat(app, app.schedules, hostname=options.hostname))
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)

    def run(self) -> int:
        """Work until stopped; the exit code: 0 after a warm stop, 1 after a cold one.

        Call from the main thread. Raises `ConfigurationError`, `BrokerError` or `BackendError`
        when the queues or the store cannot be used from the start.
        """
        self._check_store()
        page = self._metrics_page()
        if signals.worker_init:
            signals.worker_init.send(self)
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        for line in banner(self._app, self._options):
            log.info("%s", line)
        try:
            self._start()
            while not self._signals and self._failure is None:
                self._tick()
            warm = self._stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(self._wake_reader)
            os.close(self._wake_writer)
            if page is not None:
                page.close()
            if signals.worker_shutdown:
                signals.worker_shutdown.send(self)
        if self._failure is not None:
            raise self._failure
        return 0 if warm else 1

    # ---- life

    def _metrics_page(self) -> Page | None:
        port = self._options.metrics_port
        if port is None:
            return None
        return Page(self._reins, host=self._options.metrics_host, port=port)

    def _check_store(self) -> None:
        """Find a missing table or missing rights now; a store that is only down may come back."""
        backend = self._app.backend
        if backend is None:
            return
        try:
            backend.record("-")
        except BackendError as error:
            if error.code not in (Code.UNREACHABLE, Code.THROTTLED):
                raise
            log.warning("the store is not there yet: %s", error)

    def _start(self) -> None:
        self._leases.start()
        self._settler.start()
        self._parked.start()
        self._fill()
        for poller in self._pollers:
            poller.start()
        self._heartbeat.start()
        if self._beat is not None:
            self._beat.start()

    def _tick(self) -> None:
        self._sleep(_TICK if self._dispatcher.timed or self._retiring() else _PATIENCE)
        self._look_after_children()
        # While one is still starting there is nothing to be seen of what it changes.
        if self._autoscale is not None and self._ready() >= self._reins.processes:
            now = time.monotonic()
            self._scale(self._autoscale.decide(now, len(self._flights), self._reins.processes))
        if self._options.max_memory_per_child is not None:
            self._weigh(self._options.max_memory_per_child)
        if self._failure is None:
            self._fill()

    def _scale_between(self, most: int, fewest: int) -> Autoscale:
        idle, threads = self._options.autoscale_idle, self._options.threads
        return Autoscale(most=most, least=fewest, threads=threads, idle=idle)

    def _set_autoscale(self, most: int, fewest: int) -> None:
        """Let the processes be between these from now on. Call from the main thread."""
        self._autoscale = self._scale_between(most, fewest)
        self._scale(min(most, max(fewest, self._reins.processes)))

    def _scale(self, processes: int) -> None:
        """Have so many processes. Call from the main thread.

        Those to come get work when they are ready; those to leave end what they run.
        """
        if processes == self._reins.processes:
            return
        log.info("scaling from %d to %d processes", self._reins.processes, processes)
        self._reins.processes = processes
        self._is_elastic = True
        taking = sorted(
            (child for child in self._children if not child.retiring and not child.stopped),
            key=lambda child: len(child.flights),
        )
        for child in taking[: max(0, len(taking) - processes)]:
            child.retiring = True
        self._resize()

    def _resize(self) -> None:
        """Take as many messages as the children that are ready have places for."""
        processes = min(self._reins.processes, max(1, self._ready()))
        self._slots.resize(processes * self._options.threads)

    def _ready(self) -> int:
        return sum(child.ready and not child.retiring for child in self._children)

    def _weigh(self, most: int) -> None:
        """Have children that have grown past so many KiB replaced when their tasks have ended."""
        if time.monotonic() < self._weigh_at:
            return
        self._weigh_at = time.monotonic() + _WEIGHED_EVERY
        for child in self._children:
            if child.given and not child.retiring and not child.stopped:
                weight = memory_of(child.pid)
                if weight > most:
                    log.warning("child %d has %d KiB, over %d: replaced", child.pid, weight, most)
                    child.retiring = True

    def _stop(self) -> bool:
        """Stop warm if time and patience allow; whether it was."""
        asked = self._signals
        if self._beat is not None:
            self._beat.stop()
        if signals.worker_shutting_down:
            signals.worker_shutting_down.send(self, sig=self._last_signal, how="Warm", exitcode=0)
        log.info("stopping: no more is received, %d tasks in hand", len(self._flights))
        deadline = time.monotonic() + self._options.grace
        for poller in self._pollers:
            poller.stop()
        self._parked.stop()
        self._slots.close()
        self._dispatcher.close()
        said = False
        while self._flights or self._receiving():
            if self._signals > max(asked, 1) or time.monotonic() > deadline:
                if not self._flights:
                    log.warning("left a receive under way: a message it gets comes back by lease")
                    break
                return self._stop_cold()
            if not self._flights and not said:
                said = True
                log.info(
                    "waiting for the receive under way on %s, up to %g s; stop again to leave now",
                    ", ".join(self._receiving()),
                    self._options.poll_wait,
                )
            self._sleep(_TICK)
            self._look_after_children()
        for child in self._children:
            child.stop()
        self._end_children()
        self._heartbeat.stop()
        self._settler.stop()
        self._leases.stop()
        self._app.close()
        log.info("stopped")
        return True

    def _receiving(self) -> list[str]:
        """The queues with a receive that has not come back yet."""
        return [poller.queue for poller in self._pollers if poller.thread.is_alive()]

    def _stop_cold(self) -> bool:
        log.warning("stopping cold: %d tasks go back to their queues", len(self._flights))
        for child in self._children:
            child.kill()
        self._end_children()
        for child in self._children:
            self._dispatcher.remove_child(child)
        back = [flight for flight in self._flights.all() if not flight.settling]
        self._release(back, "the worker was stopped")
        deadline = time.monotonic() + 3.0
        while self._flights and time.monotonic() < deadline:
            self._sleep(_TICK)
        self._heartbeat.stop()
        self._settler.stop()
        self._leases.stop()
        return False

    def _end_children(self) -> None:
        deadline = time.monotonic() + 5.0
        for child in self._children:
            while child.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            if child.process.poll() is None:
                child.kill()
            child.close()

    # ---- children

    def _fill(self) -> None:
        """Start children until as many as asked for take tasks, or will.

        One that retires may take hours to end its last task; what is in hand must not wait for
        it. There may be as many of these as of the others, so that memory has a bound.
        """
        most = 2 * max(self._reins.processes, self._options.processes)
        taking = sum(not child.retiring for child in self._children)
        while taking < self._reins.processes and len(self._children) < most:
            try:
                child = Child(
                    self._options,
                    ready=self._on_ready,
                    settled=self._on_settled,
                    gone=self._on_gone,
                )
            except OSError as error:  # no memory, no file descriptors: what runs may still end
                self._failure = ConfigurationError(f"a child process cannot be started: {error}")
                return
            self._children.append(child)
            taking += 1

    def _look_after_children(self) -> None:
        self._reins.obey()
        self._stop_the_overdue()
        for child in self._children:
            child.look_after()
        self._bury_the_dead()
        self._dismiss_the_retired()

    def _on_ready(self, child: Child) -> None:
        self._young_deaths = 0
        log.info("child %d is ready", child.pid)
        self._reins.tell_limits(child)
        self._dispatcher.add_child(child)
        if self._is_elastic:
            self._resize()
        if not self._was_ready:
            self._was_ready = True
            if signals.worker_ready:
                signals.worker_ready.send(self)

    def _on_settled(self, child: Child, done: Sequence[tuple[Flight, Settlement]]) -> None:
        self._reins.settle(done)
        self._dispatcher.finished(child, done)

    def _on_gone(self, child: Child) -> None:
        self._gone.append(child)
        self._wake()

    def _retiring(self) -> bool:
        return any(child.retiring for child in self._children)

    def _dismiss_the_retired(self) -> None:
        for child in self._children:
            if child.retiring and not child.flights and not child.stopped:
                log.info("child %d leaves after %d tasks", child.pid, child.given)
                child.stop()

    def _bury_the_dead(self) -> None:
        while self._gone:
            child = self._gone.pop()
            child.close()
            self._children.remove(child)
            left = self._dispatcher.remove_child(child)
            # Others are handed work here, which blocks where one does not read: this thread is
            # the one that can stop it.
            threading.Thread(
                target=self._after_death, args=(child, left), name="after-death", daemon=True
            ).start()
            self._count(child)

    def _after_death(self, child: Child, left: Sequence[Flight]) -> None:
        if child.killed_for:
            for culprit in child.killed_for:
                self._time_limit_exceeded(culprit)
            others = [flight for flight in left if flight not in child.killed_for]
            for flight in others:
                flight.restarts += 1
            self._dispatcher.again([f for f in others if f.restarts <= _MOST_RESTARTS])
            left = [flight for flight in others if flight.restarts > _MOST_RESTARTS]
            if not left:
                return
        elif not child.stopped:
            log.error(
                "child %d died (exit code %s) with %d tasks: they come back",
                child.pid,
                child.process.returncode,
                len(left),
            )
        lost = [(f, _back(f, "its process died", after=_LOST_AFTER)) for f in left]
        self._reins.settle(lost)
        self._dispatcher.finished(None, lost)

    def _count(self, child: Child) -> None:
        """Give up, or pause, when children die before they are ready."""
        if child.ready or self._signals or self._failure is not None:
            return
        self._young_deaths += 1
        if self._young_deaths >= _MOST_YOUNG_DEATHS:
            self._failure = ConfigurationError(
                f"{self._young_deaths} children died while starting, the last with exit code "
                f"{child.process.returncode}: see the errors above"
            )
            return
        time.sleep(0.1 * 2**self._young_deaths)

    # ---- time limits

    def _limit_of(self, flight: Flight) -> float | None:
        return self._executor.limits(flight.job.message)[1] if flight.job else None

    def _stop_the_overdue(self) -> None:
        for child, flight in self._dispatcher.overdue(time.monotonic()):
            if flight not in child.killed_for:
                child.killed_for.append(flight)
                child.kill()

    def _time_limit_exceeded(self, flight: Flight) -> None:
        if flight.job is None or flight.settling:
            return
        if flight.revoked:
            log.warning("task %s was terminated; its process is replaced", flight.job.message.id)
            done = [(flight, self._executor.revoked(flight.job, "terminated"))]
            self._reins.settle(done)
            self._dispatcher.finished(None, done)
            return
        limit = self._limit_of(flight)
        error = TimeLimitExceeded(f"{flight.job.message.task} ran longer than {limit:g} s")
        log.error("task %s: %s; its process was replaced", flight.job.message.id, error)
        done = [(flight, self._executor.stopped(flight.job, error))]
        self._reins.settle(done)
        self._dispatcher.finished(None, done)

    # ---- flights

    def _poller(self, queue: str, fatal: Callable[[BrokerError], None] | None = None) -> Poller:
        return Poller(
            queue,
            broker=self._app.broker,
            executor=self._executor,
            flights=self._flights,
            slots=self._slots,
            leases=self._leases,
            dispatcher=self._dispatcher,
            settle=lambda done: self._reins.settle(done),
            release=self._release,
            fatal=fatal or self._on_fatal,
            lease=self._options.lease,
            wait=self._options.poll_wait,
        )

    def _release(self, flights: Sequence[Flight], reason: str) -> None:
        self._settler.settle([(flight, _back(flight, reason)) for flight in flights])

    def _out_of_hand(self, flights: Sequence[Flight]) -> None:
        self._flights.remove(flights)
        self._slots.give(len(flights))
        if self._signals:
            self._wake()

    # ---- waking the main thread

    def _on_fatal(self, error: BrokerError) -> None:
        self._failure = error
        self._wake()

    def _request_stop(self) -> None:
        self._signals = max(self._signals, 1)
        self._wake()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._last_signal = signal.Signals(number).name
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_writer, b"!")
        except BlockingIOError:
            return  # it is being woken already

    def _sleep(self, longest: float) -> None:
        if select.select([self._wake_reader], [], [], longest)[0]:
            os.read(self._wake_reader, 4096)


def _back(flight: Flight, reason: str, after: float = 0.0) -> Settlement:
    message = flight.job.message if flight.job else None
    return Settlement(
        action=Action.RELEASE,
        task_id=message.id if message else "",
        task=message.task if message else "",
        reason=reason,
        after=after,
    )
