"""Calls the function of a task within its time limits, and runs coroutines to their end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from typing import Any, TypedDict

from cloudq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from cloudq.execution.interrupt import Alarms, Interruptible, disarm, thread_alarm
from cloudq.tasks.request import Context
from cloudq.tasks.task import Task, is_awaited

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end and returns its value."""


class ExecutorOptions(TypedDict, total=False):
    """The place where deliveries run, for `Executor`; each may be left out.

    `run_async` runs the coroutines of `async def` tasks. `stop_at_hard_limit` raises
    `TimeLimitExceeded` inside a task at its hard limit. `is_eager`: in the caller's thread.
    """

    hostname: str
    run_async: RunAsync | None
    stop_at_hard_limit: bool
    is_eager: bool


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also in a thread whose event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # The other thread sees this one's context variables, `current_request` among them.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(context.run, asyncio.run, coroutine).result()


class FunctionCall:
    """Calls the functions of tasks, inside all middleware. Safe to use from many threads.

    With `stop_at_hard_limit` a task is interrupted at its hard limit too, not only at the soft
    one.
    """

    def __init__(
        self, tasks: Mapping[str, Task[..., Any]], run_async: RunAsync, *, stop_at_hard_limit: bool
    ) -> None:
        self._tasks = tasks
        self._run_async = run_async
        self._stop_at_hard_limit = stop_at_hard_limit

    @cached_property
    def _alarms(self) -> Alarms:
        return Alarms()  # most tasks have no time limit

    def __call__(self, context: Context) -> object:
        """Call the function of a task."""
        request = context.request
        task = self._tasks[request.task]
        if task.wrapped:  # its class has a `__call__` of its own, which calls the function
            function: Callable[..., Any] = task
            args = context.args
        else:
            function = task.function
            args = (task, *context.args) if task.bind else context.args
        alarms: list[tuple[float, type[BaseException]]] = []
        if request.soft_time_limit is not None:
            alarms.append((request.soft_time_limit, SoftTimeLimitExceeded))
        if request.time_limit is not None and self._stop_at_hard_limit:
            alarms.append((request.time_limit, TimeLimitExceeded))
        if task.is_coroutine:
            return self._run_async(self._awaited(function(*args, **context.kwargs), alarms))
        value = self._plainly(function, args, context.kwargs, alarms)
        # A plain function around an `async def`, as many decorators make them, returns a coroutine.
        return self._run_async(self._awaited(value, alarms)) if is_awaited(value) else value

    def _plainly(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        alarms: Sequence[tuple[float, type[BaseException]]],
    ) -> Any:
        if not alarms:
            return function(*args, **kwargs)
        set_alarms = [thread_alarm(error) for _, error in alarms]
        try:
            for alarm, (after, _) in zip(set_alarms, alarms, strict=True):
                self._alarms.set(after, alarm)
            return function(*args, **kwargs)
        finally:
            disarm(set_alarms)

    async def _awaited(
        self,
        given: Awaitable[Any],
        alarms: Sequence[tuple[float, type[BaseException]]],
    ) -> Any:
        with ExitStack() as stack:
            awaitable: Any = given
            for after, error in alarms:
                awaitable = Interruptible(awaitable, error)
                alarm = awaitable.alarm()
                stack.callback(alarm.cancel)
                self._alarms.set(after, alarm)
            return await awaitable
