"""Runs tasks in a child process of a worker: in its main thread, or in threads; on one event loop.

The child never talks to the broker. A task that holds the GIL can delay what this process reports,
but not the leases, which the supervisor extends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from itertools import islice
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from cloudq import signals
from cloudq.app import CloudQ
from cloudq.app.loading import load_app
from cloudq.driver.billing import Readings
from cloudq.driver.log import Log
from cloudq.errors import UnknownTask
from cloudq.execution.event_loop import Loop
from cloudq.execution.executor import Executor
from cloudq.execution.plain_run import PlainSuccess
from cloudq.execution.settlement import Settlement
from cloudq.monitoring.costs.sheet import spent_rows
from cloudq.results.waiting import Places
from cloudq.worker.logs import configure
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool import pipe
from cloudq.worker.pool.plain_jobs import (
    Numbered,
    Outcome,
    PlainJobs,
    by_shape,
    job_of,
    jobs_in,
)
from cloudq.worker.pool_kinds import PoolKind

log = Log("cloudq.worker.child")

_BATCH = 256
# Seconds after an outcome was sent in which the next is one of many, and waits as long for others:
# to send each by itself costs both processes as much as a short call.
_COMPANY = 0.0005
_SMALL_STACK = 1 << 20
_PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signals that a supervisor heeds, and its children do not."""
# In these pools a task that has its process to itself runs in the main thread, as signals and some
# libraries need it.
_PLAIN = (PoolKind.PROCESSES, PoolKind.THREADS, PoolKind.SOLO)


# Calls that come together are run by one thread as long as it does so many a second,
# else by as many as there are calls. That is looked at so many seconds after they came, and again.
_FAST, _LOOK = 8_000, 0.001
# On a machine that does much else one thread does fewer though its calls are short. So where three
# quarters of the latest took less than this, in seconds, it is enough that any end in so long.
_SHORT, _MOSTLY, _STUCK = 1 / _FAST, 0.75, 0.005


class Pool:
    """Threads that run jobs: up to `most`, each started when it is first needed.

    With `in_main` the thread that calls `work` is the only one. One thread alone submits.
    """

    def __init__(
        self, executor: Executor, most: int, connection: Connection, *, in_main: bool = False
    ) -> None:
        self._executor = executor
        self._most = 0 if in_main else most
        self._connection = connection
        self._jobs: deque[Numbered | None] = deque()
        self._done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._parked: deque[queue.SimpleQueue[None]] = deque()  # the threads that wait for jobs
        self._open: deque[None] = deque()  # one for each job that has not ended
        self._threads = 0
        self._short = 0.0  # the share of short ones among the latest jobs
        # Without this thread no outcome would leave this process.
        threading.Thread(target=_or_exit, args=[self._report], name="report", daemon=True).start()

    def submit(self, jobs: Sequence[Numbered], *, in_turn: bool = False) -> None:
        """Run each of these jobs in a free thread, or `in_turn` in one as long as that is fast."""
        for job in jobs:
            self._open.append(None)
            self._jobs.append(job)
            if not in_turn:
                self._wake()
        if in_turn:
            self._wake()

    def help_until(self, connection: Connection) -> None:
        """Give each job that waits a thread of its own, if jobs are not run fast enough.

        Returns when orders have come, or none of the jobs waits.
        """
        if not self._jobs or self._most < 2:
            return
        orders = select.poll()
        orders.register(connection.fileno(), select.POLLIN)
        while before := len(self._jobs):
            wait = _STUCK if self._short > _MOSTLY else _LOOK
            began = time.monotonic()
            if orders.poll(wait * 1000):
                return
            left = len(self._jobs)
            if before - left < (1 if wait == _STUCK else (time.monotonic() - began) * _FAST):
                for _ in range(left):
                    self._wake()

    def _wake(self) -> None:
        """Have one more thread look for a job."""
        try:
            self._parked.pop().put(None)
        except IndexError:  # those that are about to wait look once more before they do
            if len(self._open) > self._threads:
                self._grow()

    def _grow(self) -> None:
        if self._threads < self._most:
            self._threads += 1
            name = f"task-{self._threads}"
            threading.Thread(target=self.work, name=name, daemon=True).start()

    def end(self) -> None:
        """Let the thread that calls `work` return, once it has run what was submitted before."""
        self._jobs.append(None)
        self._wake()

    def work(self) -> None:
        """Run jobs until the end, whatever they raise."""
        held: list[Numbered] = []  # the job of which no outcome is handed in yet
        begun: list[int] = []  # the number of the last one that was run
        woken: queue.SimpleQueue[None] = queue.SimpleQueue()
        while True:
            try:
                return self._work_on(held, begun, woken)
            except BaseException as error:  # an exception that a task has set on its own thread
                log.exception("a thread of tasks was interrupted between two of them, and goes on")
                with suppress(ValueError):  # it does not wait now: who wakes it would wake nobody
                    self._parked.remove(woken)
                if held and begun == [held[0][0]]:
                    self._hand_in(held, self._executor.spoiled(job_of(held[0]), error))

    def _work_on(
        self,
        held: list[Numbered],
        begun: list[int],
        woken: queue.SimpleQueue[None],
    ) -> None:
        orders = iter(self._jobs.popleft, None)
        while True:
            # An exception that was set while this waits is raised after the next call. In a single
            # call the order is taken and held, so that it is not lost then.
            if not held:
                try:
                    held.extend(islice(orders, 1))
                except IndexError:
                    self._await_jobs(woken)
                    continue
            if not held:
                return
            number, job = held[0]
            begun[:] = [number]
            began = time.monotonic()
            is_plain = isinstance(job, PlainJobs)
            settlement = job.run(number) if is_plain else self._executor.run(job)
            took = time.monotonic() - began
            self._short += ((took < _SHORT) - self._short) / 16
            self._hand_in(held, settlement, took)

    def _await_jobs(self, woken: queue.SimpleQueue[None]) -> None:
        """Wait until this thread is woken, unless a job has come meanwhile."""
        self._parked.append(woken)
        if self._jobs:
            with suppress(ValueError):  # it is woken just now
                self._parked.remove(woken)
                return
        woken.get()

    def _hand_in(
        self, held: list[Numbered], settlement: Settlement | PlainSuccess, took: float = 0.0
    ) -> None:
        number, job = held[0]
        packed: Outcome
        try:
            if isinstance(settlement, Settlement):
                packed = pipe.pack_settlement(number, settlement, took)
            else:
                assert isinstance(job, PlainJobs)
                packed = job, (number - job.first, *settlement, took)
        except BaseException as error:  # else the job would never be settled
            packed = pipe.pack_settlement(number, self._executor.spoiled(job_of(held[0]), error))
        with suppress(IndexError):  # one that was interrupted here hands in again
            self._open.pop()
        self._done.put(packed)
        held.clear()

    def _report(self) -> None:
        """Send outcomes; while one batch is being written the next gathers.

        One that comes right after another was sent waits for company. The requests that were made
        for them go first, so that none is left out of the bill.
        """
        readings, runtime = Readings(), self._executor.runtime
        sent_at = 0.0
        while True:
            batch = [self._done.get()]
            if time.monotonic() < sent_at + _COMPANY:
                time.sleep(_COMPANY)
            while len(batch) < _BATCH:
                try:
                    batch.append(self._done.get_nowait())
                except queue.Empty:
                    break
            try:
                if grown := readings.grown(runtime.meters()):
                    made = [pipe.Requests(*row) for row in spent_rows(grown)]
                    pipe.send(self._connection, made)
                for outcomes in by_shape(batch):
                    pipe.send(self._connection, outcomes)
                sent_at = time.monotonic()
            except OSError:  # the supervisor is gone, or a task has closed what is not its own
                os._exit(1)  # the thread that takes orders may not notice it
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
    if options.pool is PoolKind.GEVENT:
        os.register_at_fork(after_in_child=_leave_greenlets)
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
    """Run one of the threads that need each other; if it raises, end the process."""
    try:
        run()
    except BaseException:  # while the others wait, no job would be run, or none settled
        log.exception("this process cannot go on, and ends")
        os._exit(1)


def _take_orders(executor: Executor, pool: Pool, connection: Connection, is_green: bool) -> None:
    """Take orders until told to stop; leave at once when the supervisor is gone."""
    while True:
        try:
            if is_green:  # a read would stop all greenlets, this does not
                select.select([connection.fileno()], [], [])
            else:
                pool.help_until(connection)
            batch = pipe.receive(connection)
        except (EOFError, OSError):
            os._exit(1)  # the supervisor died: the jobs come back when their leases end
        jobs = jobs_in(batch, executor)
        if jobs:
            in_turn = not is_green
            pool.submit(jobs, in_turn=in_turn)
            continue
        for message in batch:
            if isinstance(message, pipe.TimeLimits):
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


def _leave_greenlets() -> None:
    """Leave the greenlets of the parent to it, in a process that one of them has forked.

    They are copied, unlike threads, and would all go on here: each neighbour of the task that
    forked would do everything twice. They wait for the event loop, so this process gets another.
    """
    local: Any = import_module("gevent._hub_local")
    hub = local.get_hub_if_exists()
    if hub is not None:
        local.set_loop(None)
        hub.loop.destroy()  # only now can the new one be the default, which starts programs
        local.set_hub(None)


def start(descriptor: int) -> None:
    """Run as a child of the worker that holds the other end of this file descriptor."""
    connection = Connection(descriptor)
    setup = settle_in(connection)
    work(connection, setup.options, load(setup))
