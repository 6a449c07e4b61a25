"""Takes deliveries from receipt to the end of their messages, for every place that runs tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import itemgetter

from cloudq.amounts import counted
from cloudq.broker.broker import Broker, Refused
from cloudq.driver import Code, Delivery, StoreBeside
from cloudq.driver.log import Log
from cloudq.errors import BrokerError, PayloadError, ServiceError
from cloudq.execution.bundles import Held, Part, is_revoked
from cloudq.execution.commit import commit, dispose, items_of
from cloudq.execution.deadline import released
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import ENDS, Action, Batch, Settled, Settlement
from cloudq.messages.ids import place_of
from cloudq.results.backend import Backend
from cloudq.results.record import FAILED, State
from cloudq.tasks.secrecy import hiding

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
        log: Log,
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
        self._at_once = AtOnce(log)

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
        if any(isinstance(delivery, Part) for delivery in _of(jobs, settled)):
            return self._consume_bundled(jobs, settled)
        done = self.finish(settled) if settled else []
        for job in jobs:
            done += self.finish([(job.delivery, self.run_job(job))])
        return done

    def _consume_bundled(self, jobs: Sequence[Job], settled: Sequence[Settled]) -> list[Settled]:
        """Do as `consume` with calls of which some come in bundles, and are finished together.

        Where one of an ordered group stays, the later ones of its group are not run.
        """
        held = Held[Settled](itemgetter(0))
        done = self.finish(held.ready(settled)) if settled else []
        stays = self._staying(settled) | self._staying(done)
        for job in jobs:
            if stays and self._group(job.delivery) in stays:
                outcome = released(job, "an earlier message of its group comes first")
            elif is_revoked(job.delivery):
                outcome = self.executor.revoked(job, "revoked")
            else:
                outcome = self.run_job(job)
            ended = [(job.delivery, outcome)]
            stays |= self._staying(ended)
            ready = held.ready(ended)
            if ready:
                ended = self.finish(ready)
                stays |= self._staying(ended)
                done += ended
        left = held.left()
        return done + self.finish(left) if left else done

    def _staying(self, pairs: Iterable[Settled]) -> set[tuple[str, str]]:
        """Return the ordered groups of which a message stays in its queue."""
        groups = (self._group(delivery) for delivery, each in pairs if each.action not in ENDS)
        return {group for group in groups if group is not None}

    def _group(self, delivery: Delivery) -> tuple[str, str] | None:
        if delivery.group is None or not self.broker.limits(delivery.queue).ordered:
            return None
        return delivery.queue, delivery.group

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
        if batch.error is not None:
            raise batch.error
        refused = self.dispose(batch.ready)
        if refused:
            first = refused[0]
            raise BrokerError(
                f"{counted(len(refused), 'message')} not settled: {first.reason}", code=first.code
            )
        return batch.ready

    def commit(self, pairs: Sequence[Settled]) -> Batch:
        """Make outcomes durable, and log those that are."""
        batch = self._committed(pairs)
        tries = 1
        while batch.failed and tries < self._tries and self._passes(batch.error):
            done = batch.ready
            batch = self._committed(batch.failed)
            batch.ready = [*done, *batch.ready]
            tries += 1
        self._tell(batch.ready)
        return batch

    def settle_at_once(self, pairs: Sequence[Settled]) -> list[Settled]:
        """Commit and dispose of plain outcomes in one transaction, where one can do both.

        Returns those that are settled; the others, maybe all, are left to `commit`.
        """
        done = self._at_once.settle(pairs, self.broker, self.backend)
        self._tell(done)
        return done

    def _tell(self, pairs: Sequence[Settled]) -> None:
        tells_all = self.log.isEnabledFor(logging.DEBUG)
        for delivery, settlement in pairs:
            if tells_all or settlement.reason or settlement.error is not None:
                log_outcome(self.log, settlement, delivery, traceback=self._tracebacks)
            if self._heard is not None:
                self._heard(settlement)

    def _committed(self, pairs: Sequence[Settled]) -> Batch:
        needed = any(each.member_result or each.failed_steps for _, each in pairs)
        joins = self.executor.joins if needed else None
        return commit(pairs, self.broker, self.backend, joins)

    def _passes(self, error: ServiceError | None) -> bool:
        return error is not None and error.code in self._again

    def dispose(self, pairs: Sequence[Settled]) -> list[Refused]:
        """Settle messages, and return what the broker refused.

        A message whose lease is lost is not among them: another process has it, and settles it.
        """
        # What has an end on record is not run again, so a process that dies now leaves nothing.
        self.free([pair for pair in pairs if pair[1].record is not None])
        waiting = pairs
        refused: list[Refused] = []
        kept: set[int] = set()
        for _ in range(self._tries):
            answers = dispose(waiting, self.broker)
            refused = [each for each in answers if each.code is not Code.LEASE_LOST]
            kept |= {id(each.delivery) for each in answers if each.code is Code.LEASE_LOST}
            if not refused:
                break
            again = {id(each.delivery) for each in refused}
            waiting = [pair for pair in waiting if id(pair[0]) in again]
        kept |= {id(each.delivery) for each in refused}
        self.free([pair for pair in pairs if pair[1].record is None and id(pair[0]) not in kept])
        return refused

    def free(self, pairs: Sequence[Settled]) -> None:
        """Delete the payloads that acked messages had; a failure is only logged: they expire."""
        gone = [pair[1] for pair in pairs if pair[1].frees and pair[1].action is Action.ACK]
        try:
            payloads = self.executor.runtime.payloads_to_read() if gone else None
        except PayloadError as error:
            self.log.warning("payloads stay until they expire: %s", error)
            return
        if payloads is not None:
            payloads.delete([key for settlement in gone for key in settlement.frees])


def _of(jobs: Sequence[Job], settled: Sequence[Settled]) -> list[Delivery]:
    return [job.delivery for job in jobs] + [delivery for delivery, _ in settled]


class AtOnce:
    """Records and acks outcomes in one transaction, where the queues lie beside the store.

    It does what `commit` and `dispose` do one after the other, and no less: all of it or nothing.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._asked: tuple[object, object] = (None, None)
        self._driver: StoreBeside | None = None

    def settle(
        self, settled: Sequence[Settled], broker: Broker, backend: Backend | None
    ) -> list[Settled]:
        """Settle the outcomes of which nothing else follows; return those that were settled.

        Where anything is refused, or fails, none is, and the usual way finds out what and why.
        """
        if backend is None or (driver := self._beside(broker, backend)) is None:
            return []
        plain = [pair for pair in settled if _is_plain(pair)]
        if not plain:
            return []
        try:
            items = items_of(plain, backend)
            if backend.sealing is not None:
                items = backend.sealing.items(items)
            is_done = driver.settle(backend.driver, items, [delivery for delivery, _ in plain])
        except Exception as error:
            self._log.debug("outcomes are not recorded and acked at once", exc_info=error)
            return []
        return plain if is_done else []

    def _beside(self, broker: Broker, backend: Backend) -> StoreBeside | None:
        """Return the broker's driver if the store lies beside its queues."""
        driver, store = broker.driver, backend.driver
        if self._asked != (driver, store):
            self._driver = None
            if isinstance(driver, StoreBeside) and driver.is_beside(store):
                self._driver = driver
            self._asked = driver, store
        return self._driver


def _is_plain(pair: Settled) -> bool:
    """Tell whether all there is to do is to write a record over what is there, and to ack."""
    delivery, settlement = pair
    if isinstance(delivery, Part) or place_of(settlement.task_id) is not None:
        return False  # its end lies with those of its bundle
    return settlement.action is Action.ACK and not (
        settlement.fenced
        or settlement.resend
        or settlement.starts
        or settlement.drop
        or settlement.member_result
        or settlement.unique_claim
        or settlement.failed_steps
        or settlement.frees
    )


def log_outcome(
    log: Log, settlement: Settlement, delivery: Delivery, *, traceback: bool = False
) -> None:
    """Log one line for one outcome, with the task's name, id and state as fields.

    What cannot be read has neither, and goes by the message's id and queue.

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
    call = f"task {settlement.task or '?'} {settlement.task_id or '?'}"
    if not settlement.task and not settlement.task_id:
        call = f"message {delivery.id} of {delivery.queue}"
    with hiding(settlement.hide):
        log.log(
            level,
            "%s: %s%s",
            call,
            settlement.state or settlement.action,
            f" ({settlement.reason})" if settlement.reason else "",
            exc_info=shown,
            extra={
                "task": settlement.task,
                "task_id": settlement.task_id,
                "state": settlement.state and str(settlement.state),
            },
        )
