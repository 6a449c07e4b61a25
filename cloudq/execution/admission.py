"""Decides for each delivery if it is run, or settled unrun: expired, revoked, done, over a rate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cloudq import signals
from cloudq.broker.deliveries import allowed_deliveries
from cloudq.driver import Delivery
from cloudq.errors import (
    BackendError,
    CloudQError,
    DecodeError,
    ServiceError,
    UnknownTask,
    WorkerLost,
)
from cloudq.execution import lifecycle
from cloudq.execution.error_text import reason_of
from cloudq.execution.outcomes import Job, Outcomes, failed_steps_of, member_result_of
from cloudq.execution.salvage import salvage, without_parts
from cloudq.execution.settlement import (
    NEVER,
    Action,
    Settled,
    Settlement,
    copy_of,
    unrecorded,
)
from cloudq.execution.side_by_side import side_by_side
from cloudq.messages.body import arguments
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record, State
from cloudq.runtime import Runtime
from cloudq.schedules.run_id import SCHEDULE, resolved
from cloudq.tasks.limits.gate import Gate
from cloudq.tasks.request import Request
from cloudq.tasks.task import Task
from cloudq.tasks.wire_parts import check_parts

log = logging.getLogger("cloudq.execution")

# Services round delays to a second, so a message may be this early.
_EARLY = 1.0
# Tries in a row in which the store refuses everything, until that counts as an outage.
_TRIES = 3


@dataclass(slots=True, kw_only=True)
class Opened:
    """Deliveries sorted into jobs and settlements; the store has refused those that wait."""

    jobs: list[Job] = field(default_factory=list[Job])
    settled: list[Settled] = field(default_factory=list[Settled])
    waiting: list[Delivery] = field(default_factory=list[Delivery])
    error: BackendError | None = None

    def wait(self, jobs: Sequence[Job], error: BackendError) -> None:
        """Let jobs wait, because of this error."""
        self.waiting += [job.delivery for job in jobs]
        self.error = error

    def holds_back(self, job: Job) -> bool:
        """Tell whether an earlier message of the job's group waits."""
        place = (job.delivery.queue, job.delivery.group)
        return place[1] is not None and any((d.queue, d.group) == place for d in self.waiting)


class Admission:
    """Sorts deliveries into those to run and those to settle unrun.

    Safe to use from many threads.
    """

    def __init__(
        self,
        runtime: Runtime,
        tasks: Mapping[str, Task[..., Any]],
        outcomes: Outcomes,
        gate: Gate,
    ) -> None:
        self._runtime = runtime
        self._codec = runtime.codec
        self._tasks = tasks
        self._outcomes = outcomes
        self._gate = gate

    def open_all(self, deliveries: Sequence[Delivery]) -> tuple[list[Job], list[Settled]]:
        """Sort deliveries, and try again at once what the store refuses.

        Raises `BackendError` when it refuses all, each of several times. What it still refuses
        when others have passed is settled to be released.
        """
        whole = self.open(deliveries)
        if not whole.waiting:
            return whole.jobs, whole.settled
        waiting: Sequence[Delivery] = whole.waiting
        fruitless = int(len(waiting) == len(deliveries))
        while waiting and fruitless < _TRIES:
            opened = self.open(waiting)
            whole.jobs += opened.jobs
            whole.settled += opened.settled
            fruitless = fruitless + 1 if len(opened.waiting) == len(waiting) else 0
            waiting, whole.error = opened.waiting, opened.error
        if whole.error is not None and len(waiting) == len(deliveries):
            raise whole.error
        back = Settlement(action=Action.RELEASE, reason=f"it waits for the store: {whole.error}")
        return whole.jobs, [*whole.settled, *((delivery, back) for delivery in waiting)]

    def open(self, deliveries: Sequence[Delivery]) -> Opened:
        """Sort deliveries into jobs and settlements, with one batched read of the store.

        Those that the store refuses wait, and with them the later ones of their groups.
        """
        read: list[Job] = []
        opened = Opened(jobs=[], settled=[], waiting=[])
        now = self._runtime.clock()
        for delivery in deliveries:
            found = self._opened(delivery, now)
            if isinstance(found, Job):
                read.append(found)
            else:
                opened.settled.append((delivery, found))
        try:
            jobs, records = self._known(read, opened.settled)
        except BackendError as error:
            settled = {id(delivery) for delivery, _ in opened.settled}
            opened.wait([job for job in read if id(job.delivery) not in settled], error)
            return opened
        verdict_of = self._claiming(jobs, records)
        for job in jobs:
            if opened.waiting and opened.holds_back(job):
                opened.waiting.append(job.delivery)
                continue
            verdict = verdict_of(job)
            if isinstance(verdict, Job):
                opened.jobs.append(verdict)
            elif isinstance(verdict, Settlement):
                opened.settled.append((job.delivery, verdict))
            else:
                opened.wait([job], verdict)
        return opened

    def _claiming(
        self, jobs: Sequence[Job], records: Mapping[str, Record]
    ) -> Callable[[Job], Job | Settlement | BackendError]:
        """Return a function that judges a job. What is redelivered, in no order, is judged now.

        Each of these takes a request, and several are made at a time.
        """

        def judge(job: Job) -> Job | Settlement | BackendError:
            try:
                return self._verdict(job, records.get(job.message.id))
            except BackendError as error:
                return error

        backend = self._runtime.backend
        again = [job for job in jobs if job.delivery.attempts > 1 and job.delivery.group is None]
        if backend is None or len(again) < 2:
            return judge
        judged = side_by_side(judge, again, billed=backend.driver.limits.billed)
        known = {id(job): verdict for job, verdict in zip(again, judged, strict=True)}

        def judged_now(job: Job) -> Job | Settlement | BackendError:
            return known.get(id(job)) or judge(job)

        return judged_now

    def _opened(self, delivery: Delivery, now: float) -> Job | Settlement:
        """Read a delivery; one whose reading raises is dead-lettered, and no other with it."""
        try:
            message = self._codec.decode(
                delivery.body, queue=delivery.queue, limit=self._runtime.conf.max_body
            )
        except DecodeError as error:
            return self._undecodable(delivery, error)
        except Exception as error:  # whatever the libraries raise for it
            log.exception("message %s on %s cannot be read", delivery.id, delivery.queue)
            return self._undecodable(delivery, DecodeError(_reason(error)))
        try:
            if message.chain or message.link or message.link_error:
                check_parts(message, now)
            return self._decoded(delivery, message, now)
        except ServiceError:
            raise
        except Exception as error:
            if isinstance(error, DecodeError) and signals.task_rejected:
                lifecycle.rejected(delivery.body, error)
            return self._spoiled(delivery, message, error)

    def _undecodable(self, delivery: Delivery, error: DecodeError) -> Settlement:
        if signals.task_rejected:
            lifecycle.rejected(delivery.body, error)
        if not self._codec.signed_only:
            member = salvage(delivery.body, queue=delivery.queue)
            if member is not None:
                return self._outcomes.unrunnable(delivery, member, error)
        return Settlement(action=Action.DEAD_LETTER, reason=_line(str(error)))

    def _spoiled(self, delivery: Delivery, message: TaskMessage, error: Exception) -> Settlement:
        """Fail the call of a message that cannot be judged, and dead-letter it."""
        if not isinstance(error, CloudQError):
            log.error(
                "message %s on %s cannot be judged", delivery.id, delivery.queue, exc_info=error
            )
            error = DecodeError(_reason(error))
        try:
            return self._outcomes.unrunnable(delivery, message, error)
        except Exception:  # what follows it is what cannot be read
            return self._outcomes.unrunnable(delivery, without_parts(message), error)

    def _verdict(self, job: Job, record: Record | None) -> Job | Settlement:
        """Judge one job; what raises, and is no outage, concerns this one alone."""
        try:
            verdict = self._judged(job, record)
            if isinstance(verdict, Job):
                verdict = self._paced(verdict)
            if isinstance(verdict, Job) and signals.task_received.connections:
                task = self._tasks[verdict.message.task]
                lifecycle.received(task, bare(verdict.message))
            return verdict
        except ServiceError as error:
            if error.code not in NEVER:
                raise
            return self._spoiled(job.delivery, job.message, error)
        except Exception as error:
            return self._spoiled(job.delivery, job.message, error)

    def _decoded(self, delivery: Delivery, message: TaskMessage, now: float) -> Job | Settlement:
        if message.task not in self._tasks:
            reason = f"unknown task {message.task!r}: is its module in the app's include?"
            if signals.task_unknown:
                lifecycle.unknown(message, UnknownTask(reason))
            failed = self._outcomes.unrunnable(delivery, message, UnknownTask(reason))
            return replace(failed, reason=reason)
        if message.queue != delivery.queue:
            message = message.model_copy(update={"queue": delivery.queue})
        if SCHEDULE in message.headers:
            message = resolved(message, delivery)
        if message.expires is not None and message.expires <= now:
            return self.revoked(Job(delivery=delivery, message=message), "expired")
        return Job(delivery=delivery, message=message)

    def _known(
        self, jobs: Sequence[Job], settled: list[Settled]
    ) -> tuple[Sequence[Job], Mapping[str, Record]]:
        """Read the records of jobs by their ids; settle those whose record no store can have.

        Return the other jobs, too.
        """
        try:
            return jobs, self._records(jobs)
        except BackendError as error:
            if error.code not in NEVER:
                raise
            if len(jobs) == 1:
                spoiled = self._spoiled(jobs[0].delivery, jobs[0].message, error)
                settled.append((jobs[0].delivery, replace(spoiled, record=None)))
                return (), {}
        kept: list[Job] = []
        found: dict[str, Record] = {}
        for job in jobs:
            known, records = self._known([job], settled)
            kept += known
            found |= records
        return kept, found

    def _records(self, jobs: Sequence[Job]) -> Mapping[str, Record]:
        backend = self._runtime.backend
        if backend is None or not jobs:
            return {}
        # Only an earlier delivery can have left a record that must not be missed.
        consistent = any(job.delivery.attempts > 1 for job in jobs)
        return backend.records([job.message.id for job in jobs], consistent=consistent)

    def _judged(self, job: Job, record: Record | None) -> Job | Settlement:
        """Return the job to run, or its settlement where its record or message forbids that."""
        record = own_word(record, job.message)
        if record is not None and record.dead_lettered:
            if job.delivery.attempts > 1:  # dead-lettering it was interrupted
                reason = record.error or "dead-lettered"
                return unrecorded(job.message, Action.DEAD_LETTER, reason=reason)
            record = self._reopened(job)
        elif record is None and job.delivery.attempts == 1 and job.message.not_before is None:
            return job  # there is no record, and the message sets no condition
        in_place = self._outcomes.stays_in_place(job.delivery)
        if in_place:
            job = self._with_retries(job, record)
        message, attempts = job.message, job.delivery.attempts
        if record is not None and (record.terminal or record.retries > message.retries):
            # The process that ran it may have died before it told the chord.
            return already_done(message, record)
        if record is not None and record.revoked:
            # Two deliveries may both get here: the end that is recorded first stays.
            return self.revoked(replace(job, fenced=attempts > 1), "revoked")
        if message.not_before is not None and message.not_before > self._runtime.clock() + _EARLY:
            # The delay is longer than the service allows, so it is re-sent in hops.
            return unrecorded(message, Action.ACK, resend=copy_of(message), reason="not due yet")
        allowed = allowed_deliveries(self._runtime.conf.max_deliveries, ordered=in_place)
        if attempts > allowed:
            lost = WorkerLost(
                f"delivered {attempts} times and never finished: "
                "its process died, it ran out of time, or it was put back each time"
            )
            lifecycle.failed(self._tasks[message.task], bare(message), lost)
            return self._outcomes.failed(job, lost, bury=True)
        return self._claimed(job, record) if attempts > 1 else job

    def revoked(self, job: Job, reason: str) -> Settlement:
        """Settle a job that is not run, and send `task_revoked`."""
        if signals.task_revoked:
            task, request = self._tasks[job.message.task], bare(job.message)
            lifecycle.revoked(task, request, expired=reason == "expired")
        return self._outcomes.revoked(job, reason)

    def _paced(self, job: Job) -> Job | Settlement:
        """Return the job if this worker's rate for its task lets it start, else its settlement."""
        throttle = self._tasks[job.message.task].policy.throttle
        if throttle is None and not self._gate.has_rates:
            return job
        wait = self._gate.pace(job.message, throttle)
        return job if wait is None else self._outcomes.over_limit(job, wait)

    def _reopened(self, job: Job) -> None:
        """Reset the record of a task whose dead letter an operator has sent again."""
        backend = self._runtime.backend
        if backend is not None:
            backend.store([self._outcomes.record(job, State.PENDING)])

    def _with_retries(self, job: Job, record: Record | None) -> Job:
        """Add the number of retries to a message that stays in place, whose body does not change.

        It comes from the record. Without a store the deliveries count, also those given back unrun.
        """
        retries = record.retries if record is not None else 0
        if self._runtime.backend is None:
            retries = job.delivery.attempts - 1
        if retries <= job.message.retries:
            return job
        return replace(job, message=copy_of(job.message, retries=retries))

    def _claimed(self, job: Job, record: Record | None) -> Job | Settlement:
        """Record this delivery's fence for a redelivered task, so that a late record is refused."""
        backend = self._runtime.backend
        if backend is None or self._outcomes.ignores_result(job.message):
            return job
        state = record.state if record else State.PENDING
        standing = backend.advance(replace(self._outcomes.record(job, state), worker=None))
        if standing is None:
            return replace(job, fenced=True)
        if standing.call != job.message.call:  # its record is kept by another call of its id
            return replace(job, fenced=True)
        if standing.terminal:
            return already_done(job.message, standing)
        return unrecorded(job.message, Action.NOTHING, reason="a later delivery has it")


def own_word(record: Record | None, message: TaskMessage) -> Record | None:
    """Return what a record says of this call, None if it is of another call of the same id.

    A revocation is of the id: it concerns each call that has not ended.
    """
    if record is None or record.call == message.call:
        return record
    is_revoked = record.revoked and not record.terminal
    return Record(id=record.id, state=State.PENDING, revoked=True) if is_revoked else None


def already_done(message: TaskMessage, record: Record) -> Settlement:
    """Settle a message whose task has ended, or been retried, with what its end may still lack."""
    ended = record.terminal
    return unrecorded(
        message,
        Action.ACK,
        reason="already done",
        member_result=member_result_of(message, record) if ended else None,
        failed_steps=failed_steps_of(message, record) if ended else None,
    )


def _reason(error: BaseException) -> str:
    return f"it cannot be judged: {_line(reason_of(error))}"


def _line(text: str) -> str:
    """Return a reason as one printable line, as long as a dead letter may have it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:1000])


def bare(message: TaskMessage) -> Request:
    """Make the request that signals carry for a call that does not run here."""
    try:
        args, kwargs = arguments(message)
    except DecodeError:  # the call will fail with it when it runs
        args, kwargs = message.args, message.kwargs
    return lifecycle.plain(message, args, kwargs)
