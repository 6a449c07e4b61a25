"""Turns one delivery into one settlement, by running its task.

`open` sorts deliveries into those to run and those to settle unrun; `run` calls the task of one.
`cloudq.execution.commit` then carries the settlements out. Workers, cloud functions, eager mode and
the test kit call these two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from cloudq import signals
from cloudq.canvas.joins import Joins
from cloudq.canvas.workflows import Workflows
from cloudq.driver import Delivery
from cloudq.driver.ends import Died
from cloudq.driver.log import Log
from cloudq.errors import PayloadError, PayloadGone, ServiceError, UnknownTask
from cloudq.execution import idempotency, lifecycle
from cloudq.execution.admission import Admission
from cloudq.execution.call import FunctionCall, RunAsync, Surroundings, run_coroutine
from cloudq.execution.equal_calls import EqualCalls
from cloudq.execution.interrupt import Alarms
from cloudq.execution.large_results import NEVER_LARGE, put_away
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.plain_run import PlainRun
from cloudq.execution.raised import settle_raised
from cloudq.execution.settlement import NEVER, Settled, Settlement
from cloudq.execution.started import tell_started
from cloudq.execution.unpacking import Opened
from cloudq.execution.unstarted import PAYLOAD_PAUSE, unstarted
from cloudq.messages.body import arguments as arguments_of
from cloudq.messages.message import TaskMessage
from cloudq.messages.payload_places import READING, NotStored, storing
from cloudq.messages.plain_calls import PlainCalls
from cloudq.publishing.tracing import open_tracing
from cloudq.results.backend import Backend
from cloudq.results.waiting import Places
from cloudq.runtime import Runtime
from cloudq.tasks.limits.concurrency import PermitRequest
from cloudq.tasks.limits.gate import Caller, Gate, Visit, Wait
from cloudq.tasks.limits.rules import Rate, Throttle, rate_of
from cloudq.tasks.limits.unique import begin, pause
from cloudq.tasks.request import Call, Context, Middleware, current_request, onion
from cloudq.tasks.secrecy import hide_secrets, hiding_values
from cloudq.tasks.task import Task

log = Log("cloudq.execution")

_Enter = Callable[[Job, Task[..., Any], Sequence[Any], Mapping[str, Any]], Wait | None]


class Executor:
    """Runs deliveries of one app. Safe to use from many threads.

    `run_async` runs a coroutine to its end and gives its value. `stop_at_hard_limit` raises
    `TimeLimitExceeded` inside a task at its hard limit, for places where no supervisor can stop
    the process. `places` are those of the process, for it and others like it; left out, one.
    """

    def __init__(
        self,
        runtime: Runtime,
        tasks: Mapping[str, Task[..., Any]],
        workflows: Workflows,
        *,
        middleware: Sequence[Middleware] = (),
        hostname: str = "",
        run_async: RunAsync | None = None,
        stop_at_hard_limit: bool = False,
        is_eager: bool = False,
        places: Places | None = None,
    ) -> None:
        self.runtime = runtime
        self.clock = runtime.clock
        self.tasks = tasks
        self._hostname = hostname
        self._is_eager = is_eager
        self._workflows = workflows
        self._outcomes = Outcomes(runtime, tasks, workflows, hostname=hostname, is_eager=is_eager)
        self._gate = Gate(lease=runtime.conf.lease)
        self._admission = Admission(runtime, tasks, self._outcomes, self._gate)
        self.tracing = open_tracing(runtime.conf.tracing)
        interrupts = stop_at_hard_limit or is_eager
        calling = FunctionCall(tasks, run_async or run_coroutine, stop_at_hard_limit=interrupts)
        self._calling = calling
        self._surroundings = Surroundings(None if is_eager else places or Places(1))
        self._call: Call = onion(middleware, calling) if middleware else calling

    @property
    def backend(self) -> Backend | None:
        """The result store; None without one, and for calls that run in the caller's thread."""
        return None if self._is_eager else self.runtime.backend

    @cached_property
    def _equal_calls(self) -> EqualCalls:
        return EqualCalls(self.runtime, self._outcomes, self._gate)  # most tasks need none

    @property
    def alarms(self) -> Alarms:
        """The alarms of this executor's calls, for others of the same invocation too."""
        return self._calling.alarms

    @property
    def joins(self) -> Joins | None:
        """The joins of chords; None without a result store."""
        return self._workflows.joins

    def limits(self, message: TaskMessage) -> tuple[float | None, float | None]:
        """Return the soft and the hard time limit of a call, in seconds."""
        return self._outcomes.limits(message)

    def stopped(self, job: Job, error: BaseException) -> Settlement:
        """Settle a job whose process was stopped from outside. Never raises."""
        try:
            lifecycle.lost(self.tasks[job.message.task], job.message, error)
            self._free(job)
            return self._outcomes.failed(job, error)
        except Died:
            raise
        except BaseException as broken:  # its job would never be settled
            return self.spoiled(job, broken)

    def spoiled(self, job: Job, error: BaseException) -> Settlement:
        """Fail a job whose settlement cannot be made, or cannot be handed on. Never raises."""
        with hiding_values(self.runtime, job.message):
            lifecycle.unmade(job.message.id, error)
            return self._outcomes.spoiled(job, error)

    def continued(self, job: Job) -> Settlement:
        """Settle a job that was interrupted after it had saved its state."""
        return self._outcomes.continued(job)

    def revoked(self, job: Job, reason: str) -> Settlement:
        """Settle a job that was revoked before its start, or stopped for that. Never raises."""
        try:
            self._free(job)
            return self._admission.revoked(job, reason)
        except Died:
            raise
        except BaseException as error:
            return self.spoiled(job, error)

    def change_time_limit(self, task: str, soft: float | None, hard: float | None) -> None:
        """Change the time limits of a task in this worker, in seconds, for calls yet to start.

        None means the app's limit. Raises `UnknownTask`.
        """
        if task not in self.tasks:
            raise UnknownTask(f"there is no task {task!r} in this app")
        self._outcomes.time_limits[task] = soft, hard

    def change_rate_limit(self, task: str, rate: str | float | None) -> Rate | None:
        """Change the rate of a task in this worker, and return it; None or 0 means no limit.

        Raises `ConfigurationError` for an invalid rate, and `UnknownTask`.
        """
        if task not in self.tasks:
            raise UnknownTask(f"there is no task {task!r} in this app")
        read = rate_of(rate)
        self._gate.change_rate(task, read)
        return read

    def task_limits(self, task: str) -> tuple[Rate | None, float | None, float | None]:
        """Return a task's rate, soft and hard time limit in this worker; None means no limit."""
        rate = self._gate.rate(task, self.tasks[task].policy.throttle)
        return rate, *self._outcomes.task_limits(task)

    def sort(self, deliveries: Sequence[Delivery]) -> Opened:
        """Sort deliveries, and bundles of plain calls apart; what the store refuses waits."""
        return self._admission.open(deliveries, plain=True)

    def open(self, deliveries: Sequence[Delivery]) -> tuple[list[Job], list[Settled]]:
        """Sort deliveries as `Admission.open_all` does. Raises `BackendError`."""
        return self._admission.open_all(deliveries)

    def run(self, job: Job) -> Settlement:
        """Call the task of a job; whatever raises, return a settlement.

        Each call has a context of its own: no context variable that it sets is seen by another.
        """
        try:
            return copy_context().run(self._surroundings.run, self._traced, job)
        except Died:
            raise
        except BaseException as error:  # else the job would keep its lease and its slot
            return self.spoiled(job, error)

    def plain_run(self, calls: PlainCalls, delivery: Delivery) -> PlainRun:
        """Return what runs plain calls of one task, which this delivery has brought."""
        return PlainRun(
            calls,
            delivery,
            task=self.tasks.get(calls[0].task) if self.tracing is None else None,
            runtime=self.runtime,
            outcomes=self._outcomes,
            call=self._call,
            surroundings=self._surroundings,
            hostname=self._hostname,
            ordinary=self.run,
            spoiled=self.spoiled,
        )

    def _traced(self, job: Job) -> Settlement:
        if self.runtime.hides(job.message.task):
            hide_secrets(self.runtime, job.message)
        if (spans := self.tracing) is None:
            return self._run(job)
        with spans.running(job.message, job.delivery.attempts) as span:
            return spans.ended(span, self._run(job))

    def _run(self, job: Job) -> Settlement:
        task = self.tasks[job.message.task]
        throttle = task.policy.throttle
        if throttle is None or self._is_eager:
            return self._called(job, task, None)
        with self._gate.visit() as visit:
            return self._called(job, task, partial(self._entered, visit, throttle))

    def _called(self, job: Job, task: Task[..., Any], enter: _Enter | None) -> Settlement:
        """Call a task and settle it; `enter` applies the limits of its task."""
        started = self.clock()
        try:
            if job.message.chain:
                message = self._workflows.planner.tails.with_next_steps(job.message)
                job = job if message is job.message else replace(job, message=message)
            args, kwargs = task.arguments.read(*self._given(job.message))
            wait = enter(job, task, args, kwargs) if enter is not None else None
            if wait is not None:
                return self._outcomes.over_limit(job, wait)
            claim = None
            if job.message.idempotency_key is not None or task.policy.idempotent:
                claim = self._equal_calls.claim(
                    self.backend, job, task, args, kwargs, self._name(job)
                )
        except ServiceError as error:
            if error.code in NEVER:  # its key, say, is longer than the store allows
                return self._unrun(job, task, error, started)
            return unstarted(self._outcomes, job, self.backend, error)
        except Died:
            raise
        except BaseException as error:  # also what the user's validators and key function raise
            if isinstance(error, PayloadGone) and self.runtime.conf.payload_gone == "wait":
                return self._outcomes.later(job, PAYLOAD_PAUSE, str(error))
            return self._unrun(job, task, error, started)
        if isinstance(claim, Settlement):
            return claim
        if claim is None:
            return self._begun(job, task, args, kwargs, started)
        with claim:
            settlement = self._begun(job, task, args, kwargs, started)
        return self._equal_calls.settled(settlement, job.message, claim)

    def _given(self, message: TaskMessage) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call, with those that lie in stores."""
        token = READING.set(self.runtime.payloads_to_read)
        try:
            args, kwargs = arguments_of(message)
            if message.gather is not None:
                args = [self._workflows.gather(message.gather), *args]
            return args, kwargs
        finally:
            READING.reset(token)

    def _begun(
        self,
        job: Job,
        task: Task[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        started: float,
    ) -> Settlement:
        """Call a task that its limits and its equal calls let run, and settle it."""
        unique = self.backend if job.message.unique_key is not None else None
        if unique is not None and (why := begin(unique, job.message)):
            return self._admission.revoked(job, why)
        if not self._is_eager and (self.runtime.keeps_events or self._outcomes.tracks(task)):
            tell_started(self.runtime, self._outcomes, job, task, started)
        context = Context(
            request=lifecycle.request_of(
                job,
                (task, args, kwargs),
                self._outcomes.limits_of(job),
                hostname=self._hostname,
                is_eager=self._is_eager,
            ),
            args=args,
            kwargs=kwargs,
            retried=partial(self._outcomes.is_retried, job, task),
        )
        settlement = self._outcome(job, task, context, started)
        settlement = lifecycle.with_children(settlement, context.request.children)
        if unique is not None and settlement.unique_claim is None:
            pause(unique, job.message)
        return settlement

    def _unrun(
        self, job: Job, task: Task[..., Any], error: BaseException, started: float
    ) -> Settlement:
        """Settle a call that failed before its function was called."""
        settlement = self._outcomes.failed(job, error, started)
        if lifecycle.is_watched(task):
            request = lifecycle.bare(job.message, task)
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
            except Died:
                raise
            except BaseException as error:  # a retry with a countdown like "soon", say
                settlement, value = self._outcomes.failed(job, error, started), error
            if lifecycle.is_watched(task):
                lifecycle.after(task, context, settlement, value, self.clock() - started)
            return settlement
        finally:
            current_request.reset(token)

    def _attempt(
        self, job: Job, task: Task[..., Any], context: Context, started: float
    ) -> tuple[Settlement, object]:
        """Call the function once; return the settlement, and the value or the exception."""
        asked = context.request.asked
        try:
            if task.hooked or signals.task_prerun.connections:
                lifecycle.before(task, context)
            value = self._call(context)
        except BaseException as error:  # the user's code: whatever it raises is its outcome
            raised = asked[0] if asked else error
            return settle_raised(self._outcomes, job, task, raised, started), raised
        if asked:
            return settle_raised(self._outcomes, job, task, asked[0], started), asked[0]
        try:
            results = task.arguments.results(context.args, context.kwargs)
            is_unread = self._outcomes.is_unread(job.message)
            try:
                text = "null" if is_unread else results.written_result(value)
            except NotStored:  # it has a file in it
                text = storing(self.runtime.payloads, results.written_result, value)
            if len(text) > NEVER_LARGE:
                text = put_away(self.runtime, self._outcomes, job.message, text)
            settlement = self._outcomes.succeeded(job, text, started)
            if settlement.record is None:
                settlement = idempotency.keep(settlement, job.message, task, results, value)
            return settlement, value
        except Died:
            raise
        except PayloadError as error:  # its value is not stored, so it has not ended
            return unstarted(self._outcomes, job, self.backend, error), error
        except BaseException as error:  # also what the value's own methods raise
            return self._outcomes.failed(job, error, started), error

    def _entered(
        self,
        visit: Visit,
        throttle: Throttle,
        job: Job,
        task: Task[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Wait | None:
        """Let a job start if its task's limits allow it; else return the wait."""
        caller = Caller(
            message=job.message,
            request=PermitRequest(owner=job.message.id, fence=job.fence, delivery=self._name(job)),
            again=job.fenced or job.delivery.attempts > 1,
            hard=self._outcomes.limits_of(job)[1],
        )
        return visit.enter(self.backend, throttle, caller, task.arguments, args, kwargs)

    def _free(self, job: Job) -> None:
        """Free the place under its key that a stopped job held, before its lease ends."""
        task = self.tasks[job.message.task]
        if task.policy.throttle is None:
            return
        try:
            given, throttle = task.arguments.read(*arguments_of(job.message)), task.policy.throttle
            self._gate.stopped(self.backend, throttle, job.message, task.arguments, *given)
        except Died:
            raise
        except BaseException as error:  # also what the user's key function raises
            with hiding_values(self.runtime, job.message):
                log.warning("task %s may keep its key for its lease: %s", job.message.id, error)

    def _name(self, job: Job) -> str:
        """Return a name of one delivery; in a child the receipt is its number there."""
        return f"{self._hostname} {job.delivery.id} {job.delivery.receipt}"
