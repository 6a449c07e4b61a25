"""Takes deliveries from receipt to the end of their messages, for every place that runs tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from cloudq.broker.broker import Broker, Refused
from cloudq.driver import Code, Delivery
from cloudq.errors import BrokerError, ServiceError
from cloudq.execution.commit import commit, dispose
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, Batch, Settled, Settlement
from cloudq.results.backend import Backend
from cloudq.results.record import FAILED, State

# Codes after which a service may accept the next try, maybe with a smaller record.
_AGAIN = frozenset({Code.THROTTLED, Code.TOO_LARGE, Code.INVALID})


class Consumer:
    """Opens deliveries, runs their tasks, commits the outcomes and disposes of the messages.

    `consume` does all of it, one task after the other. A worker, whose steps are in different
    threads and processes, takes them one by one.

    `heard` is called with each durable outcome. An outcome that a service refuses with a code in
    `again` is tried up to `tries` times, at once. `tracebacks` adds them to the log of failures.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        log: logging.Logger,
        heard: Callable[[Settlement], None] | None = None,
        tries: int = 1,
        again: Collection[Code] = _AGAIN,
        tracebacks: bool = False,
    ) -> None:
        self.executor = executor
        self.log = log
        self._heard = heard
        self._tries = tries
        self._again = again
        self._tracebacks = tracebacks

    @property
    def broker(self) -> Broker:
        """The broker that the messages are settled on."""
        return self.executor.runtime.broker

    @property
    def backend(self) -> Backend | None:
        """The result store, None where the app has none."""
        return self.executor.backend

    def consume(self, deliveries: Sequence[Delivery]) -> list[Settled]:
        """Finish each delivery before the next one starts, and return the final outcomes.

        Raises `BackendError` or `BrokerError` when a service keeps failing: deliveries that were
        not finished come back when their leases end.
        """
        jobs, settled = self.open(deliveries)
        done = self.finish(settled) if settled else []
        for job in jobs:
            done += self.finish([(job.delivery, self.run_job(job))])
        return done

    def open(self, deliveries: Sequence[Delivery]) -> tuple[list[Job], list[Settled]]:
        """Sort deliveries into jobs to run, and outcomes of those that are not run.

        Raises `BackendError` when the store cannot be read: nothing is settled then.
        """
        return self.executor.open(deliveries)

    def run_job(self, job: Job) -> Settlement:
        """Call the task of a job."""
        return self.executor.run(job)

    def finish(self, pairs: Sequence[Settled]) -> list[Settled]:
        """Make outcomes durable, then settle their messages; raises as `consume`."""
        batch = self.commit(pairs)
        if batch.failed and batch.error is not None:
            raise batch.error
        refused = self.dispose(batch.ready)
        if refused:
            first = refused[0]
            raise BrokerError(
                f"{len(refused)} messages were not settled: {first.reason}", code=first.code
            )
        return batch.ready

    def commit(self, pairs: Sequence[Settled]) -> Batch:
        """Make outcomes durable, and log those that are."""
        batch = self._committed(pairs)
        tries = 1
        while batch.failed and tries < self._tries and self._passes(batch.error):
            done = batch.ready
            batch = self._committed(batch.failed)
            batch.ready[:0] = done
            tries += 1
        for _, settlement in batch.ready:
            log_outcome(self.log, settlement, traceback=self._tracebacks)
            if self._heard is not None:
                self._heard(settlement)
        return batch

    def _committed(self, pairs: Sequence[Settled]) -> Batch:
        needed = any(each.member_result or each.failed_steps for _, each in pairs)
        joins = self.executor.joins if needed else None
        return commit(pairs, self.broker, self.backend, joins)

    def _passes(self, error: Exception | None) -> bool:
        return isinstance(error, ServiceError) and error.code in self._again

    def dispose(self, pairs: Sequence[Settled]) -> list[Refused]:
        """Settle messages, and return what the broker refused.

        A message whose lease is lost is not among them: another process has it, and settles it.
        """
        waiting = pairs
        refused: list[Refused] = []
        for _ in range(self._tries):
            refused = [r for r in dispose(waiting, self.broker) if r.code is not Code.LEASE_LOST]
            if not refused:
                break
            again = {id(each.delivery) for each in refused}
            waiting = [pair for pair in waiting if id(pair[0]) in again]
        return refused


def log_outcome(log: logging.Logger, settlement: Settlement, *, traceback: bool = False) -> None:
    """Log one line for one outcome, with the task's name, id and state as fields.

    A failure is a warning, or with `traceback` an error. Another outcome with a reason is
    information, and a plain success is for debugging.
    """
    failed = settlement.state in FAILED or settlement.action is Action.DEAD_LETTER
    level = logging.DEBUG
    if settlement.reason:
        level = logging.WARNING if failed else logging.INFO
    shown = settlement.error if traceback and settlement.state is State.FAILURE else None
    if shown is not None:
        level = logging.ERROR
    if not log.isEnabledFor(level):
        return
    log.log(
        level,
        "task %s %s: %s%s",
        settlement.task or "?",
        settlement.task_id or "?",
        settlement.state or settlement.action,
        f" ({settlement.reason})" if settlement.reason else "",
        exc_info=shown,
        extra={
            "task": settlement.task,
            "task_id": settlement.task_id,
            "state": settlement.state and str(settlement.state),
        },
    )
