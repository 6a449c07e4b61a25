"""One delivery to one settlement: what happens to a message, and the only place a task is called.

`open` looks at a batch of deliveries and settles those that are not to be run; `run` calls the
task of one. `cloudq.settlement` then carries out what the settlements say. A worker, a Lambda,
eager mode and the test kit are callers of these two.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cloudq import idempotency
from cloudq.backend import Backend
from cloudq.broker import ORDERED_PATIENCE
from cloudq.codec import arguments, decode, dump_value
from cloudq.driver import Delivery, Limits
from cloudq.errors import (
    DecodeError,
    Ignore,
    MaxRetriesExceeded,
    Reject,
    Retry,
    ServiceError,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    WorkerLost,
)
from cloudq.interrupt import Alarms, Interruptible, disarm, thread_alarm
from cloudq.message import TaskMessage
from cloudq.middleware import Call, Context, Middleware, Request, current_request, onion
from cloudq.record import TERMINAL, Record, State, fence
from cloudq.settings import Settings
from cloudq.settlement import Action, Settled, Settlement
from cloudq.task import Task

log = logging.getLogger("cloudq.execution")

# Delays are kept to the second by the services, so a message this little early may run.
_EARLY = 1.0
# An equal call that is running is looked at again after this long.
_BUSY_AFTER = 5.0
_REQUEUED_AFTER = 1.0
_STORE_DOWN_AFTER = 30.0
_LONGEST_TEXT = 32_000
# A century: the wire's times end with the year 9999.
_LONGEST_DELAY = 36_525 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A delivery that is to be run. `fenced`: someone else has run, or may be running, it."""

    delivery: Delivery
    message: TaskMessage
    fenced: bool = False

    @property
    def fence(self) -> int:
        return fence(self.message.retries, self.delivery.attempts)


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also where this thread's event loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # The other thread sees this one's context variables, `current_request` among them.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(context.run, asyncio.run, coroutine).result()


class Executor:
    """Runs deliveries of one app. Safe to use from many threads.

    `limits` tells what a queue can do.
    `run_async` runs a coroutine to its end and gives its value. `stop_at_hard_limit` raises
    `TimeLimitExceeded` inside a task at its hard limit, for places where no supervisor can stop
    the process.
    """

    def __init__(
        self,
        *,
        tasks: Mapping[str, Task[..., Any]],
        backend: Callable[[], Backend | None],
        limits: Callable[[str], Limits],
        conf: Settings,
        middleware: Sequence[Middleware] = (),
        hostname: str = "",
        run_async: Callable[[Coroutine[Any, Any, Any]], Any] = run_coroutine,
        stop_at_hard_limit: bool = False,
        is_eager: bool = False,
    ) -> None:
        self._open_backend = backend
        self._limits = limits
        self._tasks = tasks
        self._conf = conf
        self._hostname = hostname
        self._run_async = run_async
        self._stop_at_hard_limit = stop_at_hard_limit
        self._is_eager = is_eager
        self._alarms = Alarms()
        self._call: Call = onion(middleware, self._innermost)

    @property
    def backend(self) -> Backend | None:
        """The result store; opened when it is first needed."""
        return self._open_backend()

    # ---- before: what is to be run, and what is not

    def open(self, deliveries: Sequence[Delivery]) -> tuple[list[Job], list[Settled]]:
        """Sort deliveries into jobs and settlements, with one batched look at the backend.

        Raises `BackendError` when the store cannot be read: nothing is settled then.
        """
        jobs: list[Job] = []
        settled: list[Settled] = []
        now = time.time()
        for delivery in deliveries:
            opened = self._decoded(delivery, now)
            if isinstance(opened, Job):
                jobs.append(opened)
            else:
                settled.append((delivery, opened))
        records = self._records(jobs)
        kept: list[Job] = []
        for job in jobs:
            verdict = self._judged(job, records.get(job.message.id))
            if isinstance(verdict, Job):
                kept.append(verdict)
            else:
                settled.append((job.delivery, verdict))
        return kept, settled

    def _decoded(self, delivery: Delivery, now: float) -> Job | Settlement:
        try:
            message = decode(delivery.body, limit=self._conf.max_body)
        except DecodeError as error:
            return Settlement(action=Action.DEAD_LETTER, reason=str(error))
        if message.task not in self._tasks:
            reason = f"unknown task {message.task!r}: is its module in the app's include?"
            return _settle(message, Action.DEAD_LETTER, reason=reason)
        if message.queue != delivery.queue:
            message = message.model_copy(update={"queue": delivery.queue})
        if message.expires is not None and message.expires <= now:
            return self._revoked(Job(delivery=delivery, message=message), "expired")
        if message.not_before is not None and message.not_before > now + _EARLY:
            return _settle(message, Action.ACK, resend=_copy(message), reason="not due yet")
        return Job(delivery=delivery, message=message)

    def _stays_in_place(self, delivery: Delivery) -> bool:
        """Whether a retry is the same message again: a copy would lose its place in its group.

        A queue that keeps order may be unable to delay a copy, whether or not it has a group.
        """
        limits = self._limits(delivery.queue)
        return limits.ordered and (delivery.group is not None or not limits.max_delay)

    def _records(self, jobs: Sequence[Job]) -> Mapping[str, Record]:
        if self.backend is None or not jobs:
            return {}
        # Only what was out before can have left something that must not be missed.
        consistent = any(job.delivery.attempts > 1 for job in jobs)
        return self.backend.records([job.message.id for job in jobs], consistent=consistent)

    def _judged(self, job: Job, record: Record | None) -> Job | Settlement:
        """The job, or its settlement where what is known of the task says not to run it."""
        if record is not None and record.dead_lettered:
            if job.delivery.attempts > 1:  # its burial was cut short
                reason = record.error or "dead-lettered"
                return _settle(job.message, Action.DEAD_LETTER, reason=reason)
            record = self._reopened(job)
        in_place = self._stays_in_place(job.delivery)
        if in_place:
            job = self._with_retries(job, record)
        message, attempts = job.message, job.delivery.attempts
        if record is not None and (record.terminal or record.retries > message.retries):
            return _settle(message, Action.ACK, reason="already done")
        if record is not None and record.revoked:
            return self._revoked(job, "revoked")
        allowed = self._conf.max_deliveries * (ORDERED_PATIENCE if in_place else 1)
        if attempts > allowed:
            lost = WorkerLost(
                f"delivered {attempts} times and never finished: "
                "its process died, it ran out of time, or it was put back each time"
            )
            return self.failed(job, lost, bury=True)
        return self._claimed(job, record) if attempts > 1 else job

    def _reopened(self, job: Job) -> None:
        """Forget the end of a task whose dead letter was sent again by an operator."""
        if self.backend is not None:
            self.backend.store([self._record(job, State.PENDING)])

    def _with_retries(self, job: Job, record: Record | None) -> Job:
        """How often a message that stays in place was retried: its body cannot say.

        Without a backend its deliveries are counted, also those that were given back unrun.
        """
        retries = record.retries if record is not None else 0
        if self.backend is None:
            retries = job.delivery.attempts - 1
        if retries <= job.message.retries:
            return job
        return replace(job, message=_copy(job.message, retries=retries))

    def _claimed(self, job: Job, record: Record | None) -> Job | Settlement:
        """Put this delivery's fence on a redelivered task, so that a late record is refused."""
        if self.backend is None or self._ignores_result(job.message):
            return job
        state = record.state if record else State.PENDING
        standing = self.backend.advance(replace(self._record(job, state), worker=None))
        if standing is None:
            return replace(job, fenced=True)
        if standing.terminal:
            return _settle(job.message, Action.ACK, reason="already done")
        return _settle(job.message, Action.NOTHING, reason="a later delivery has it")

    # ---- the run

    def run(self, job: Job) -> Settlement:
        """Call the task of a job. Whatever the task does, the answer is a settlement."""
        task = self._tasks[job.message.task]
        started = time.time()
        try:
            args, kwargs = arguments(job.message)
            args, kwargs = task.arguments.check(args, kwargs)
            claimed = self._claim(job, task, args, kwargs)
        except ServiceError as error:
            log.warning("task %s waits for the store: %s", job.message.id, error)
            return self._later(job, _STORE_DOWN_AFTER, f"the store is down: {error}")
        except Exception as error:  # also what the user's validators and key function raise
            return self.failed(job, error, started)
        if isinstance(claimed, Settlement):
            return claimed
        self._track_started(job, task, started)
        context = Context(request=self._request(job, args, kwargs), args=args, kwargs=kwargs)
        settlement = self._outcome(job, task, context, started)
        return self._with_claim(settlement, claimed) if claimed else settlement

    def _outcome(
        self, job: Job, task: Task[..., Any], context: Context, started: float
    ) -> Settlement:
        token = current_request.set(context.request)
        try:
            value = self._call(context)
        except Ignore:
            return _settle(job.message, Action.ACK, reason="ignored by the task")
        except Reject as reject:
            return self._rejected(job, reject, started)
        except Retry as retry:
            cause = retry.cause or MaxRetriesExceeded(
                f"{job.message.task} may not be retried again"
            )
            allowed = self._retries(task) if retry.max_retries is None else retry.max_retries
            return self._retry(job, task, cause, started, allowed, retry.countdown)
        except BaseException as error:  # the user's code: whatever it raises is its outcome
            retried = isinstance(error, task.policy.autoretry_for)
            if retried and not isinstance(error, task.policy.dont_autoretry_for):
                return self._retry(job, task, error, started, self._retries(task), None)
            return self.failed(job, error, started)
        finally:
            current_request.reset(token)
        try:
            return self._succeeded(job, dump_value(value), started)
        except Exception as error:  # also what the value's own methods raise
            return self.failed(job, error, started)

    def _innermost(self, context: Context) -> object:
        request = context.request
        task = self._tasks[request.task]
        args = (task, *context.args) if task.bind else context.args
        limits: list[tuple[float | None, type[BaseException]]] = [
            (request.soft_time_limit, SoftTimeLimitExceeded)
        ]
        if self._stop_at_hard_limit:
            limits.append((request.time_limit, TimeLimitExceeded))
        alarms = [(after, error) for after, error in limits if after is not None]
        if inspect.iscoroutinefunction(task.function):
            return self._run_async(self._awaited(task.function(*args, **context.kwargs), alarms))
        if not alarms:
            return task.function(*args, **context.kwargs)
        set_alarms = [thread_alarm(error) for _, error in alarms]
        try:
            for alarm, (after, _) in zip(set_alarms, alarms, strict=True):
                self._alarms.set(after, alarm)
            return task.function(*args, **context.kwargs)
        finally:
            disarm(set_alarms)

    async def _awaited(
        self,
        coroutine: Coroutine[Any, Any, Any],
        alarms: Sequence[tuple[float, type[BaseException]]],
    ) -> Any:
        with ExitStack() as stack:
            awaitable: Any = coroutine
            for after, error in alarms:
                awaitable = Interruptible(awaitable, error)
                alarm = awaitable.alarm()
                stack.callback(alarm.cancel)
                self._alarms.set(after, alarm)
            return await awaitable

    # ---- outcomes

    def failed(
        self,
        job: Job,
        error: BaseException,
        started: float | None = None,
        *,
        bury: bool = False,
    ) -> Settlement:
        """The settlement of a job that ended in an error for good; `bury` dead-letters it."""
        policy = self._tasks[job.message.task].policy
        kind = type(error)
        name = kind.__qualname__
        record = replace(
            self._record(job, State.FAILURE, started),
            error_type=name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}",
            error=_text(error)[:_LONGEST_TEXT],
            error_args=_dumped(_args(error)),
            traceback=_utf8("".join(traceback.format_exception(error)))[-_LONGEST_TEXT:],
        )
        action = Action.DEAD_LETTER if bury or policy.dead_letter else Action.ACK
        reason = f"{name}: {_text(error)}"[:1000]
        return self._ended(job, record, action, reason=reason, error=error)

    def _succeeded(self, job: Job, value: str | None, started: float | None) -> Settlement:
        record = self._record(job, State.SUCCESS, started, None if value == "null" else value)
        return self._ended(job, record, Action.ACK)

    def _revoked(self, job: Job, reason: str) -> Settlement:
        record = replace(self._record(job, State.REVOKED), error=reason)
        return self._ended(job, record, Action.ACK, reason=reason)

    def _rejected(self, job: Job, reject: Reject, started: float) -> Settlement:
        reason = _utf8(str(reject.reason))
        if reject.requeue:
            return _settle(job.message, Action.RELEASE, after=_REQUEUED_AFTER, reason=reason)
        record = replace(self._record(job, State.REJECTED, started), error=reason)
        return self._ended(job, record, Action.DEAD_LETTER, reason=reason, error=reject)

    def _retry(
        self,
        job: Job,
        task: Task[..., Any],
        cause: BaseException,
        started: float,
        allowed: int | None,
        countdown: float | None,
    ) -> Settlement:
        message = job.message
        if allowed is not None and message.retries >= allowed:
            return self.failed(job, cause, started)
        delay = countdown
        if delay is None:
            delay = task.policy.delay(message.retries, self._conf.default_retry_delay)
        delay = min(max(0.0, delay), _LONGEST_DELAY)
        in_place = self._stays_in_place(job.delivery)
        record = None
        if in_place or (self._tracks(task) and not self._ignores_result(message)):
            record = replace(
                self._record(job, State.RETRY, started),
                retries=message.retries + 1,
                fence=fence(message.retries + 1, 0),
                error=_text(cause)[:_LONGEST_TEXT],
            )
        why = f"{type(cause).__name__}: {_text(cause)}"[:1000]
        settled = Settlement(
            action=Action.ACK,
            task_id=message.id,
            task=message.task,
            state=State.RETRY,
            reason=f"retry {message.retries + 1} in {delay:.3g} s: {why}",
            record=record,
            fenced=job.fenced,
            error=cause,
        )
        if in_place:
            return replace(settled, action=Action.RELEASE, after=delay)
        not_before = time.time() + delay if delay else None
        return replace(
            settled, resend=_copy(message, retries=message.retries + 1, not_before=not_before)
        )

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
        return Settlement(
            action=action,
            task_id=job.message.id,
            task=job.message.task,
            state=record.state,
            reason=reason,
            record=None if self._ignores_result(job.message) else record,
            fenced=job.fenced,
            error=error,
        )

    def _record(
        self, job: Job, state: State, started: float | None = None, value: str | None = None
    ) -> Record:
        message = job.message
        return Record(
            id=message.id,
            state=state,
            task=message.task,
            value=value,
            started_at=started,
            finished_at=time.time() if state in TERMINAL else None,
            retries=message.retries,
            fence=job.fence,
            queue=message.queue,
            worker=self._hostname or None,
        )

    # ---- what the task and the app say

    def _retries(self, task: Task[..., Any]) -> int | None:
        return task.policy.retries(self._conf.max_retries)

    def _tracks(self, task: Task[..., Any]) -> bool:
        tracked = task.policy.track_started
        return self._conf.task_track_started if tracked is None else tracked

    def _ignores_result(self, message: TaskMessage) -> bool:
        if message.ignore_result is not None:
            return message.ignore_result
        ignored = self._tasks[message.task].policy.ignore_result
        return self._conf.task_ignore_result if ignored is None else ignored

    def limits(self, message: TaskMessage) -> tuple[float | None, float | None]:
        """The soft and the hard time limit of a call: its own, the task's, or the app's."""
        policy, conf = self._tasks[message.task].policy, self._conf
        soft = message.soft_time_limit or policy.soft_time_limit or conf.task_soft_time_limit
        hard = message.time_limit or policy.time_limit or conf.task_time_limit
        return soft, hard

    def _request(self, job: Job, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
        message = job.message
        soft, hard = self.limits(message)
        return Request(
            id=message.id,
            task=message.task,
            args=args,
            kwargs=kwargs,
            queue=message.queue,
            retries=message.retries,
            attempts=job.delivery.attempts,
            root_id=message.root or message.id,
            parent_id=message.parent,
            group=message.group,
            eta=_datetime(message.not_before),
            expires=_datetime(message.expires),
            headers=message.headers,
            time_limit=hard,
            soft_time_limit=soft,
            hostname=self._hostname,
            is_eager=self._is_eager,
        )

    def _track_started(self, job: Job, task: Task[..., Any], started: float) -> None:
        if self.backend is None or not self._tracks(task) or self._ignores_result(job.message):
            return
        try:
            self.backend.advance(self._record(job, State.STARTED, started))
        except ServiceError as error:  # the task can run all the same; its end will be recorded
            log.warning("task %s: STARTED is not recorded: %s", job.message.id, error)

    # ---- equal calls

    def _claim(
        self, job: Job, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> idempotency.Claimed | Settlement | None:
        key = idempotency.key_of(job.message, task.policy.idempotent, args, kwargs)
        if key is None or self.backend is None:
            return None
        hard = self.limits(job.message)[1]
        claim = idempotency.claim(self.backend, key, job.message.id, hard)
        if isinstance(claim, idempotency.Busy):
            return self._later(job, _BUSY_AFTER, f"an equal call, {claim.owner}, is running")
        if isinstance(claim, idempotency.Done):
            return self._succeeded(job, claim.value, None)
        return claim

    def _later(self, job: Job, after: float, reason: str) -> Settlement:
        """Look at an unrun job again later, as a copy: waiting must not count as deliveries."""
        if self._stays_in_place(job.delivery):
            return _settle(job.message, Action.RELEASE, after=after, reason=reason)
        copy = _copy(job.message, not_before=time.time() + after)
        return _settle(job.message, Action.ACK, resend=copy, reason=reason)

    def _with_claim(self, settlement: Settlement, claim: idempotency.Claimed) -> Settlement:
        """Complete the claim after a success, keep it for a retry, drop it after anything else."""
        if settlement.state is State.RETRY:
            return settlement
        if settlement.state is not State.SUCCESS:
            return replace(settlement, drop=claim.key)
        expires = time.time() + self._conf.idempotency_expires
        value = settlement.record.value if settlement.record else None
        done = idempotency.completed(claim.key, settlement.task_id, value, expires)
        return replace(settlement, extra=done)


def _settle(
    message: TaskMessage,
    action: Action,
    *,
    reason: str = "",
    after: float = 0.0,
    resend: TaskMessage | None = None,
) -> Settlement:
    return Settlement(
        action=action,
        task_id=message.id,
        task=message.task,
        reason=reason,
        after=after,
        resend=resend,
    )


def _copy(message: TaskMessage, **changes: Any) -> TaskMessage:
    """A copy to send in place of the message; the broker must not take it for a duplicate."""
    return message.model_copy(update={"dedup_key": None, **changes})


def _dumped(args: Sequence[object]) -> str | None:
    """Exception arguments as JSON text, None where they are not plain and short enough."""
    try:
        text = dump_value(list(args))
    except Exception:  # the arguments are the user's own objects, whose methods run here
        return None
    return text if len(text) <= _LONGEST_TEXT else None


def _args(error: BaseException) -> Sequence[object]:
    # An OSError takes its file name as an argument and does not keep it as one.
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return (*error.args, error.filename)
    return error.args


def _text(error: BaseException) -> str:
    try:
        return _utf8(str(error))
    except Exception as broken:  # the user's own __str__
        return f"<its __str__ raised {type(broken).__name__}>"


def _utf8(text: str) -> str:
    """The text without lone surrogates (odd file names have them), which no store takes."""
    return text.encode(errors="backslashreplace").decode()


def _datetime(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
