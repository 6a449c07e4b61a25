"""Settles the tasks of children that died, or that were killed because of one of their tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cloudq.amounts import counted
from cloudq.driver.log import Log
from cloudq.errors import TimeLimitExceeded
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Settlement
from cloudq.worker.in_flight import Flight
from cloudq.worker.pool.child_handle import Child
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.settler import Settler

log = Log("cloudq.worker")

# Seconds until a message whose child died may be received again.
_LOST_AFTER = 1.0
# A task whose child was killed this often because of others gets a child of its own.
_MOST_RESTARTS = 3


class Crashes:
    """Kills the children of overdue tasks, and settles what a dead child leaves."""

    def __init__(
        self,
        executor: Executor,
        dispatcher: Dispatcher,
        settler: Settler,
    ) -> None:
        self._executor = executor
        self._dispatcher = dispatcher
        self._settler = settler

    def stop_overdue(self) -> None:
        """Kill the children in which a task runs past its hard limit. Call now and then."""
        for child, flight in self._dispatcher.overdue(time.monotonic()):
            if flight not in child.killed_for:
                child.killed_for.append(flight)
                child.kill()

    def settle(self, child: Child, left: Sequence[Flight]) -> None:
        """Settle what a dead child was given and did not end.

        Only a task that was alone in its child is settled for that death, which its queue counts.
        """
        if child.killed_for:
            for culprit in child.killed_for:
                self._end(culprit)
            self._restart([flight for flight in left if flight not in child.killed_for])
        elif child.stopped:  # what it was given after that it has not begun
            self._dispatcher.again(left)
        elif len(left) > 1:
            log.error(
                "child %d died (exit code %s) with %d tasks: each runs in a process of its own now",
                child.pid,
                child.process.returncode,
                len(left),
            )
            for flight in left:
                flight.restart()
            self._dispatcher.suspect(left)
        else:
            self._lose(child, left)

    def _restart(self, flights: Sequence[Flight]) -> None:
        """Run those again that a child was killed beside."""
        for flight in flights:
            flight.restart()
        self._dispatcher.again([f for f in flights if f.restarts <= _MOST_RESTARTS])
        for flight in flights:
            if flight.restarts > _MOST_RESTARTS:
                self._dispatcher.suspect([flight])

    def _lose(self, child: Child, left: Sequence[Flight]) -> None:
        """Give back the task that was alone in a child when that died."""
        log.error(
            "child %d died (exit code %s) with %s%s",
            child.pid,
            child.process.returncode,
            counted(len(left), "task"),
            "".join(f": {f.job.message.id} comes back" for f in left if f.job),
        )
        self._finish([(f, f.released("its process died", after=_LOST_AFTER)) for f in left])
        for flight in left:
            if child.alone or child.capacity > 1:  # else nothing ever runs beside it
                self._dispatcher.convict(flight)

    def _end(self, flight: Flight) -> None:
        """Settle a task that its child was killed for."""
        if flight.job is None or flight.settling:
            return
        if flight.revoked:
            log.warning("task %s was terminated; its process is replaced", flight.job.message.id)
            self._finish([(flight, self._executor.revoked(flight.job, "terminated"))])
            return
        limit = self._dispatcher.hard_limit(flight)
        error = TimeLimitExceeded(f"{flight.job.message.task} ran longer than {limit:g} s")
        log.error("task %s: %s; its process was replaced", flight.job.message.id, error)
        self._finish([(flight, self._executor.stopped(flight.job, error))])

    def _finish(self, done: Sequence[tuple[Flight, Settlement]]) -> None:
        self._settler.settle(done)
        self._dispatcher.finished(None, done)
