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
from functools import partial
from typing import Any

from cloudq import idempotency, lifecycle, signals
from cloudq.backend import Backend
from cloudq.broker import ORDERED_PATIENCE
from cloudq.canvas.plan import Planner
from cloudq.clock import Clock, real_time
from cloudq.codec import dump_value
from cloudq.codecs import Codec
from cloudq.codecs.arguments import arguments
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
    UnknownTask,
    WorkerLost,
)
from cloudq.interrupt import Alarms, Interruptible, disarm, thread_alarm
from cloudq.message import TaskMessage
from cloudq.middleware import Call, Context, Middleware, Request, current_request, onion
from cloudq.outcome import Job, Outcomes, copy_of, settle, with_children, word_of
from cloudq.progress import Continued, Superseded
from cloudq.record import Record, State
from cloudq.schedules.slots import SCHEDULE, resolved
from cloudq.settings import Settings
from cloudq.settlement import Action, Settled, Settlement
from cloudq.task import Task
from cloudq.telemetry.tracing import open_tracing, traced
from cloudq.throttling.gate import Caller, Gate, Visit, Wait
from cloudq.throttling.holds import Holder
from cloudq.throttling.rules import Rate, rate_of

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
        codec: Codec | None = None,
        clock: Clock = real_time,
    ) -> None:
        self.clock = clock
        self._codec = codec or Codec()
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
        self._gate = Gate(lease=conf.lease)
        self.tracing = open_tracing(conf.tracing)
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
        lifecycle.failed(self._tasks[job.message.task], self._bare(job.message), error)
        self._free(job)
        return self._outcomes.failed(job, error)

    def continued(self, job: Job) -> Settlement:
        """The settlement of a job that was interrupted after it had saved its state."""
        return self._outcomes.continued(job)

    def revoked(self, job: Job, reason: str) -> Settlement:
        """The settlement of a job that was revoked before its start, or was stopped for it."""
        self._free(job)
        return self._revoked(job, reason)

    def change_time_limit(self, task: str, soft: float | None, hard: float | None) -> None:
        """Give a task other time limits here, in seconds, for calls that start from now on.

        None means the app's. Raises `UnknownTask`.
        """
        if task not in self._tasks:
            raise UnknownTask(f"there is no task {task!r} in this app")
        self._outcomes.time_limits[task] = soft, hard

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
                verdict = self._paced(verdict)
            if isinstance(verdict, Job):
                kept.append(verdict)
                if signals.task_received:
                    task = self._tasks[verdict.message.task]
                    lifecycle.received(task, self._bare(verdict.message))
            else:
                settled.append((job.delivery, verdict))
        return kept, settled

    def _decoded(self, delivery: Delivery, now: float) -> Job | Settlement:
        try:
            message = self._codec.decode(
                delivery.body, queue=delivery.queue, limit=self._conf.max_body
            )
        except DecodeError as error:
            if signals.task_rejected:
                lifecycle.rejected(delivery.body, error)
            return Settlement(action=Action.DEAD_LETTER, reason=str(error))
        if message.task not in self._tasks:
            reason = f"unknown task {message.task!r}: is its module in the app's include?"
            if signals.task_unknown:
                lifecycle.unknown(message, UnknownTask(reason))
            return settle(message, Action.DEAD_LETTER, reason=reason)
        if message.queue != delivery.queue:
            message = message.model_copy(update={"queue": delivery.queue})
        if SCHEDULE in message.headers:
            message = resolved(message, delivery)
        if message.expires is not None and message.expires <= now:
            return self._revoked(Job(delivery=delivery, message=message), "expired")
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
            # Two deliveries may both come to this: the end that is recorded first stays.
            return self._revoked(replace(job, fenced=attempts > 1), "revoked")
        if message.not_before is not None and message.not_before > self.clock() + _EARLY:
            # A hop of a delay that is longer than the service's own.
            return settle(message, Action.ACK, resend=copy_of(message), reason="not due yet")
        allowed = self._conf.max_deliveries * (ORDERED_PATIENCE if in_place else 1)
        if attempts > allowed:
            lost = WorkerLost(
                f"delivered {attempts} times and never finished: "
                "its process died, it ran out of time, or it was put back each time"
            )
            lifecycle.failed(self._tasks[message.task], self._bare(message), lost)
            return self._outcomes.failed(job, lost, bury=True)
        return self._claimed(job, record) if attempts > 1 else job

    def _revoked(self, job: Job, reason: str) -> Settlement:
        if signals.task_revoked:
            task, request = self._tasks[job.message.task], self._bare(job.message)
            lifecycle.revoked(task, request, expired=reason == "expired")
        return self._outcomes.revoked(job, reason)

    @staticmethod
    def _bare(message: TaskMessage) -> Request:
        """What receivers of signals are told of a call that is not at work here."""
        try:
            args, kwargs = arguments(message)
        except DecodeError:  # it will fail of that when it runs
            args, kwargs = message.args, message.kwargs
        return lifecycle.plain(message, args, kwargs)

    def _paced(self, job: Job) -> Job | Settlement:
        """The job, if this worker's own rate for its task lets it start."""
        wait = self._gate.pace(job.message, self._tasks[job.message.task].policy.throttle)
        return job if wait is None else self._outcomes.over_limit(job, wait)

    def change_rate_limit(self, task: str, rate: str | float | None) -> Rate | None:
        """Give a task another rate in this worker, None or 0 for no limit; the rate it has now.

        Raises `ConfigurationError` for what is no rate, and `UnknownTask`.
        """
        if task not in self._tasks:
            raise UnknownTask(f"there is no task {task!r} in this app")
        read = rate_of(rate)
        self._gate.change_rate(task, read)
        return read

    def rate_limit(self, task: str) -> Rate | None:
        """The rate of a task in this worker, None for no limit."""
        return self._gate.rate(task, self._tasks[task].policy.throttle)

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
            word = word_of(job.message, standing)
            return settle(job.message, Action.ACK, reason="already done", word=word)
        return settle(job.message, Action.NOTHING, reason="a later delivery has it")

    # ---- the run

    @traced
    def run(self, job: Job) -> Settlement:
        """Call the task of a job. Whatever the task does, the answer is a settlement."""
        with self._gate.visit() as visit:
            return self._run(job, visit)

    def _run(self, job: Job, visit: Visit) -> Settlement:
        task = self._tasks[job.message.task]
        started = self.clock()
        try:
            args, kwargs = arguments(job.message)
            if job.message.gather is not None:
                args = [self._gather(job.message.gather), *args]
            args, kwargs = task.arguments.check(args, kwargs)
            wait = self._entered(visit, job, task, args, kwargs)
            if wait is not None:
                return self._outcomes.over_limit(job, wait)
            claimed = self._claim(job, task, args, kwargs)
        except ServiceError as error:
            if error.code in _NEVER:  # its key, say, is longer than the store takes
                return self._unrun(job, task, error, started)
            log.warning("task %s waits for the store: %s", job.message.id, error)
            return self._outcomes.later(job, _STORE_DOWN_AFTER, f"the store is down: {error}")
        except Exception as error:  # also what the user's validators and key function raise
            return self._unrun(job, task, error, started)
        if isinstance(claimed, Settlement):
            return claimed
        self._track_started(job, task, started)
        self._note_started(job, started)
        context = Context(
            request=self._request(job, args, kwargs),
            args=args,
            kwargs=kwargs,
            retried=lambda error: self._is_retried(job, task, error),
        )
        settlement = self._outcome(job, task, context, started)
        settlement = with_children(settlement, context.request.children)
        return self._with_claim(settlement, claimed) if claimed else settlement

    def _unrun(
        self, job: Job, task: Task[..., Any], error: Exception, started: float
    ) -> Settlement:
        """A call that failed before its function was called."""
        settlement = self._outcomes.failed(job, error, started)
        if lifecycle.watched(task):
            request = self._bare(job.message)
            context = Context(request=request, args=request.args, kwargs=request.kwargs)
            lifecycle.after(task, context, settlement, error, self.clock() - started)
        return settlement

    def _outcome(
        self, job: Job, task: Task[..., Any], context: Context, started: float
    ) -> Settlement:
        token = current_request.set(context.request)
        try:
            try:
                settlement, value = self._attempt(job, task, context, started)
            except Exception as error:  # what it raised makes no sense: a countdown like "soon"
                settlement, value = self._outcomes.failed(job, error, started), error
            if lifecycle.watched(task):
                lifecycle.after(task, context, settlement, value, self.clock() - started)
            return settlement
        finally:
            current_request.reset(token)

    def _attempt(
        self, job: Job, task: Task[..., Any], context: Context, started: float
    ) -> tuple[Settlement, object]:
        """The settlement of one try, and what it returned or raised."""
        asked = context.request.asked
        try:
            lifecycle.before(task, context)
            value = self._call(context)
        except BaseException as error:  # the user's code: whatever it raises is its outcome
            raised = asked[0] if asked else error
            return self._raised(job, task, raised, started), raised
        if asked:
            return self._raised(job, task, asked[0], started), asked[0]
        try:
            return self._outcomes.succeeded(job, dump_value(value), started), value
        except Exception as error:  # also what the value's own methods raise
            return self._outcomes.failed(job, error, started), error

    def _raised(
        self, job: Job, task: Task[..., Any], error: BaseException, started: float
    ) -> Settlement:
        if isinstance(error, Ignore):
            return self._outcomes.ignored(job)
        if isinstance(error, Reject):
            return self._outcomes.rejected(job, error, started)
        if isinstance(error, Continued):
            return self._outcomes.continued(job)
        if isinstance(error, Superseded):
            return settle(job.message, Action.NOTHING, reason=str(error))
        if isinstance(error, Replaced):
            return self._outcomes.replaced(job, error)
        if isinstance(error, Retry):
            return self._outcomes.retry(
                job,
                error.cause or MaxRetriesExceeded(f"{job.message.task} may not be retried again"),
                started,
                max_retries=error.max_retries,
                countdown=error.countdown,
                changes=error.changes,
            )
        if _autoretried(task, error):
            given = task.policy.retry_kwargs
            return self._outcomes.retry(
                job,
                error,
                started,
                max_retries=given.get("max_retries"),
                countdown=None if task.policy.retry_backoff else given.get("countdown"),
            )
        return self._outcomes.failed(job, error, started)

    def _is_retried(self, job: Job, task: Task[..., Any], error: BaseException) -> bool:
        """Whether the call is tried again when this exception leaves it."""
        most: int | None
        if isinstance(error, Retry):
            most = error.max_retries
        elif _autoretried(task, error):
            most = task.policy.retry_kwargs.get("max_retries")
        else:
            return False
        allowed = self._outcomes.retries(task) if most is None else most
        return allowed is None or job.message.retries < allowed

    def _innermost(self, context: Context) -> object:
        request = context.request
        task = self._tasks[request.task]
        if task.wrapped:  # its class has a `__call__` of its own, which calls the function
            function: Callable[..., Any] = task
            args = context.args
        else:
            function = task.function
            args = (task, *context.args) if task.bind else context.args
        limits: list[tuple[float | None, type[BaseException]]] = [
            (request.soft_time_limit, SoftTimeLimitExceeded)
        ]
        if self._stop_at_hard_limit:
            limits.append((request.time_limit, TimeLimitExceeded))
        alarms = [(after, error) for after, error in limits if after is not None]
        if inspect.iscoroutinefunction(task.function):
            return self._run_async(self._awaited(function(*args, **context.kwargs), alarms))
        if not alarms:
            return function(*args, **context.kwargs)
        set_alarms = [thread_alarm(error) for _, error in alarms]
        try:
            for alarm, (after, _) in zip(set_alarms, alarms, strict=True):
                self._alarms.set(after, alarm)
            return function(*args, **context.kwargs)
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
            task=self._tasks[message.task].name,
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
            shadow=message.shadow,
            fence=job.fence,
            progress=job.progress,
            time_limit=hard,
            soft_time_limit=soft,
            hostname=self._hostname,
            is_eager=self._is_eager,
        )

    def _note_started(self, job: Job, started: float) -> None:
        backend = self.backend
        history = backend.history if backend is not None else None
        if backend is not None and history is not None and history.keeps(State.STARTED):
            backend.note(self._outcomes.record(job, State.STARTED, started))

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

    def _entered(
        self,
        visit: Visit,
        job: Job,
        task: Task[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Wait | None:
        """Let a job in where its task's limits allow; else how long it is to wait."""
        throttle = task.policy.throttle
        if throttle is None or self._is_eager:
            return None
        caller = Caller(
            message=job.message,
            holder=Holder(owner=job.message.id, fence=job.fence, delivery=self._name(job)),
            again=job.delivery.attempts > 1,
            hard=self._outcomes.limits(job.message)[1],
        )
        named = partial(task.arguments.named, args, kwargs)
        return visit.enter(self.backend, throttle, caller, args, kwargs, named)

    def _free(self, job: Job) -> None:
        """Free what a stopped job held under its key, which would end with its lease anyway."""
        task = self._tasks[job.message.task]
        if task.policy.throttle is None:
            return
        try:
            args, kwargs = task.arguments.check(*arguments(job.message))
            named = partial(task.arguments.named, args, kwargs)
            self._gate.stopped(self.backend, task.policy.throttle, job.message, args, kwargs, named)
        except Exception as error:  # also what the user's key function raises
            log.warning("task %s may hold its key a while: %s", job.message.id, error)

    def _name(self, job: Job) -> str:
        """The name of one delivery."""
        # The receipt is in a worker's child the number of the flight, in its supervisor.
        return f"{self._hostname} {job.delivery.id} {job.delivery.receipt}"

    # ---- equal calls

    def _claim(
        self, job: Job, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> idempotency.Claimed | Settlement | None:
        key = idempotency.key_of(job.message, task.policy.idempotent, args, kwargs)
        if key is None or self.backend is None:
            return None
        hard = self._outcomes.limits(job.message)[1]
        claimant = idempotency.Claimant(
            owner=job.message.id,
            fence=job.fence,
            delivery=self._name(job),
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
        if settlement.state is State.RETRY or settlement.resend is not None:
            return settlement
        if settlement.state is not State.SUCCESS:
            return replace(settlement, drop=claim.key)
        expires = self.clock() + self._conf.idempotency_expires
        value = settlement.record.value if settlement.record else None
        done = idempotency.completed(claim.key, settlement.task_id, value, expires)
        return replace(settlement, extra=done)


def _autoretried(task: Task[..., Any], error: BaseException) -> bool:
    policy = task.policy
    return isinstance(error, policy.autoretry_for) and not isinstance(
        error, policy.dont_autoretry_for
    )


def _datetime(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
