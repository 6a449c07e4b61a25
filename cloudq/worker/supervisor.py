"""The worker: its parts, its start, and its stop, warm or cold."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from cloudq import signals
from cloudq.app import CloudQ
from cloudq.driver import Code
from cloudq.errors import BackendError, BrokerError, CloudQError, ConfigurationError
from cloudq.schedules.beat import Beat, BeatThread
from cloudq.worker.banner import banner
from cloudq.worker.control.actions import Actions
from cloudq.worker.control.metrics import Page
from cloudq.worker.delayed import DelayedSender
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.leases import Leases
from cloudq.worker.options import WorkerOptions
from cloudq.worker.poller import Poller
from cloudq.worker.pool.crashes import Crashes, given_back, hard_limit
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.pool.pool import ProcessPool
from cloudq.worker.pool.self_pipe import SelfPipe
from cloudq.worker.settler import Settler
from cloudq.worker.slots import Slots

log = logging.getLogger("cloudq.worker")

# Messages come by the thousand and hold each other in no cycles.
_COLLECTED = 10_000
_TICK = 0.05
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
        # With autoscaling it begins with the fewest.
        processes = options.autoscale[1] if options.autoscale else options.processes
        self._slots = Slots(processes * options.threads, dict(options.queues))
        self._executor = app.executor(hostname=options.hostname)
        self._leases = Leases(app.broker, self._flights, options.lease)
        self._settler = Settler(
            app, released=self._out_of_hand, starved=lambda: self._slots.free <= 0
        )
        self._dispatcher = Dispatcher(
            limit_of=lambda flight: hard_limit(self._executor, flight),
            ordered=lambda queue: app.broker.limits(queue).ordered,
            release=self._release,
            max_tasks_per_child=options.max_tasks_per_child,
            end=lambda flights: self._actions.end(flights),
        )
        self._parked = DelayedSender(
            app.broker,
            [queue for queue, _ in options.queues],
            poll=app.conf.worker_parked_poll,
        )
        self._pollers = [self._poller(queue) for queue, _ in options.queues]
        self._signals = 0
        self._last_signal = ""
        self._was_ready = False
        self._failure: CloudQError | None = None
        self._pipe = SelfPipe()
        self._crashes = Crashes(
            self._executor, self._dispatcher, lambda done: self._actions.settle(done)
        )
        self._pool = ProcessPool(
            options,
            processes=processes,
            slots=self._slots,
            dispatcher=self._dispatcher,
            greet=lambda child: self._actions.tell_limits(child),
            ready=self._on_ready,
            settled=lambda done: self._actions.settle(done),
            lost=self._crashes.settle,
            failed=self._on_failed,
            ending=lambda: bool(self._signals) or self._failure is not None,
            wake=self._pipe.wake,
        )
        self._actions = Actions(
            app=app,
            options=options,
            executor=self._executor,
            flights=self._flights,
            slots=self._slots,
            dispatcher=self._dispatcher,
            parked=self._parked,
            pool=self._pool,
            pollers=self._pollers,
            poller=self._poller,
            settle=self._settler.settle,
            stop=self._request_stop,
            wake=self._pipe.wake,
        )
        self._heartbeat = self._actions.heartbeat()
        self._beat: BeatThread | None = None
        if options.beat:
            self._beat = BeatThread(Beat(app.schedules, hostname=options.hostname))

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
            self._pipe.close()
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
        return Page(self._actions, host=self._options.metrics_host, port=port)

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
        # What is loaded by now stays: to look through it again at each collection is lost time.
        gc.freeze()
        gc.set_threshold(_COLLECTED)
        self._leases.start()
        self._settler.start()
        self._parked.start()
        self._pool.fill()
        for poller in self._pollers:
            poller.start()
        self._heartbeat.start()
        if self._beat is not None:
            self._beat.start()

    def _tick(self) -> None:
        timed = self._dispatcher.timed or self._pool.retiring
        self._pipe.sleep(_TICK if timed else _PATIENCE)
        self._look_after_children()
        self._pool.adapt(len(self._flights))
        if self._failure is None:
            self._pool.fill()

    def _look_after_children(self) -> None:
        self._actions.obey()
        self._crashes.stop_overdue()
        self._pool.look_after()

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
            self._pipe.sleep(_TICK)
            self._look_after_children()
        self._pool.stop()
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
        self._pool.kill()
        back = [flight for flight in self._flights.all() if not flight.settling]
        self._release(back, "the worker was stopped")
        deadline = time.monotonic() + 3.0
        while self._flights and time.monotonic() < deadline:
            self._pipe.sleep(_TICK)
        self._heartbeat.stop()
        self._settler.stop()
        self._leases.stop()
        return False

    def _on_ready(self) -> None:
        if not self._was_ready:
            self._was_ready = True
            if signals.worker_ready:
                signals.worker_ready.send(self)

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
            settle=lambda done: self._actions.settle(done),
            release=self._release,
            fatal=fatal or self._on_fatal,
            lease=self._options.lease,
            wait=self._options.poll_wait,
        )

    def _release(self, flights: Sequence[Flight], reason: str) -> None:
        self._settler.settle([(flight, given_back(flight, reason)) for flight in flights])

    def _out_of_hand(self, flights: Sequence[Flight]) -> None:
        self._flights.remove(flights)
        self._slots.give(len(flights))
        if self._signals:
            self._pipe.wake()

    # ---- what ends it

    def _on_fatal(self, error: BrokerError) -> None:
        self._failure = error
        self._pipe.wake()

    def _on_failed(self, error: ConfigurationError) -> None:
        self._failure = error

    def _request_stop(self) -> None:
        self._signals = max(self._signals, 1)
        self._pipe.wake()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._last_signal = signal.Signals(number).name
        self._pipe.wake()
