"""Runs plain calls of one task, for which what they share is looked up once."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from cloudq import signals
from cloudq.driver import Delivery
from cloudq.driver.ends import Died
from cloudq.execution import lifecycle
from cloudq.execution.call import Surroundings
from cloudq.execution.large_results import NEVER_LARGE, put_away
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.raised import settle_raised
from cloudq.execution.settlement import Settlement
from cloudq.messages.payload_places import READING, storing
from cloudq.messages.plain_calls import PlainCalls
from cloudq.messages.values import from_wire
from cloudq.results.record import State
from cloudq.runtime import Runtime
from cloudq.tasks.request import Call, Context, Request, current_request
from cloudq.tasks.secrecy import hide_secrets
from cloudq.tasks.task import Task

PlainSuccess = tuple[str | None, float, float]
"""The value of a call as JSON text, and when it began and ended."""


class PlainRun:
    """Runs calls as `Executor.run` does, which is `ordinary` and takes all that are not plain.

    A success of which nothing follows is no settlement, but its value and its times. Safe to use
    from many threads. `delivery` is that of their message.
    """

    def __init__(
        self,
        calls: PlainCalls,
        delivery: Delivery,
        *,
        task: Task[..., Any] | None,
        runtime: Runtime,
        outcomes: Outcomes,
        call: Call,
        surroundings: Surroundings,
        hostname: str,
        ordinary: Callable[[Job], Settlement],
        spoiled: Callable[[Job, BaseException], Settlement],
    ) -> None:
        self._calls = calls
        self._delivery = delivery
        self._task = task
        self._runtime = runtime
        self._outcomes = outcomes
        self._call = call
        self._surroundings = surroundings
        self._ordinary = ordinary
        self._spoiled = spoiled
        self._clock = outcomes.clock
        first = calls[0]
        self._request = partial(
            Request,
            task=first.task,
            queue=first.queue,
            parent_id=first.parent,
            group=first.group,
            depth=first.depth,
            fence=self.job(0).fence,
            hostname=hostname,
            secrecy=runtime.redaction.of(first.task),
        )
        self._root = first.root

    def job(self, index: int) -> Job:
        """Make the job of a call, as that of any call."""
        return Job(delivery=self._delivery, message=self._calls[index])

    def run(self, index: int) -> Settlement | PlainSuccess:
        """Run a call; whatever raises, return its outcome."""
        task = self._task
        if task is None or self._concerns_each(task):
            settlement = self._ordinary(self.job(index))
            return _success(settlement) or settlement
        try:
            return copy_context().run(self._surroundings.run, partial(self._called, task), index)
        except Died:
            raise
        except BaseException as error:  # else the job would keep its lease and its slot
            return self._spoiled(self.job(index), error)

    def _concerns_each(self, task: Task[..., Any]) -> bool:
        """Tell whether someone waits for each call of the task, or has given it a limit."""
        return (
            bool(signals.task_prerun.connections)
            or lifecycle.is_watched(task)
            or task.name in self._outcomes.time_limits
        )

    def _called(self, task: Task[..., Any], index: int) -> Settlement | PlainSuccess:
        started = self._clock()
        if self._runtime.hides(task.name):
            hide_secrets(self._runtime, self._calls[index])
        try:
            given = self._calls.arguments(index)
            token = READING.set(self._runtime.payloads_to_read)
            try:
                args = from_wire(given[0])
                kwargs = {key: from_wire(value) for key, value in given[1].items()}
            finally:
                READING.reset(token)
            args, kwargs = task.arguments.read(args, kwargs)
        except Died:
            raise
        except BaseException:  # it has not begun: the usual way tells what it comes to
            return self._ordinary(self.job(index))
        id = self._calls.id(index)
        request = self._request(
            id=id,
            args=args,
            kwargs=kwargs,
            root_id=self._root or id,
            headers=self._calls.headers(),
            children=[],
            asked=[],
        )
        retried = partial(self._is_retried, task, index)
        context = Context(request=request, args=args, kwargs=kwargs, retried=retried)
        token = current_request.set(request)
        try:
            return self._outcome(task, index, context, started)
        finally:
            current_request.reset(token)

    def _outcome(
        self, task: Task[..., Any], index: int, context: Context, started: float
    ) -> Settlement | PlainSuccess:
        """Call the function once, and return what the call came to."""
        request = context.request
        value: object
        text = ""
        raised: BaseException | None = None
        try:
            value = self._call(context)
        except BaseException as error:  # the user's code: whatever it raises is its outcome
            value = raised = error
        if request.asked:
            value = raised = request.asked[0]
        try:
            if raised is None:
                results = task.arguments.results(context.args, context.kwargs)
                text = storing(self._runtime.payloads, results.written_result, value)
                if len(text) > NEVER_LARGE:  # all calls keep their results, or none
                    text = put_away(self._runtime, self._outcomes, self._calls[0], text)
                if not request.children and not lifecycle.is_watched(task):
                    return (None if text == "null" else text), started, self._clock()
                settlement = self._outcomes.succeeded(self.job(index), text, started)
            else:
                job = self.job(index)
                settlement = settle_raised(self._outcomes, job, task, raised, started)
        except Died:
            raise
        except BaseException as error:  # a retry with a countdown like "soon", say
            settlement, value = self._outcomes.failed(self.job(index), error, started), error
        if lifecycle.is_watched(task):
            lifecycle.after(task, context, settlement, value, self._clock() - started)
        return lifecycle.with_children(settlement, request.children)

    def _is_retried(self, task: Task[..., Any], index: int, error: BaseException) -> bool:
        return self._outcomes.is_retried(self.job(index), task, error)


def _success(settlement: Settlement) -> PlainSuccess | None:
    """Return what is to be told of a success of which nothing follows; None of another end."""
    record = settlement.record
    if settlement.state is not State.SUCCESS or record is None or settlement.fenced:
        return None
    if record.started_at is None or record.finished_at is None or record.children is not None:
        return None
    if settlement.starts is not None or settlement.extra is not None:
        return None
    return record.value, record.started_at, record.finished_at
