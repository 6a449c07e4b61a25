"""What becomes of tasks whose child died, or was stopped because one ran over its time limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from cloudq.errors import TimeLimitExceeded
from cloudq.execution.executor import Executor
from cloudq.execution.settlement import Action, Settlement
from cloudq.worker.in_flight import Flight
from cloudq.worker.pool.child_handle import Child
from cloudq.worker.pool.dispatcher import Dispatcher

log = logging.getLogger("cloudq.worker")

# How soon a message whose child died may be received again.
_LOST_AFTER = 1.0
# A task whose neighbours are stopped so often goes back to its queue, where that is counted.
_MOST_RESTARTS = 3


def given_back(flight: Flight, reason: str, after: float = 0.0) -> Settlement:
    """The settlement of what goes back to its queue, to be received again `after` seconds."""
    message = flight.job.message if flight.job else None
    return Settlement(
        action=Action.RELEASE,
        task_id=message.id if message else "",
        task=message.task if message else "",
        reason=reason,
        after=after,
    )


def hard_limit(executor: Executor, flight: Flight) -> float | None:
    """How long the task may run, in seconds; None for as long as it likes."""
    return executor.limits(flight.job.message)[1] if flight.job else None


class Crashes:
    """Stops the children of overdue tasks, and settles what children leave when they end."""

    def __init__(
        self,
        executor: Executor,
        dispatcher: Dispatcher,
        settle: Callable[[Sequence[tuple[Flight, Settlement]]], None],
    ) -> None:
        self._executor = executor
        self._dispatcher = dispatcher
        self._settle = settle

    def stop_overdue(self) -> None:
        """Kill the children in which a task runs over its limit. Call now and then."""
        for child, flight in self._dispatcher.overdue(time.monotonic()):
            if flight not in child.killed_for:
                child.killed_for.append(flight)
                child.kill()

    def settle(self, child: Child, left: Sequence[Flight]) -> None:
        """Settle what a child that has ended has left."""
        if child.killed_for:
            for culprit in child.killed_for:
                self._end(culprit)
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
        self._finish([(f, given_back(f, "its process died", after=_LOST_AFTER)) for f in left])

    def _end(self, flight: Flight) -> None:
        """End what its child was killed for."""
        if flight.job is None or flight.settling:
            return
        if flight.revoked:
            log.warning("task %s was terminated; its process is replaced", flight.job.message.id)
            self._finish([(flight, self._executor.revoked(flight.job, "terminated"))])
            return
        limit = hard_limit(self._executor, flight)
        error = TimeLimitExceeded(f"{flight.job.message.task} ran longer than {limit:g} s")
        log.error("task %s: %s; its process was replaced", flight.job.message.id, error)
        self._finish([(flight, self._executor.stopped(flight.job, error))])

    def _finish(self, done: Sequence[tuple[Flight, Settlement]]) -> None:
        self._settle(done)
        self._dispatcher.finished(None, done)
