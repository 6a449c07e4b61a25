"""Starts a child process, hands it jobs, and notices its end: the supervisor's side."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.execution.settlement import Settlement
from cloudq.worker.in_flight import Flight
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool import pipe
from cloudq.worker.pool.fork_server import ForkServer
from cloudq.worker.pool_kinds import command

log = Log("cloudq.worker")

# Seconds that a child that was told to leave, or has hung up, may take to end.
_LEAVING = 5.0


class Child:
    """A child process and the flights it was given. Create it in the main thread.

    On Linux a child dies with the thread that started it, so that thread must outlive it. One that
    is `alone` is given a single suspect, and nothing before or after it.
    """

    def __init__(
        self,
        options: WorkerOptions,
        forks: ForkServer,
        *,
        alone: bool = False,
        ready: Callable[[Child], None],
        settled: Callable[[Child, Sequence[tuple[Flight, Settlement]]], None],
        gone: Callable[[Child], None],
        spent: Callable[[Sequence[pipe.Requests]], None],
    ) -> None:
        self.alone = alone
        self.capacity = 1 if alone else options.threads
        self.flights: dict[int, Flight] = {}
        self.given = 0
        self.given_at = 0.0  # monotonic seconds of the last job
        self.ready = False
        self.retiring = False
        self.stopped_at: float | None = None
        self.killed_for: list[Flight] = []
        self._lock = threading.Lock()
        self._on_ready, self._on_settled, self._on_gone = ready, settled, gone
        self._on_spent = spent
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.settimeout(None)  # an app may have set another default
        with theirs:
            self.process = forks.start(theirs.fileno()) or subprocess.Popen(
                command(options.pool, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._connection = Connection(os.dup(self._socket.fileno()))
        with suppress(OSError):  # it has died already, which its reader sees
            self._connection.send(pipe.Setup(os.getpid(), sys.path, options))
        self._reader = threading.Thread(target=self._read, name=f"child-{self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def stopped(self) -> bool:
        """True once it was told to leave."""
        return self.stopped_at is not None

    @property
    def free(self) -> int:
        """The number of jobs that it can take now."""
        if not self.ready or self.retiring or self.stopped_at is not None:
            return 0
        return self.capacity - len(self.flights)

    def take(self, flight: Flight) -> None:
        """Note that this one is the child's. Call under the dispatcher's lock."""
        flight.given_at = time.time()
        self.flights[flight.number] = flight
        self.given += 1
        self.given_at = time.monotonic()

    def send(self, flights: Sequence[Flight]) -> None:
        """Write the jobs to the child. If it is dead they stay in `flights`, to be settled."""
        self._tell([pipe.pack_job(f.number, f.job) for f in flights if f.job is not None])

    def limit(self, task: str, soft: float | None, hard: float | None) -> None:
        """Tell the child a task's new time limits, for calls that start from now on."""
        self._tell([pipe.TimeLimits(task, soft, hard)])

    def _tell(self, batch: Sequence[pipe.Message]) -> None:
        try:
            with self._lock:
                pipe.send(self._connection, batch)
        except OSError:  # its reader hears of it as well
            log.debug("child %d has left already", self.pid)

    def stop(self) -> None:
        """Ask an idle child to leave."""
        self.stopped_at = time.monotonic()
        self._tell([pipe.Stop()])

    def kill(self) -> None:
        """Kill the process with all that it runs."""
        self.process.kill()

    def check(self) -> None:
        """Hang up when it has died, and kill it when it will not leave. Call now and then.

        A process that a task has forked may hold the connection open when the child is dead.
        """
        if self.process.poll() is not None:
            self._hang_up()
        elif self.stopped_at is not None and time.monotonic() > self.stopped_at + _LEAVING:
            self.kill()  # a thread that a task has left running keeps it alive

    def _hang_up(self) -> None:
        """End the connection for both sides. What was sent before can still be read."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        try:
            while True:
                self._take_in(pipe.receive(self._connection))
        except (EOFError, OSError):
            log.debug("child %d has hung up", self.pid)
        except BaseException as error:  # without this reader its tasks would never be settled
            pass_ends(error)
            log.exception("child %d sent what cannot be read: it is replaced", self.pid)
            self.kill()
        try:
            self.process.wait(_LEAVING)
        except subprocess.TimeoutExpired:
            self.kill()
        self._on_gone(self)

    def _take_in(self, batch: Sequence[pipe.Message]) -> None:
        done: dict[int, tuple[Flight, Settlement]] = {}
        made: list[pipe.Requests] = []
        for message in batch:
            if isinstance(message, pipe.Ready):
                self.ready = True
                self._on_ready(self)
            elif isinstance(message, pipe.PackedSettlement):
                flight = self.flights.get(message.number)
                if flight is not None and message.number not in done:
                    flight.took = message.took
                    done[message.number] = flight, self._unpacked(message)
            elif isinstance(message, pipe.Requests):
                made.append(message)
        if made:
            self._on_spent(made)
        if done:
            self._on_settled(self, list(done.values()))

    @staticmethod
    def _unpacked(packed: pipe.PackedSettlement) -> Settlement:
        """Read an outcome; one that cannot be read is that of its own task alone."""
        try:
            return pipe.unpack_settlement(packed)
        except BaseException as error:
            pass_ends(error)
            log.exception("the outcome of task %s cannot be read", packed.task_id)
            return pipe.spoiled(packed, error)

    def close(self) -> None:
        """Reap the process and close the connection. Call when it is gone or was killed."""
        self.process.wait()
        self._hang_up()
        self._reader.join()
        with self._lock:  # the file descriptor may belong to another file once it is closed
            self._connection.close()
        self._socket.close()
