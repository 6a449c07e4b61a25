"""Calls the function of a task in its surroundings and within its time limits."""

from __future__ import annotations

import contextvars
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import Any, TypedDict, TypeVar

from cloudq.driver.log import Log
from cloudq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from cloudq.execution import django
from cloudq.execution.interrupt import LIMITS, Alarms, Interruptible, disarm, thread_alarm
from cloudq.results.waiting import RUNNING_IN, Places
from cloudq.tasks.request import Context
from cloudq.tasks.task import Task, is_awaited

log = Log("cloudq.execution")

T = TypeVar("T")
R = TypeVar("R")

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end and returns its value."""


class ExecutorOptions(TypedDict, total=False):
    """The place where deliveries run, for `Executor`; each may be left out.

    `run_async` runs the coroutines of `async def` tasks. `stop_at_hard_limit` raises
    `TimeLimitExceeded` inside a task at its hard limit. `is_eager`: in the caller's thread.
    `places` are those of the process, in which calls run at the same time.
    """

    hostname: str
    run_async: RunAsync | None
    stop_at_hard_limit: bool
    is_eager: bool
    places: Places | None


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also in a thread whose event loop is running."""
    import asyncio

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
    def alarms(self) -> Alarms:
        """The alarms of running calls, whose thread starts with the first of them."""
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
            return self._run_async(
                self._surrounded(context, function(*args, **context.kwargs), alarms)
            )
        pid = os.getpid()
        try:
            value = self._plainly(function, args, context.kwargs, alarms)
        finally:
            if not request.is_eager:  # else it is a copy of the caller's own program
                _end_if_forked(pid)
        # A plain function around an `async def`, as many decorators make them, returns a coroutine.
        if not is_awaited(value):
            return value
        return self._run_async(self._surrounded(context, value, alarms))

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
                self.alarms.set(after, alarm)
            return function(*args, **kwargs)
        finally:
            # Two alarms ring at most, before `disarm` begins or in it. No loop: Python also looks
            # for what rang where a loop jumps back, and that would be outside of any `try`.
            try:
                disarm(set_alarms)
            except LIMITS:
                try:
                    disarm(set_alarms)
                except LIMITS:
                    disarm(set_alarms)

    def _surrounded(
        self,
        context: Context,
        given: Awaitable[Any],
        alarms: Sequence[tuple[float, type[BaseException]]],
    ) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that awaits one; under Django with connections of its own."""
        is_eager = context.request.is_eager
        awaited = self._awaited(given, alarms, is_eager=is_eager)
        return awaited if is_eager or not _uses_django() else django.with_own_connections(awaited)

    async def _awaited(
        self,
        given: Awaitable[Any],
        alarms: Sequence[tuple[float, type[BaseException]]],
        *,
        is_eager: bool,
    ) -> Any:
        pid = os.getpid()
        with ExitStack() as stack:
            awaitable: Any = given
            for after, error in alarms:
                awaitable = Interruptible(awaitable, error)
                alarm = awaitable.alarm()
                stack.callback(alarm.cancel)
                self.alarms.set(after, alarm)
            try:
                return await awaitable
            finally:
                if not is_eager:
                    _end_if_forked(pid)


def _end_if_forked(pid: int) -> None:
    """End this process, unless it is the one with this id: a task has forked it and returns in it.

    A copy has one thread of those of a worker, so it would wait for ever for what the others do,
    and its parent for its end; and its outcome is none of the task's. It ends as a program does:
    with the code of a `SystemExit`, with 1 for another exception, else with 0.
    """
    if os.getpid() == pid:
        return
    code = 1
    try:
        error = sys.exc_info()[1]
        if error is None:
            code = 0
        elif isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            log.error("process %d, which a task has forked, ends", os.getpid(), exc_info=error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # closed, or a pipe that nobody reads
                stream.flush()
        os._exit(code & 0xFF)


class Surroundings:
    """The surroundings of calls in the `places` of a process. Safe to use from many threads.

    Without places, calls run in their caller's thread, and leave the caller's surroundings alone.
    """

    def __init__(self, places: Places | None) -> None:
        self._places = places

    def run(self, call: Callable[[T], R], given: T) -> R:
        """Make a call, whose context is its own; under Django, care for connections around it."""
        if self._places is None:
            return call(given)
        RUNNING_IN.set((self._places, object()))
        in_transaction = django.before_call() if _uses_django() else ()
        try:
            return call(given)
        finally:
            if _uses_django():  # it may have set it up itself
                django.after_call(in_transaction)


def _uses_django() -> bool:
    """Tell whether this program has configured Django; it costs one look-up."""
    conf: Any = sys.modules.get("django.conf")
    return conf is not None and conf.settings.configured
