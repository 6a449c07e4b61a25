"""Makes the settlement for each way that a call can end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloudq.amounts import count
from cloudq.canvas.slots import MemberResult, Slot
from cloudq.canvas.tails import calls_of
from cloudq.canvas.workflows import Workflows
from cloudq.driver import Delivery
from cloudq.driver.immutable import immutable
from cloudq.errors import CloudQError, ConfigurationError, Reject, Replaced, Retry
from cloudq.execution.error_text import reason_of, said, spent, with_error
from cloudq.execution.settlement import (
    EAGER,
    Action,
    FailedSteps,
    Settlement,
    copy_of,
    delivered_before,
    unneeded,
    unrecorded,
)
from cloudq.messages.message import TaskMessage, payloads_of
from cloudq.publishing.builder import too_deep
from cloudq.results.record import IGNORED, TERMINAL, Record, State, as_ignored, fence
from cloudq.runtime import Runtime
from cloudq.tasks.call_options import LONGEST_WAIT, checked_countdown
from cloudq.tasks.checkpoints import Progress
from cloudq.tasks.limits.gate import Wait
from cloudq.tasks.limits.unique import unique_key
from cloudq.tasks.limits.worker_rate import FARTHEST
from cloudq.tasks.task import Task

_REQUEUED_AFTER = 1.0


@immutable
class Job:
    """A delivery to run.

    `fenced`: another process may have run it. `limits` and `progress` are of a run in short time.
    """

    delivery: Delivery
    message: TaskMessage
    fenced: bool = False
    limits: tuple[float | None, float | None] | None = None
    progress: Progress | None = None

    @property
    def is_conditional(self) -> bool:
        """True if another delivery, or a later call with this given id, may write its record."""
        return self.fenced or self.message.call is not None

    @property
    def fence(self) -> int:
        message = self.message
        sent = message.retries + message.replaced + message.continued
        before = delivered_before(message) if message.headers else 0
        return fence(sent, self.delivery.attempts + before)


class Outcomes:
    """Makes settlements by the options of tasks and the settings of the app."""

    def __init__(
        self,
        runtime: Runtime,
        tasks: Mapping[str, Task[..., Any]],
        workflows: Workflows,
        *,
        hostname: str,
        is_eager: bool = False,
    ) -> None:
        self._runtime = runtime
        self.clock = runtime.clock
        self._workflows = workflows
        self._tasks = tasks
        self._hostname = hostname
        self.is_eager = is_eager
        # The soft and hard time limits that an operator has set in this worker, by task.
        self.time_limits: dict[str, tuple[float | None, float | None]] = {}

    def failed(
        self,
        job: Job,
        error: BaseException,
        started: float | None = None,
        *,
        bury: bool = False,
    ) -> Settlement:
        """Settle a job that failed for good; `bury` dead-letters it."""
        record = with_error(self.record(job, State.FAILURE, started), error)
        bury = bury or self._tasks[job.message.task].policy.dead_letter
        action = Action.DEAD_LETTER if bury else Action.ACK
        return self._ended(job, record, action, reason=reason_of(error), error=error)

    def unrunnable(
        self, delivery: Delivery, message: TaskMessage, error: CloudQError
    ) -> Settlement:
        """Fail a part of a workflow that cannot be run, so that the workflow does not wait for it.

        Its record has not been read, so an end that is recorded stays.
        """
        if message.queue != delivery.queue:
            message = message.model_copy(update={"queue": delivery.queue})
        return self.failed(Job(delivery=delivery, message=message, fenced=True), error, bury=True)

    def spoiled(self, job: Job, error: BaseException) -> Settlement:
        """Fail and dead-letter a job without a settlement; what follows it may be what raised."""
        message = job.message
        record = replace(
            self.record(job, State.FAILURE),
            error_type="cloudq.errors.CloudQError",
            error=f"its outcome could not be made: {reason_of(error)}",
            dead_lettered=True,
        )
        try:
            member_result = member_result_of(message, record)
            failed_steps = failed_steps_of(message, record)
        except Exception:  # what is broken in it
            member_result, failed_steps = None, None
        return Settlement(
            action=Action.DEAD_LETTER,
            task_id=message.id,
            task=message.shadow or message.task,
            name=message.task,
            state=State.FAILURE,
            reason=str(record.error),
            record=record,
            fenced=job.is_conditional,
            member_result=member_result,
            unique_claim=unique_key(message) if message.unique_key is not None else None,
            failed_steps=failed_steps,
            error=error,
        )

    def succeeded(self, job: Job, value: str | None, started: float | None) -> Settlement:
        """Settle a call that returned `value`, as JSON text."""
        record = self.record(job, State.SUCCESS, started, None if value == "null" else value)
        return self._ended(job, record, Action.ACK)

    def revoked(self, job: Job, reason: str) -> Settlement:
        """Settle a call that is not run."""
        record = replace(self.record(job, State.REVOKED), error=reason)
        return self._ended(job, record, Action.ACK, reason=reason)

    def ignored(self, job: Job) -> Settlement:
        """Settle a call whose task raised `Ignore`: without a record, and its chord fails."""
        ended = as_ignored(self.record(job, State.FAILURE))
        return unrecorded(
            job.message,
            Action.ACK,
            reason=IGNORED,
            member_result=member_result_of(job.message, ended),
            failed_steps=failed_steps_of(job.message, ended),
        )

    def rejected(self, job: Job, reject: Reject, started: float) -> Settlement:
        """Settle a call whose task raised `Reject`."""
        reason = said(reject.reason)
        if reject.requeue:
            return unrecorded(job.message, Action.RELEASE, after=_REQUEUED_AFTER, reason=reason)
        record = replace(self.record(job, State.REJECTED, started), error=reason)
        return self._ended(job, record, Action.DEAD_LETTER, reason=reason, error=reject)

    def retry(
        self,
        job: Job,
        cause: BaseException,
        started: float,
        *,
        max_retries: int | None = None,
        countdown: float | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Settlement:
        """Settle a call that is tried again, or that fails since it was tried too often.

        `changes` are the fields that differ in the message of the next try.
        """
        message = job.message
        task = self._tasks[message.task]
        allowed = self.retries(task)
        if max_retries is not None:
            allowed = count(max_retries, "max_retries of a retry")
        if allowed is not None and message.retries >= allowed:
            return self.failed(job, spent(cause, message.task), started)
        if countdown is not None:
            delay = checked_countdown(countdown)
        else:
            delay = task.policy.delay(message.retries, self._runtime.conf.default_retry_delay)
            delay = min(max(0.0, delay), LONGEST_WAIT)
        if changes and self.stays_in_place(job.delivery):
            why = f"a retry on {job.delivery.queue!r} is the same message: it cannot change"
            return self.failed(job, ConfigurationError(f"{why} {', '.join(changes)}"), started)
        return self._again(job, task, cause, started, delay, changes or {})

    def _again(
        self,
        job: Job,
        task: Task[..., Any],
        cause: BaseException,
        started: float,
        delay: float,
        changes: Mapping[str, Any],
    ) -> Settlement:
        """Settle a call that is tried again after `delay` seconds."""
        message = job.message
        number = message.retries + 1
        in_place = self.stays_in_place(job.delivery)
        record = None
        tracked = self.tracks(task) or self._runtime.conf.task_track_retries
        if in_place or (tracked and not self.ignores_result(message)):
            record = replace(
                with_error(self.record(job, State.RETRY, started), cause),
                retries=number,
                fence=fence(number + message.replaced + message.continued, 0),
            )
        settled = Settlement(
            action=Action.ACK,
            task_id=message.id,
            task=message.shadow or message.task,
            name=message.task,
            state=State.RETRY,
            reason=f"retry {number} in {delay:.3g} s: {reason_of(cause)}",
            record=record,
            fenced=job.is_conditional,
            error=cause,
        )
        if in_place:
            return replace(settled, action=Action.RELEASE, after=delay)
        not_before = self.clock() + delay if delay else None
        # A turn under a rate limit holds for one try only.
        again = {"waits": 0, "turn": None, **changes, "retries": number, "not_before": not_before}
        return replace(settled, resend=copy_of(message, **again))

    def replaced(self, job: Job, replaced: Replaced) -> Settlement:
        """Settle a call that a workflow replaces."""
        if job.message.depth >= self._runtime.conf.max_depth:
            return self.failed(job, too_deep(self._runtime.conf.max_depth))
        plan = self._workflows.in_place_of(job.message, replaced.node)
        ended = unrecorded(job.message, Action.ACK, reason=said(replaced)[:1000])
        return replace(ended, starts=plan, error=replaced)

    def _ended(
        self,
        job: Job,
        record: Record,
        action: Action,
        *,
        reason: str = "",
        error: BaseException | None = None,
    ) -> Settlement:
        if action is Action.DEAD_LETTER:
            record = replace(record, dead_lettered=True)
        message = job.message
        follows = message.chain or message.link or message.link_error
        starts = self._workflows.planner.after(message, record) if follows else None
        frees = payloads_of(message, follow=record.state is not State.SUCCESS)
        return Settlement(
            starts=starts,
            member_result=member_result_of(message, record),
            action=action,
            task_id=job.message.id,
            task=message.shadow or message.task,
            name=message.task,
            state=record.state,
            reason=reason,
            record=None if self.ignores_result(job.message) else record,
            fenced=job.is_conditional,
            unique_claim=unique_key(message) if message.unique_key is not None else None,
            failed_steps=failed_steps_of(message, record),
            frees=unneeded(frees, starts) if frees and starts is not None else frees,
            error=error,
        )

    def record(
        self, job: Job, state: State, started: float | None = None, value: str | None = None
    ) -> Record:
        """Make the record of a call in this state."""
        message = job.message
        return Record(
            id=message.id,
            state=state,
            task=message.task,
            value=value,
            started_at=started,
            finished_at=self.clock() if state in TERMINAL else None,
            retries=message.retries,
            fence=job.fence,
            queue=message.queue,
            worker=self._hostname or None,
            parent=message.parent,
            join=message.gather,
            call=message.call,
        )

    def later(self, job: Job, after: float, reason: str) -> Settlement:
        """Put off a job that has not run, as a copy: its waiting must not count as deliveries."""
        if self.stays_in_place(job.delivery):
            return unrecorded(job.message, Action.RELEASE, after=after, reason=reason)
        copy = copy_of(job.message, not_before=self.clock() + after)
        return unrecorded(job.message, Action.ACK, resend=copy, reason=reason)

    def over_limit(self, job: Job, wait: Wait) -> Settlement:
        """Put off a call that is over a limit, as a copy that counts its waits, or in its place."""
        if self.stays_in_place(job.delivery):
            # Each look counts as a delivery, so there should be few.
            after = min(max(wait.after, 2.0 ** min(job.delivery.attempts, 10)), FARTHEST)
            return unrecorded(job.message, Action.RELEASE, after=after, reason=wait.reason)
        due = wait.turn or self.clock() + wait.after
        copy = copy_of(job.message, not_before=due, waits=job.message.waits + 1, turn=wait.turn)
        return unrecorded(job.message, Action.ACK, resend=copy, reason=wait.reason)

    def continued(self, job: Job) -> Settlement:
        """Continue a call that has saved its state, in a new message of the same id."""
        reason = "goes on from its checkpoint"
        if self.stays_in_place(job.delivery):
            return unrecorded(job.message, Action.RELEASE, reason=reason)
        message = job.message
        copy = copy_of(
            message, continued=message.continued + 1, not_before=None, waits=0, turn=None
        )
        return unrecorded(message, Action.ACK, resend=copy, reason=reason)

    def stays_in_place(self, delivery: Delivery) -> bool:
        """Say if a retry must be the same message, since a copy would lose its place."""
        limits = EAGER if self.is_eager else self._runtime.broker.limits(delivery.queue)
        return limits.keeps_place(delivery.group)

    def retries(self, task: Task[..., Any]) -> int | None:
        """Return the number of retries that the task allows; None means no limit."""
        return task.policy.retries(self._runtime.conf.max_retries)

    def is_retried(self, job: Job, task: Task[..., Any], error: BaseException) -> bool:
        """Say if the call is tried again when it ends with this exception."""
        most: int | None
        if isinstance(error, Retry):
            most = error.max_retries
        elif task.policy.retries_by_itself(job.message.id, error):
            most = task.policy.retry_kwargs.get("max_retries")
        else:
            return False
        allowed = self.retries(task) if most is None else most
        if most is not None and not isinstance(most, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            return False  # a slip, as which it fails
        return allowed is None or job.message.retries < allowed

    def tracks(self, task: Task[..., Any]) -> bool:
        """Say if STARTED and RETRY are recorded."""
        tracked = task.policy.track_started
        return self._runtime.conf.task_track_started if tracked is None else tracked

    def ignores_result(self, message: TaskMessage) -> bool:
        """Say if the end of a call is not recorded. That of a chord's member always is."""
        if message.slot is not None:
            return False
        if message.ignore_result is not None:
            return message.ignore_result
        task = self._tasks.get(message.task)  # None: only another app has it
        ignored = task.policy.ignore_result if task is not None else None
        return self._runtime.conf.task_ignore_result if ignored is None else ignored

    def is_unread(self, message: TaskMessage) -> bool:
        """Say if neither a record nor what follows has the value of a call."""
        return self.ignores_result(message) and not (message.chain or message.link)

    def limits(self, message: TaskMessage) -> tuple[float | None, float | None]:
        """Return the soft and the hard time limit of a call: its own, the task's, or the app's."""
        soft, hard = self.task_limits(message.task)
        return message.soft_time_limit or soft, message.time_limit or hard

    def task_limits(self, name: str) -> tuple[float | None, float | None]:
        """Return a task's soft and hard time limit in this process: its own or the app's."""
        policy, conf = self._tasks[name].policy, self._runtime.conf
        soft, hard = self.time_limits.get(name, (policy.soft_time_limit, policy.time_limit))
        return soft or conf.task_soft_time_limit, hard or conf.task_time_limit

    def limits_of(self, job: Job) -> tuple[float | None, float | None]:
        """Return the soft and the hard time limit of a run."""
        return job.limits or self.limits(job.message)


def member_result_of(message: TaskMessage, record: Record) -> MemberResult | None:
    """Make the result of a chord's member; None while it is a step of a chain that goes on."""
    if message.slot is None or (message.chain and record.state is State.SUCCESS):
        return None
    return MemberResult(slot=Slot.from_wire(message.slot), record=record)


def failed_steps_of(message: TaskMessage, record: Record) -> FailedSteps | None:
    """Return the steps that will never run, after an end that is no success; None if all may."""
    if not message.chain or record.state is State.SUCCESS:
        return None
    calls, stored = calls_of(message.chain)
    return FailedSteps(because=record, calls=calls, stored=stored)
