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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cloudq import idempotency
from cloudq.backend import Backend
from cloudq.broker import ORDERED_PATIENCE
from cloudq.canvas.plan import Planner
from cloudq.clock import Clock, real_time
from cloudq.codec import arguments, decode, dump_value
from cloudq.driver import Code, Delivery, Limits
from cloudq.errors import (
    DecodeError,
    Ignore,
    MaxRetriesExceeded,
    Reject,
    Replaced,
    Retry,
    ServiceError,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    WorkerLost,
)
from cloudq.interrupt import Alarms, Interruptible, disarm, thread_alarm
from cloudq.message import TaskMessage
from cloudq.middleware import Call, Context, Middleware, Request, current_request, onion
from cloudq.outcome import Job, Outcomes, copy_of, settle, word_of
from cloudq.record import Record, State
from cloudq.settings import Settings
from cloudq.settlement import Action, Settled, Settlement
from cloudq.task import Task

log = logging.getLogger("cloudq.execution")

# Delays are kept to the second by the services, so a message this little early may run.
_EARLY = 1.0
# An equal call that is running is looked at again after this long.
_BUSY_AFTER = 5.0
_STORE_DOWN_AFTER = 30.0
# What the store says of a request that it will never take.
_NEVER = frozenset({Code.INVALID, Code.TOO_LARGE})


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

    `limits` tells what a queue can do; `planner` starts what follows a task; `gather` gives the
    values of a join's members.
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
        planner: Planner,
        gather: Callable[[str], list[Any]],
        middleware: Sequence[Middleware] = (),
        hostname: str = "",
        run_async: Callable[[Coroutine[Any, Any, Any]], Any] = run_coroutine,
        stop_at_hard_limit: bool = False,
        is_eager: bool = False,
        clock: Clock = real_time,
    ) -> None:
        self.clock = clock
        self._open_backend = backend
        self._tasks = tasks
        self._conf = conf
        self._hostname = hostname
        self._run_async = run_async
        self._stop_at_hard_limit = stop_at_hard_limit
        self._is_eager = is_eager
        self._gather = gather
        self._outcomes = Outcomes(
            tasks=tasks, conf=conf, limits=limits, hostname=hostname, planner=planner, clock=clock
        )
        self._alarms = Alarms()
        self._call: Call = onion(middleware, self._innermost)

    @property
    def backend(self) -> Backend | None:
        """The result store; opened when it is first needed."""
        return self._open_backend()

    def limits(self, message: TaskMessage) -> tuple[float | None, float | None]:
        """The soft and the hard time limit of a call, in seconds."""
        return self._outcomes.limits(message)

    def stopped(self, job: Job, error: BaseException) -> Settlement:
        """The settlement of a job whose process was stopped from outside."""
        return self._outcomes.failed(job, error)

    # ---- before: what is to be run, and what is not

    def open(self, deliveries: Sequence[Delivery]) -> tuple[list[Job], list[Settled]]:
        """Sort deliveries into jobs and settlements, with one batched look at the backend.

        Raises `BackendError` when the store cannot be read: nothing is settled then.
        """
        jobs: list[Job] = []
        settled: list[Settled] = []
        now = self.clock()
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
            return settle(message, Action.DEAD_LETTER, reason=reason)
        if message.queue != delivery.queue:
            message = message.model_copy(update={"queue": delivery.queue})
        if message.expires is not None and message.expires <= now:
            return self._outcomes.revoked(Job(delivery=delivery, message=message), "expired")
        if message.not_before is not None and message.not_before > now + _EARLY:
            return settle(message, Action.ACK, resend=copy_of(message), reason="not due yet")
        return Job(delivery=delivery, message=message)

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
                return settle(job.message, Action.DEAD_LETTER, reason=reason)
            record = self._reopened(job)
        in_place = self._outcomes.stays_in_place(job.delivery)
        if in_place:
            job = self._with_retries(job, record)
        message, attempts = job.message, job.delivery.attempts
        if record is not None and (record.terminal or record.retries > message.retries):
            # Whoever ran it may have died before its join heard of it.
            word = word_of(message, record) if record.terminal else None
            return settle(message, Action.ACK, reason="already done", word=word)
        if record is not None and record.revoked:
            return self._outcomes.revoked(job, "revoked")
        allowed = self._conf.max_deliveries * (ORDERED_PATIENCE if in_place else 1)
        if attempts > allowed:
            lost = WorkerLost(
                f"delivered {attempts} times and never finished: "
                "its process died, it ran out of time, or it was put back each time"
            )
            return self._outcomes.failed(job, lost, bury=True)
        return self._claimed(job, record) if attempts > 1 else job

    def _reopened(self, job: Job) -> None:
        """Forget the end of a task whose dead letter was sent again by an operator."""
        if self.backend is not None:
            self.backend.store([self._outcomes.record(job, State.PENDING)])

    def _with_retries(self, job: Job, record: Record | None) -> Job:
        """How often a message that stays in place was retried: its body cannot say.

        Without a backend its deliveries are counted, also those that were given back unrun.
        """
        retries = record.retries if record is not None else 0
        if self.backend is None:
            retries = job.delivery.attempts - 1
        if retries <= job.message.retries:
            return job
        return replace(job, message=copy_of(job.message, retries=retries))

    def _claimed(self, job: Job, record: Record | None) -> Job | Settlement:
        """Put this delivery's fence on a redelivered task, so that a late record is refused."""
        if self.backend is None or self._outcomes.ignores_result(job.message):
            return job
        state = record.state if record else State.PENDING
        standing = self.backend.advance(replace(self._outcomes.record(job, state), worker=None))
        if standing is None:
            return replace(job, fenced=True)
        if standing.terminal:
            return settle(job.message, Action.ACK, reason="already done")
        return settle(job.message, Action.NOTHING, reason="a later delivery has it")

    # ---- the run

    def run(self, job: Job) -> Settlement:
        """Call the task of a job. Whatever the task does, the answer is a settlement."""
        task = self._tasks[job.message.task]
        started = self.clock()
        try:
            args, kwargs = arguments(job.message)
            if job.message.gather is not None:
                args = [self._gather(job.message.gather), *args]
            args, kwargs = task.arguments.check(args, kwargs)
            claimed = self._claim(job, task, args, kwargs)
        except ServiceError as error:
            if error.code in _NEVER:  # its key, say, is longer than the store takes
                return self._outcomes.failed(job, error, started)
            log.warning("task %s waits for the store: %s", job.message.id, error)
            return self._outcomes.later(job, _STORE_DOWN_AFTER, f"the store is down: {error}")
        except Exception as error:  # also what the user's validators and key function raise
            return self._outcomes.failed(job, error, started)
        if isinstance(claimed, Settlement):
            return claimed
        self._track_started(job, task, started)
        context = Context(request=self._request(job, args, kwargs), args=args, kwargs=kwargs)
        try:
            settlement = self._outcome(job, task, context, started)
        except Exception as error:  # what it raised makes no sense: a countdown that is no number
            settlement = self._outcomes.failed(job, error, started)
        return self._with_claim(settlement, claimed) if claimed else settlement

    def _outcome(
        self, job: Job, task: Task[..., Any], context: Context, started: float
    ) -> Settlement:
        token = current_request.set(context.request)
        try:
            value = self._call(context)
        except Ignore:
            return settle(job.message, Action.ACK, reason="ignored by the task")
        except Reject as reject:
            return self._outcomes.rejected(job, reject, started)
        except Replaced as replaced:
            return self._outcomes.replaced(job, replaced)
        except Retry as retry:
            cause = retry.cause or MaxRetriesExceeded(
                f"{job.message.task} may not be retried again"
            )
            return self._outcomes.retry(
                job, cause, started, max_retries=retry.max_retries, countdown=retry.countdown
            )
        except BaseException as error:  # the user's code: whatever it raises is its outcome
            retried = isinstance(error, task.policy.autoretry_for)
            if retried and not isinstance(error, task.policy.dont_autoretry_for):
                return self._outcomes.retry(job, error, started)
            return self._outcomes.failed(job, error, started)
        finally:
            current_request.reset(token)
        try:
            return self._outcomes.succeeded(job, dump_value(value), started)
        except Exception as error:  # also what the value's own methods raise
            return self._outcomes.failed(job, error, started)

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

    def _request(self, job: Job, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
        message = job.message
        soft, hard = self._outcomes.limits(message)
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
            depth=message.depth,
            slot=message.slot,
            time_limit=hard,
            soft_time_limit=soft,
            hostname=self._hostname,
            is_eager=self._is_eager,
        )

    def _track_started(self, job: Job, task: Task[..., Any], started: float) -> None:
        if (
            self.backend is None
            or not self._outcomes.tracks(task)
            or self._outcomes.ignores_result(job.message)
        ):
            return
        try:
            self.backend.advance(self._outcomes.record(job, State.STARTED, started))
        except ServiceError as error:  # the task can run all the same; its end will be recorded
            log.warning("task %s: STARTED is not recorded: %s", job.message.id, error)

    # ---- equal calls

    def _claim(
        self, job: Job, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> idempotency.Claimed | Settlement | None:
        key = idempotency.key_of(job.message, task.policy.idempotent, args, kwargs)
        if key is None or self.backend is None:
            return None
        hard = self._outcomes.limits(job.message)[1]
        # The receipt is in a worker's child the number of the flight, in its supervisor.
        claimant = idempotency.Claimant(
            owner=job.message.id,
            fence=job.fence,
            delivery=f"{self._hostname} {job.delivery.id} {job.delivery.receipt}",
        )
        claim = idempotency.claim(self.backend, key, claimant, hard)
        if isinstance(claim, idempotency.Busy):
            return self._outcomes.later(
                job, _BUSY_AFTER, f"an equal call, {claim.owner}, is running"
            )
        if isinstance(claim, idempotency.Done):
            return self._outcomes.succeeded(job, claim.value, None)
        return claim

    def _with_claim(self, settlement: Settlement, claim: idempotency.Claimed) -> Settlement:
        """Complete the claim after a success, keep it for a retry, drop it after anything else."""
        if settlement.state is State.RETRY:
            return settlement
        if settlement.state is not State.SUCCESS:
            return replace(settlement, drop=claim.key)
        expires = self.clock() + self._conf.idempotency_expires
        value = settlement.record.value if settlement.record else None
        done = idempotency.completed(claim.key, settlement.task_id, value, expires)
        return replace(settlement, extra=done)


def _datetime(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
