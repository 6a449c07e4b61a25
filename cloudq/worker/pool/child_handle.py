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
from cloudq.worker.in_flight import Begun, Cut, Ended, Ends, Flight
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool import pipe
from cloudq.worker.pool.fork_server import ForkServer
from cloudq.worker.pool_kinds import command

log = Log("cloudq.worker")

# Messages of a child that are taken in together at most, once they have come.
_TOGETHER = 256
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
        ended: Callable[[Child, Sequence[pipe.PackedEnds]], None],
        flight: Callable[[Child, int], Flight | None],
        gone: Callable[[Child], None],
        spent: Callable[[Sequence[pipe.Requests]], None],
    ) -> None:
        self.alone = alone
        self.capacity = 1 if alone else options.threads
        self.flights: dict[int, Flight] = {}
        self.given = 0
        self._cuts: dict[int, Cut] = {}
        self._plain = 0  # calls in these without an outcome
        self.given_at = 0.0  # monotonic seconds of the last job
        self.ready = False
        self.retiring = False
        self.stopped_at: float | None = None
        self.killed_for: list[Flight] = []
        self._lock = threading.Lock()
        self._on_ready, self._on_settled, self._on_gone = ready, settled, gone
        self._on_ended, self._flight_of, self._on_spent = ended, flight, spent
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
        return self.capacity - self.busy

    @property
    def busy(self) -> int:
        """The number of jobs that it has."""
        return len(self.flights) + self._plain

    def send(self, given: Sequence[Flight | Cut]) -> None:
        """Write the jobs to the child. If it is dead they stay in its hands, to be settled."""
        jobs = [
            pipe.pack_job(f.number, f.job)
            for f in given
            if isinstance(f, Flight) and f.job is not None
        ]
        if jobs:
            self._tell(jobs)
        cuts = [pipe.pack_cut(cut) for cut in given if isinstance(cut, Cut)]
        if cuts:
            self._tell(cuts)

    # ---- its jobs: call these under the dispatcher's lock

    def take(self, flight: Flight) -> None:
        """Note that this one is the child's."""
        flight.given_at = time.time()
        self.flights[flight.number] = flight
        self.given += 1
        self.given_at = time.monotonic()

    def take_cut(self, cut: Cut) -> None:
        """Note that these plain calls are the child's."""
        self._cuts[cut.number] = cut
        self._plain += len(cut.left)
        self.given += len(cut.left)
        self.given_at = time.monotonic()

    def at_work(self) -> list[Begun]:
        """Return what it runs, plain calls that it was given together as one."""
        found = [
            Begun(count=1, message=flight.job.message, given_at=flight.given_at)
            for flight in self.flights.values()
            if flight.job is not None and not flight.settling
        ]
        for cut in self._cuts.values():
            message = cut.tray.calls[min(cut.left)]
            found.append(Begun(count=len(cut.left), message=message, given_at=cut.given_at))
        return found

    def take_apart(self) -> None:
        """Hold each of its plain calls that has no outcome as a flight of its own."""
        for cut in self._cuts.values():
            self._take_out(cut, sorted(cut.left))
        self._cuts.clear()

    def flight(self, number: int) -> Flight | None:
        """Return the flight of this number, which a plain call gets now; None if it has ended."""
        for cut in () if number in self.flights else self._cuts.values():
            if cut.has(number):
                self._take_out(cut, [number - cut.tray.first])
                if not cut.left:
                    del self._cuts[cut.number]
                break
        return self.flights.get(number)

    def _take_out(self, cut: Cut, numbers: Sequence[int]) -> None:
        self._plain -= len(numbers)
        for flight in cut.take_out(numbers):
            self.flights[flight.number] = flight

    def ended(self, packed: pipe.PackedEnds) -> tuple[Ends | None, list[tuple[Flight, Settlement]]]:
        """Free the places of plain calls that have ended; return those with flights apart."""
        cut = self._cuts.get(packed.first + packed.start)
        ends = {end[0]: end for end in packed.ends}  # one may have been handed in twice
        kept = None if cut is None else self._kept(cut, ends)
        single: list[tuple[Flight, Settlement]] = []
        for number, end in ends.items():
            flight = self.flights.get(packed.first + number)
            if flight is not None and flight.tray is not None:
                flight.took = end[4]
                single.append((flight, flight.tray.settlement(end)))
        return kept, single

    def _kept(self, cut: Cut, ends: dict[int, Ended]) -> Ends | None:
        """Take out those of the ends that are of calls without a flight."""
        before, kept = len(cut.left), list(ends.values())
        if cut.left.issuperset(ends):
            cut.left.difference_update(ends)
            ends.clear()
        else:
            kept = [ends.pop(number) for number in cut.left.intersection(ends)]
            cut.left.difference_update([end[0] for end in kept])
        self._plain -= before - len(cut.left)
        if not cut.left:
            del self._cuts[cut.number]
        return Ends(tray=cut.tray, ends=kept) if kept else None

    # ---- the connection

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
        waiting = pipe.Waiting(self._connection)
        try:
            while True:
                self._take_in(waiting.receive(_TOGETHER))
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
        ended: list[pipe.PackedEnds] = []
        for message in batch:
            if isinstance(message, pipe.Ready):
                self.ready = True
                self._on_ready(self)
            elif isinstance(message, pipe.PackedEnds):
                ended.append(message)
            elif isinstance(message, pipe.PackedSettlement):
                flight = self.flights.get(message.number) or self._flight_of(self, message.number)
                if flight is not None and message.number not in done:
                    flight.took = message.took
                    done[message.number] = flight, self._unpacked(message)
            elif isinstance(message, pipe.Requests):
                made.append(message)
        if made:
            self._on_spent(made)
        if ended:
            self._on_ended(self, ended)
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
