"""Takes messages one at a time and does with each what a worker does, whatever fails on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from cloudq.app import CloudQ
from cloudq.driver import Code, Delivery
from cloudq.errors import BrokerError, ServiceError
from cloudq.execution.commit import commit, dispose
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Settled, Settlement
from cloudq.results.record import State
from cloudq.testing.kit.faults import FaultPlan
from cloudq.testing.kit.in_memory import indoors
from cloudq.testing.kit.plan import Died, Unit

log = logging.getLogger("cloudq.testing")

T = TypeVar("T")

_PASSING = frozenset({Code.THROTTLED, Code.UNREACHABLE})
# A real worker waits between its tries, and tries for ever. Nothing else happens meanwhile in a
# test, so that trying at once comes to the same.
_TRIES = 100


class Hand:
    """One thread's worth of a worker. Not to be shared by threads."""

    def __init__(
        self,
        app: CloudQ,
        *,
        hostname: str,
        run_async: Callable[[Coroutine[Any, Any, Any]], Any] | None = None,
    ) -> None:
        self._app = app
        inside = indoors(app)
        self._faults = inside.faults if inside and inside.faults else FaultPlan()
        self._executor = app.executor(hostname=hostname, run_async=run_async)

    def receive(self, queue: str) -> Delivery | None:
        """The next message of a queue that is due."""
        app = self._app
        try:
            found = _tried(
                lambda: app.broker.receive(queue, count=1, wait=0.0, lease=app.conf.lease)
            )
        except Died:
            self._faults.revive()
            return None
        return found[0] if found else None

    def run(self, delivery: Delivery) -> list[Settlement]:
        """Run a message to its end; what became of it, nothing where a plan had the worker die.

        Raises `BrokerError` or `BackendError` when a service fails and goes on failing: the message
        then comes back by its lease.
        """
        try:
            jobs, settled = _tried(lambda: self._executor.open([delivery]))
            settled += [(job.delivery, self._outcome(job)) for job in jobs]
            done = self._committed(settled)
            self._disposed(done)
        except Died:
            log.info("the worker died at %s, as planned; its lease ends in time", delivery.id)
            return []
        finally:
            self._faults.revive()
        settlements = [settlement for _, settlement in done]
        for settlement in settlements:
            show(settlement)
        return settlements

    def _outcome(self, job: Job) -> Settlement:
        unit = Unit(job.delivery.queue, job.message.task)
        self._faults.reach("start", unit)
        settlement = self._executor.run(job)
        # Also if it has died within the task, whose code may have caught that.
        self._faults.reach("end", unit)
        return settlement

    def _committed(self, settled: Sequence[Settled]) -> list[Settled]:
        done: list[Settled] = []
        waiting, tries = settled, 0
        while waiting:
            result = commit(waiting, self._app.broker, self._app.backend, self._app.joins)
            tries += 1
            done += result.ready
            # A result that the store never takes comes back smaller, so another try is worth it.
            if result.error is not None and tries == _TRIES:
                raise result.error
            waiting = result.failed
        return done

    def _disposed(self, done: Sequence[Settled]) -> None:
        waiting = list(done)
        refused: list[Any] = []
        for _ in range(_TRIES):
            refused = _tried(partial(dispose, waiting, self._app.broker))
            # A lease that is lost belongs to someone else, who settles the message.
            refused = [one for one in refused if one.code is not Code.LEASE_LOST]
            again = {id(one.delivery) for one in refused}
            waiting = [pair for pair in waiting if id(pair[0]) in again]
            if not waiting:
                return
        first = refused[0]
        raise BrokerError(f"a message was not settled: {first.reason}", code=first.code)


def show(settlement: Settlement) -> None:
    """Log how a task ended, with the traceback of what it raised; pytest shows that on failure."""
    if settlement.error is None:
        return
    level = logging.ERROR if settlement.state is State.FAILURE else logging.INFO
    log.log(
        level,
        "task %s %s: %s %s",
        settlement.task,
        settlement.task_id,
        settlement.state or settlement.action,
        settlement.reason,
        exc_info=settlement.error if level == logging.ERROR else None,
        extra={"task": settlement.task, "task_id": settlement.task_id},
    )


def _tried(call: Callable[[], T]) -> T:
    """Call again while the service is busy or away."""
    for _ in range(_TRIES - 1):
        try:
            return call()
        except ServiceError as error:
            if error.code not in _PASSING:
                raise
    return call()
