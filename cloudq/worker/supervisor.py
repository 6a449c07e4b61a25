"""Puts a worker together, runs it, and stops it, warm or cold."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Sequence

from cloudq import signals
from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.driver import Code, EndsReceives
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.errors import BackendError
from cloudq.execution.consume import Consumer
from cloudq.execution.executor import Executor
from cloudq.schedules.beat import Beat, BeatThread
from cloudq.worker.control.actions import Actions
from cloudq.worker.control.commands import WorkerCommands
from cloudq.worker.control.counters import Counters
from cloudq.worker.control.heartbeat import HeartbeatSender
from cloudq.worker.control.ledger import Ledger
from cloudq.worker.control.metrics import MetricsServer
from cloudq.worker.delayed import DelayedSender
from cloudq.worker.in_flight import Flight, Flights, Tray
from cloudq.worker.leases import Leases
from cloudq.worker.logs import banner
from cloudq.worker.opener import Opener
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pace import Pace
from cloudq.worker.poller import Poller, WorkerParts
from cloudq.worker.pool.crashes import Crashes
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.pool.fork_server import ForkServer
from cloudq.worker.pool.pool import ProcessPool
from cloudq.worker.pool.self_pipe import Shutdown
from cloudq.worker.settler import Settler
from cloudq.worker.shares import STALLED
from cloudq.worker.slots import Slots

log = Log("cloudq.worker")

# The garbage collector runs less often: messages come by the thousand and form no cycles.
_COLLECTED = 10_000
# Seconds between two looks at the children, while a task has a limit or a child retires, and else.
_TICK = 0.05
_PATIENCE = 0.2
# Seconds from a stop in which a receive under way comes back, if no task runs for longer.
_PARTING = 2.5


def _beat_thread(app: CloudQ, options: WorkerOptions) -> BeatThread | None:
    """Make the beat of a worker that was started with one."""
    if not options.beat:
        return None
    return BeatThread(Beat(app.schedules, hostname=options.hostname))


class Worker:
    """Runs an app's tasks until it is told to stop.

    The first SIGTERM or SIGINT stops it warm: it receives nothing more, gives back what has not
    started, and lets running tasks end within the grace time. The second stops it cold: it kills
    the children and gives their messages back. Without `forks` each child imports the app.
    """

    _was_ready = False

    def __init__(
        self, app: CloudQ, options: WorkerOptions, forks: ForkServer | None = None
    ) -> None:
        queues = [queue for queue, _ in options.queues]
        self._app, self._options = app, options
        self._shutdown = Shutdown()
        self._flights = Flights()
        weights = dict(options.queues)
        self._pace = Pace(options.prefetch)
        self._slots = Slots(options.at_start * options.threads, weights, self._pace)
        executor = app.executor(hostname=options.hostname)
        ledger = Ledger(app.runtime, Counters(executor.tasks))
        self._leases = Leases(app.broker, self._flights, options.lease, wake=self._shutdown.wake)
        self._settler = Settler(
            Consumer(executor, log=log),
            released=self._forget,
            ended=self._forget_plain,
            starved=self._slots.starved,
            counters=ledger.counters,
        )
        self._dispatcher = Dispatcher(
            executor=executor,
            broker=app.broker,
            settler=self._settler,
            max_tasks_per_child=options.max_tasks_per_child,
            weights=weights,
        )
        self._crashes = Crashes(executor, self._dispatcher, self._settler)
        self._delayed = DelayedSender(app.broker, queues, poll=app.conf.worker_parked_poll)
        self._pool = ProcessPool(
            options,
            forks or ForkServer(app, options, None),
            slots=self._slots,
            pace=self._pace,
            dispatcher=self._dispatcher,
            settler=self._settler,
            crashes=self._crashes,
            shutdown=self._shutdown,
            ready=self._on_ready,
            ledger=ledger,
        )
        self._opener = Opener(
            executor, app.broker, self._dispatcher, self._settler, self._flights, self._slots
        )
        parts = self._parts(executor, ledger)
        self._pollers = [Poller(queue, parts) for queue in queues]
        self._actions = Actions(
            parts, pool=self._pool, delayed=self._delayed, pollers=self._pollers
        )
        commands = WorkerCommands(self._actions)
        self._heartbeat = HeartbeatSender(
            heart=commands.heart,
            run=commands.run,
            every=app.conf.worker_heartbeat,
            ledger=ledger,
            heed=self._actions.heed_pauses,
        )
        self._beat = _beat_thread(app, options)

    def _parts(self, executor: Executor, ledger: Ledger) -> WorkerParts:
        return WorkerParts(
            app=self._app,
            options=self._options,
            executor=executor,
            flights=self._flights,
            slots=self._slots,
            pace=self._pace,
            leases=self._leases,
            dispatcher=self._dispatcher,
            settler=self._settler,
            opener=self._opener,
            ledger=ledger,
            shutdown=self._shutdown,
        )

    def run(self) -> int:
        """Work until stopped, and return the exit code: 0 after a warm stop, 1 after a cold one.

        Call from the main thread. Raises `ConfigurationError`, `BrokerError` or `BackendError`
        when the queues or the store cannot be used from the start.
        """
        self._check_store()
        page = self._metrics_page()
        if signals.worker_init:
            signals.worker_init.send(self)
        previous = {
            s: signal.signal(s, self._shutdown.on_signal) for s in (signal.SIGTERM, signal.SIGINT)
        }
        for line in banner(self._app, self._options):
            log.info("%s", line)
        try:
            self._start()
            while not self._shutdown.requested:
                self._tick()
            warm = self._stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._shutdown.close()
            if page is not None:
                page.close()
            if signals.worker_shutdown:
                signals.worker_shutdown.send(self)
        if self._shutdown.error is not None:
            raise self._shutdown.error
        return 0 if warm else 1

    # ---- start, ticks, stop

    def _metrics_page(self) -> MetricsServer | None:
        port = self._options.metrics_port
        if port is None:
            return None
        return MetricsServer(self._actions, host=self._options.metrics_host, port=port)

    def _check_store(self) -> None:
        """Raise for a missing table or missing rights; a store that is only down may come back."""
        backend = self._app.backend
        if backend is None:
            return
        try:
            backend.record("-")
        except BackendError as error:
            if error.code not in (Code.UNREACHABLE, Code.THROTTLED):
                raise
            log.warning("the result store does not answer yet: %s", error)

    def _start(self) -> None:
        # What is loaded by now stays, so the garbage collector need not look through it again.
        gc.freeze()
        gc.set_threshold(_COLLECTED)
        self._leases.start()
        self._settler.start()
        self._delayed.start()
        self._pool.fill()
        self._heartbeat.read_pauses(self._app.backend)
        for poller in self._pollers:
            poller.start()
        self._heartbeat.start(self._app.backend)
        if self._beat is not None:
            self._beat.start()

    def _tick(self) -> None:
        timed = self._dispatcher.timed or self._pool.retiring
        self._shutdown.sleep(_TICK if timed else _PATIENCE)
        self._check_children()
        self._dispatcher.pump()
        self._give_back()
        self._pool.adapt(len(self._flights))
        if self._shutdown.error is None:
            self._pool.fill()

    def _give_back(self) -> None:
        """Leave to other workers what was taken ahead of tasks that took longer than before."""
        if seconds := self._pace.seconds:
            before = time.monotonic() - max(STALLED, 2 * seconds)
            self._dispatcher.give_back(self._slots.total + self._pace.latest(), before)

    def _check_children(self) -> None:
        self._actions.run_waiting()
        self._crashes.stop_overdue()
        self._pool.check()

    def _stop(self) -> bool:
        """Stop warm if everything ends in time, else cold; True after a warm stop."""
        asked = self._shutdown.requests
        if self._beat is not None:
            self._beat.stop()
        if signals.worker_shutting_down:
            signals.worker_shutting_down.send(
                self, sig=self._shutdown.signal_name, how="Warm", exitcode=0
            )
        log.info(
            "stopping: nothing more is received; tasks that still run: %d, for up to %g s (once"
            " more ends them at once)",
            self._dispatcher.at_work()[0],
            self._options.grace,
        )
        began = time.monotonic()
        deadline = began + self._options.grace
        for poller in self._pollers:
            poller.stop()
        self._delayed.stop()
        self._slots.close()
        self._opener.stop()
        self._dispatcher.close()
        while (receiving := self._receiving()) or self._flights:
            now = time.monotonic()
            is_urgent = self._shutdown.requests > max(asked, 1) or now > deadline
            is_over = now > began + _PARTING and all(poller.is_idle for poller in receiving)
            if not self._flights and (is_urgent or is_over):
                log.info(
                    "left the receive under way on %s: what it may get comes again by its lease",
                    ", ".join(poller.queue for poller in receiving),
                )
                break
            if is_urgent:
                return self._stop_cold()
            self._end_receives()
            self._shutdown.sleep(_TICK)
            self._check_children()
        self._pool.stop()
        self._stop_threads()
        self._app.close()
        log.info("stopped")
        return True

    def _receiving(self) -> list[Poller]:
        """Return those with a receive that has not come back yet."""
        return [poller for poller in self._pollers if poller.receiving]

    def _end_receives(self) -> None:
        """End the receives that wait, where the service can; ask again for those just begun."""
        driver = self._app.broker.driver
        try:
            if isinstance(driver, EndsReceives):
                driver.end_receives()
        except BaseException as error:
            pass_ends(error)
            log.exception("the receives under way could not be ended, and are waited for")

    def _stop_cold(self) -> bool:
        log.warning("stopping cold: %s back to the queues", counted(len(self._flights), "task"))
        self._pool.kill()
        back = [
            flight
            for flight in self._flights.all()
            if not flight.settling and flight.whole_tray is None  # a tray has what has ended
        ]
        self._settler.release(back, "the worker was stopped")
        deadline = time.monotonic() + 3.0
        while self._flights and time.monotonic() < deadline:
            self._shutdown.sleep(_TICK)
        self._stop_threads()
        return False

    @property
    def app(self) -> CloudQ:
        """The app whose tasks it runs."""
        return self._app

    @property
    def hostname(self) -> str:
        """Its name, as in `cloudq status`."""
        return self._options.hostname

    def _stop_threads(self) -> None:
        self._heartbeat.stop()
        self._settler.stop()
        self._leases.stop()

    def _on_ready(self) -> None:
        if not self._was_ready:
            self._was_ready = True
            if signals.worker_ready:
                signals.worker_ready.send(self)

    def _forget(self, flights: Sequence[Flight]) -> None:
        """Free the slots of what is settled."""
        self._flights.remove(flights)
        self._slots.give(len(flights))
        if self._shutdown.requests:
            self._shutdown.wake()

    def _forget_plain(self, tray: Tray, count: int) -> None:
        """Free the slots of plain calls that have ended."""
        self._flights.remove_plain(tray, count)
        self._slots.give(count)
        if self._shutdown.requests:
            self._shutdown.wake()
