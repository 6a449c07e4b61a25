"""Runs tasks in a child process of a worker: in its main thread, or in threads; on one event loop.

The child never talks to the broker. A task that holds the GIL can delay what this process reports,
but not the leases, which the supervisor extends.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import queue
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType

from cloudq import signals
from cloudq.app import CloudQ
from cloudq.app.loading import load_app
from cloudq.errors import UnknownTask
from cloudq.execution.event_loop import Loop
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Settlement
from cloudq.results.waiting import Places
from cloudq.worker.logs import configure
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool import pipe
from cloudq.worker.pool_kinds import PoolKind

log = logging.getLogger("cloudq.worker.child")

_BATCH = 256
_SMALL_STACK = 1 << 20
_PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signals that a supervisor heeds, and its children do not."""
# In these pools a task that has its process to itself runs in the main thread, as signals and some
# libraries need it.
_PLAIN = (PoolKind.PROCESSES, PoolKind.THREADS, PoolKind.SOLO)


class Pool:
    """Threads that run jobs: up to `most`, each started when it is first needed.

    With `in_main` the thread that calls `work` is the only one.
    """

    def __init__(
        self, executor: Executor, most: int, connection: Connection, *, in_main: bool = False
    ) -> None:
        self._executor = executor
        self._most = 0 if in_main else most
        self._connection = connection
        self._jobs: queue.SimpleQueue[tuple[int, Job] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[pipe.PackedSettlement] = queue.SimpleQueue()
        self._idle: deque[None] = deque()  # one for each thread that waits; a semaphore is slower
        self._threads = 0
        threading.Thread(target=self._report, name="report", daemon=True).start()

    def submit(self, number: int, job: Job) -> None:
        """Run a job in the next free thread."""
        try:
            self._idle.pop()
        except IndexError:
            self._grow()
        self._jobs.put((number, job))

    def _grow(self) -> None:
        if self._threads < self._most:
            self._threads += 1
            name = f"task-{self._threads}"
            threading.Thread(target=self.work, name=name, daemon=True).start()

    def end(self) -> None:
        """Let the thread that calls `work` return, once it has run what was submitted before."""
        self._jobs.put(None)

    def work(self) -> None:
        """Run jobs until the end, whatever they raise."""
        held: list[tuple[int, Job]] = []  # the job of which no outcome is handed in yet
        while True:
            try:
                return self._work_on(held)
            except BaseException as error:  # an exception that a task has set on its own thread
                log.exception("a thread of tasks was interrupted between two of them, and goes on")
                if held:
                    self._hand_in(held, self._executor.spoiled(held[0][1], error))

    def _work_on(self, held: list[tuple[int, Job]]) -> None:
        while (order := self._jobs.get()) is not None:
            held.append(order)
            self._hand_in(held, self._executor.run(order[1]))

    def _hand_in(self, held: list[tuple[int, Job]], settlement: Settlement) -> None:
        number, job = held[0]
        try:
            packed = pipe.pack_settlement(number, settlement)
        except BaseException as error:  # else the job would never be settled
            packed = pipe.pack_settlement(number, self._executor.spoiled(job, error))
        self._idle.append(None)
        self._done.put(packed)
        held.clear()

    def _report(self) -> None:
        """Send outcomes; while one batch is being written the next gathers."""
        while True:
            batch = [self._done.get()]
            while len(batch) < _BATCH:
                try:
                    batch.append(self._done.get_nowait())
                except queue.Empty:
                    break
            try:
                pipe.send(self._connection, batch)
            except OSError:  # the supervisor is gone; the main thread is leaving
                return
            except Exception:  # without this thread no outcome would leave this process
                log.exception("outcomes cannot be sent to the supervisor: this process ends")
                os._exit(1)


def settle_in(connection: Connection, *, parent: int | None = None) -> pipe.Setup:
    """Read the set-up of this process and tie it to its `parent`: the supervisor, unless given."""
    setup: pipe.Setup = connection.recv()
    # A program that a task starts must not hold the connection open when this process is dead.
    os.set_inheritable(connection.fileno(), False)
    leave_signals()
    # A signal that comes between a fork and the new handlers waits for these.
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, SIGNALS),
        after_in_child=_heed_signals,
    )
    tie_to_parent(setup.parent if parent is None else parent)
    return setup


def load(setup: pipe.Setup) -> CloudQ:
    """Load the app as the set-up says."""
    configure(setup.options.log_level, setup.options.log_format)
    sys.path[:] = setup.path
    return load_app(setup.options.app_path, setup.options.overrides)


def work(connection: Connection, options: WorkerOptions, app: CloudQ) -> None:
    """Take orders until told to stop, and run jobs meanwhile: a single one in this very thread."""
    # What is loaded by now stays, so the garbage collector need not look through it again.
    gc.freeze()
    gc.enable()
    if signals.worker_process_init:
        signals.worker_process_init.send(None)
    if options.pool is PoolKind.ASYNCIO:
        # A thread waits for each coroutine and does nothing else, so a small stack will do.
        threading.stack_size(_SMALL_STACK)
    places = Places(options.threads)
    executor = app.executor(hostname=options.hostname, run_async=Loop().run, places=places)
    in_main = options.threads == 1 and options.pool in _PLAIN
    pool = Pool(executor, options.threads, connection, in_main=in_main)
    pipe.send(connection, [pipe.Ready()])
    take = partial(_take_orders, executor, pool, connection, options.pool is PoolKind.GEVENT)
    if in_main:
        threading.Thread(target=_or_exit, args=[take], name="orders", daemon=True).start()
        _or_exit(pool.work)
    else:
        take()
    if signals.worker_process_shutdown:
        signals.worker_process_shutdown.send(None, pid=os.getpid(), exitcode=0)
    app.close()


def _or_exit(run: Callable[[], None]) -> None:
    """Run one of two threads that need each other; if it raises, end the process."""
    try:
        run()
    except BaseException:  # while the other waits, no job would be run, or none settled
        log.exception("this process cannot go on, and ends")
        os._exit(1)


def _take_orders(executor: Executor, pool: Pool, connection: Connection, is_green: bool) -> None:
    """Take orders until told to stop; leave at once when the supervisor is gone."""
    while True:
        try:
            if is_green:  # a read would stop all greenlets, this does not
                select.select([connection.fileno()], [], [])
            batch = pipe.receive(connection)
        except (EOFError, OSError):
            os._exit(1)  # the supervisor died: the jobs come back when their leases end
        for message in batch:
            if isinstance(message, pipe.PackedJob):
                pool.submit(message.number, pipe.unpack_job(message))
            elif isinstance(message, pipe.TimeLimits):
                _limit(executor, message)
            elif isinstance(message, pipe.Stop):
                pool.end()
                return


def _limit(executor: Executor, limits: pipe.TimeLimits) -> None:
    try:
        executor.change_time_limit(*limits)
    except UnknownTask as error:  # of a task that only the supervisor has imported
        log.warning("time limits are not changed in this process: %s", error)


def leave_signals() -> None:
    """Leave signals to the supervisor.

    They get a handler that does nothing. Were they ignored, programs that tasks start would
    inherit that, and could not be terminated.
    """
    for number in SIGNALS:
        signal.signal(number, _leave_to_supervisor)


def tie_to_parent(parent: int) -> None:
    """Die with the parent process (on Linux), even while a task holds the GIL."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _leave_to_supervisor(number: int, frame: FrameType | None) -> None:
    """Do nothing: the supervisor got the signal too, and tells its children when to leave."""


def _heed_signals() -> None:
    """Let signals end the processes that tasks fork."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def start(descriptor: int) -> None:
    """Run as a child of the worker that holds the other end of this file descriptor."""
    connection = Connection(descriptor)
    setup = settle_in(connection)
    work(connection, setup.options, load(setup))
