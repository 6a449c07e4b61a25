"""Decides for each delivery if it is run, or settled unrun: expired, revoked, done, over a rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from cloudq import signals
from cloudq.broker.deliveries import allowed_deliveries
from cloudq.driver import Delivery
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.errors import (
    BackendError,
    CloudQError,
    DecodeError,
    KeyServiceError,
    ServiceError,
    UnknownTask,
    WorkerLost,
)
from cloudq.execution import lifecycle
from cloudq.execution.bundles import Parcel, Part, alone, body_of
from cloudq.execution.error_text import line_of, reason_of
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.plain_bundles import PlainBundles
from cloudq.execution.queue_rules import refusal, restrained
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
from cloudq.execution.unpacking import Opened, find_first, parted, unpacked
from cloudq.execution.unstarted import already_buried, already_done, own_word
from cloudq.messages.bundle import Bundle, Unread
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record, State
from cloudq.runtime import Runtime
from cloudq.schedules.run_id import SCHEDULE, resolved
from cloudq.tasks.limits.gate import Gate
from cloudq.tasks.task import Task
from cloudq.tasks.wire_parts import check_parts

log = Log("cloudq.execution")

# Services round delays to a second, so a message may be this early.
_EARLY = 1.0
# Tries in a row in which the store refuses everything, until that counts as an outage.
_TRIES = 3


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

    @cached_property
    def _plain(self) -> PlainBundles:
        return PlainBundles(self._runtime, self._tasks, self._outcomes, self._gate)

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

    def open(self, deliveries: Sequence[Delivery], *, plain: bool = False) -> Opened:
        """Sort deliveries into jobs and settlements, with one batched read of the store.

        Those that the store refuses wait, and with them the later ones of their groups. With
        `plain`, bundles of plain calls are set aside, as what they are.
        """
        read: list[Job] = []
        opened = Opened()
        now = self._runtime.clock()
        parcels: list[Parcel] = []
        for delivery in deliveries:
            found = self._opened(delivery, now)
            if isinstance(found, Parcel):
                parcels.append(found)
            elif isinstance(found, Job):
                read.append(found)
            elif isinstance(found, KeyServiceError):
                opened.keep(delivery, found)
            else:
                opened.settled.append((delivery, found))
        if plain and parcels:
            opened.plain, parcels = self._plain.taken(parcels, among_others=bool(read))
        for parcel in parcels:
            parts = [(part, self._opened(part, now)) for part in parcel.parts]
            read += unpacked(parcel, parts, opened, self._outcomes, self._runtime.backend)
        try:
            jobs, records = self._known(read, opened.settled)
        except BackendError as error:
            settled = {id(delivery) for delivery, _ in opened.settled}
            opened.wait([job for job in read if id(job.delivery) not in settled], error)
            return opened
        if parcels:
            find_first(jobs, records)
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
        if backend is None or not again:
            return judge
        judged = side_by_side(judge, again, billed=backend.driver.limits.billed)
        known = {id(job): verdict for job, verdict in zip(again, judged, strict=True)}
        return lambda job: known.get(id(job)) or judge(job)

    def _opened(
        self, delivery: Delivery, now: float
    ) -> Job | Settlement | Parcel | KeyServiceError:
        """Read a delivery; one whose reading raises is dead-lettered, and no other with it."""
        try:
            if isinstance(delivery, Part):
                if isinstance(delivery.call, Unread):
                    raise delivery.unread(delivery.call)
                message = delivery.call
            else:
                read = self._codec.read(
                    delivery.body, queue=delivery.queue, limit=self._runtime.conf.max_body
                )
                if isinstance(read, Bundle):
                    return Parcel(delivery, read)
                message = read
        except DecodeError as error:
            return self._undecodable(delivery, error)
        except KeyServiceError as error:  # it can be read when that answers
            return error
        except Exception as error:  # whatever the libraries raise for it
            log.exception("message %s on %s cannot be read", delivery.id, delivery.queue)
            return self._undecodable(delivery, DecodeError(_reason(error)))
        try:
            if message.chain or message.link or message.link_error:
                check_parts(message, now)
            return self._decoded(delivery, message, now)
        except ServiceError:
            raise
        except BaseException as error:
            pass_ends(error)
            if isinstance(error, DecodeError) and signals.task_rejected:
                lifecycle.rejected(body_of(delivery), error)
            return self._spoiled(delivery, message, error)

    def _undecodable(self, delivery: Delivery, error: DecodeError) -> Settlement:
        if signals.task_rejected:
            lifecycle.rejected(body_of(delivery), error)
        reason, known = line_of(str(error)), error.fields
        call = salvage(known, queue=delivery.queue) if known is not None else None
        if call is not None:
            return replace(self._unrunnable(delivery, call, error), reason=reason)
        return Settlement(action=Action.DEAD_LETTER, reason=reason)

    def _spoiled(self, delivery: Delivery, message: TaskMessage, why: BaseException) -> Settlement:
        """Fail the call of a message that cannot be judged, and dead-letter it."""
        if not isinstance(why, CloudQError):
            log.error(
                "message %s on %s cannot be judged", delivery.id, delivery.queue, exc_info=why
            )
            why = DecodeError(_reason(why))
        return self._unrunnable(delivery, message, why)

    def _unrunnable(self, delivery: Delivery, message: TaskMessage, why: CloudQError) -> Settlement:
        message = restrained(self._runtime.conf, delivery.queue, message)
        try:
            return self._outcomes.unrunnable(delivery, message, why)
        except Exception:  # what follows it is what cannot be read
            return self._outcomes.unrunnable(delivery, without_parts(message), why)

    def _verdict(self, job: Job, record: Record | None) -> Job | Settlement:
        """Judge one job; what raises, and is no outage, concerns this one alone."""
        try:
            verdict = self._judged(job, record)
            if isinstance(verdict, Job):
                verdict = self._paced(verdict)
            if isinstance(verdict, Job) and signals.task_received.connections:
                task = self._tasks[verdict.message.task]
                lifecycle.received(task, lifecycle.bare(verdict.message, task))
            return verdict
        except ServiceError as error:
            if error.code not in NEVER:
                raise
            return self._spoiled(job.delivery, job.message, error)
        except Exception as error:
            return self._spoiled(job.delivery, job.message, error)

    def _decoded(self, delivery: Delivery, message: TaskMessage, now: float) -> Job | Settlement:
        conf, refused = self._runtime.conf, None
        if message.task not in self._tasks or conf.queue_tasks or conf.queue_limits:
            refused = refusal(conf, self._tasks, delivery, message, now)
        if refused is not None:
            if signals.task_unknown and isinstance(refused, UnknownTask):
                lifecycle.unknown(message, refused)
            failed = self._unrunnable(delivery, message, refused)
            return replace(failed, reason=str(refused))
        if message.queue != delivery.queue:
            message = message.model_copy(update={"queue": delivery.queue})
        if SCHEDULE in message.headers:
            message = resolved(message, delivery)
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
                (job,) = jobs
                spoiled = self._spoiled(job.delivery, job.message, error)
                settled.append((job.delivery, replace(spoiled, record=None)))
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
        found: dict[str, Record] = {}
        if any(isinstance(job.delivery, Part) for job in jobs):
            parts, jobs = parted(jobs, self._outcomes)
            bundles = {job.delivery.parcel.name for job in parts if isinstance(job.delivery, Part)}
            ids = [job.message.id for job in parts]
            found = backend.bundles.of_bundles(bundles, ids, consistent=consistent)
        return found | backend.records(
            [j.message.id for j in jobs], consistent=consistent, own=True
        )

    def _judged(self, job: Job, record: Record | None) -> Job | Settlement:
        """Return the job to run, or its settlement where its record or message forbids that."""
        if record is not None:
            record = own_word(record, job.message)
        if record is not None and record.dead_lettered:
            said = record.error_type if self._codec.encryption else record.error
            if buried := already_buried(job, record, said or "dead-lettered"):
                return buried
            record = self._reopened(job)
        message, attempts = job.message, job.delivery.attempts
        if record is None and attempts == 1 and message.not_before is message.expires is None:
            return job  # there is no record, and the message sets no condition
        if in_place := self._outcomes.stays_in_place(job.delivery):
            job = self._with_retries(job, record)
            message = job.message
        if record is not None and (record.terminal or record.retries > message.retries):
            # The process that ran it may have died before it told the chord.
            return already_done(message, record)
        is_late = message.expires is not None and message.expires <= self._runtime.clock()
        if is_late or (record is not None and record.revoked):
            # Two deliveries may both get here: the end that is recorded first stays.
            return self.revoked(
                replace(job, fenced=attempts > 1), "expired" if is_late else "revoked"
            )
        if message.not_before is not None and message.not_before > self._runtime.clock() + _EARLY:
            # The delay is longer than the service allows, so it is re-sent in hops.
            return unrecorded(message, Action.ACK, resend=copy_of(message), reason="not due yet")
        part = job.delivery if isinstance(job.delivery, Part) else None
        if part is not None and part.parcel.is_too_often and not in_place:
            return alone(part, message)
        allowed = allowed_deliveries(self._runtime.conf.max_deliveries, ordered=in_place)
        if attempts > allowed and (part is None or part.parcel.first is part):
            lost = WorkerLost(
                f"delivered {attempts} times and never finished: "
                "its process died, it ran out of time, or it was put back each time"
            )
            lifecycle.lost(self._tasks[message.task], message, lost)
            return self._outcomes.failed(job, lost, bury=True)
        return self._claimed(job, record) if attempts > 1 else job

    def revoked(self, job: Job, reason: str) -> Settlement:
        """Settle a job that is not run, and send `task_revoked`."""
        if signals.task_revoked:
            task = self._tasks[job.message.task]
            lifecycle.revoked(task, lifecycle.bare(job.message, task), reason)
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
        if (backend := self._runtime.backend) is not None:
            backend.reopen(self._outcomes.record(job, State.PENDING))

    def _with_retries(self, job: Job, record: Record | None) -> Job:
        """Add the number of retries to a message that stays in place, whose body does not change.

        It comes from the record. Without a store the deliveries count, also those given back unrun.
        """
        known = job.message.retries
        retries = known if record is None else record.retries
        if self._runtime.backend is None:
            retries = job.delivery.attempts - 1
        if retries <= known:
            return job
        return replace(job, message=copy_of(job.message, retries=retries))

    def _claimed(self, job: Job, record: Record | None) -> Job | Settlement:
        """Record this delivery's fence for a redelivered task, so that a late record is refused."""
        backend = self._runtime.backend
        if backend is None or self._outcomes.ignores_result(job.message):
            return job
        if isinstance(job.delivery, Part):  # the bundle is claimed as a whole
            return replace(job, fenced=True)
        state = record.state if record else State.PENDING
        standing = backend.advance(replace(self._outcomes.record(job, state), worker=None))
        if standing is None:  # the end may have been written, with others, since the look
            standing = backend.series.end_of(job.message.id)
        if standing is None or standing.call != job.message.call:  # that of its id's other call
            return replace(job, fenced=True)
        if standing.terminal:
            return already_done(job.message, standing)
        return unrecorded(job.message, Action.NOTHING, reason="a later delivery has it")


def _reason(error: BaseException) -> str:
    return f"it cannot be judged: {line_of(reason_of(error))}"
