"""Raises an exception inside a running task when its time is up, in its thread or coroutine."""

from __future__ import annotations

import ctypes
import heapq
import itertools
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cloudq.driver.ends import pass_ends
from cloudq.driver.forks import renew_after_fork
from cloudq.driver.log import Log
from cloudq.errors import SoftTimeLimitExceeded, TimeLimitExceeded

if TYPE_CHECKING:  # a process without coroutines does not load it
    import asyncio

# With so many alarms set, cancelled ones are removed.
_CROWDED = 256
# After so many seconds without a new alarm the thread looks again, and ends if there is none.
_IDLE = 60.0

LIMITS = (SoftTimeLimitExceeded, TimeLimitExceeded)
"""Raised in tasks by their alarms."""

log = Log("cloudq.execution")

_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc


def _nothing() -> None: ...


class Alarm:
    """One interruption to come. After `cancel` it raises nothing any more."""

    def __init__(
        self, interrupt: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._interrupt = interrupt
        self._undo = undo
        self._over = False
        self._rung = False

    def ring(self) -> None:
        with self._lock:
            if not self._over:
                self._rung = True
                self._interrupt()

    @property
    def over(self) -> bool:
        """True once it was cancelled."""
        return self._over

    def cancel(self) -> None:
        """Cancel the interruption. It may still be raised at any instruction until this returns."""
        with self._lock:
            self._over = True
            self._interrupt = _nothing  # it holds what it interrupts, with messages of megabytes
            if self._rung and self._undo is not None:
                self._rung = False
                self._undo()


class Alarms:
    """Rings alarms on time, in a thread that starts with an alarm and ends when none is left."""

    def __init__(self, *, idle: float = _IDLE) -> None:
        self._idle = idle
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._crowded = _CROWDED
        renew_after_fork(self, Alarms._in_child)

    def _in_child(self) -> None:
        """Begin without alarms: those of the parent, and the thread, are the parent's."""
        self._changed = threading.Condition()
        self._due.clear()
        self._thread = None

    def set(self, after: float, alarm: Alarm) -> None:
        """Have an alarm ring after so many seconds, unless it is cancelled before."""
        due = time.monotonic() + after
        with self._changed:
            is_first = not self._due or due < self._due[0][0]
            if len(self._due) >= self._crowded:
                self._prune()
                self._crowded = max(_CROWDED, 2 * len(self._due))
            heapq.heappush(self._due, (due, next(self._numbers), alarm))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
                self._thread.start()
            if is_first:  # else the thread wakes in time, and need not be told
                self._changed.notify()

    def _prune(self) -> None:
        """Remove cancelled alarms. Needs the lock."""
        self._due = [entry for entry in self._due if not entry[2].over]
        heapq.heapify(self._due)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    left = self._due[0][0] - time.monotonic() if self._due else None
                    wait = self._idle if left is None else min(left, self._idle)
                    if not self._changed.wait(wait):
                        self._prune()
                    if not self._due:
                        self._thread = None
                        return
                alarm = heapq.heappop(self._due)[2]
            try:
                alarm.ring()
            except BaseException as error:  # without this thread no limit would hold here
                pass_ends(error)
                log.exception("a task could not be interrupted")


def thread_alarm(error: type[BaseException]) -> Alarm:
    """Make an alarm that raises `error` in the calling thread, between two of its bytecodes.

    Code inside a C function is interrupted when that returns.
    """
    patched: Any = sys.modules.get("gevent.monkey")
    if patched is not None and patched.is_module_patched("threading"):
        return _greenlet_alarm(error)
    thread = ctypes.c_ulong(threading.get_ident())

    def interrupt() -> None:
        _set_async_exception(thread, ctypes.py_object(error))

    def undo() -> None:
        # Once it is asked to raise, CPython 3.11 and 3.12 look for something pending at every call
        # of the process until something is raised. Were it taken back, they would look for ever:
        # calls cost half as much again, and 3.11 with a profiler gets no further. So it is raised.
        try:
            interrupt()
            while True:
                pass
        except error:
            pass

    return Alarm(interrupt, undo)


def _greenlet_alarm(error: type[BaseException]) -> Alarm:
    """Make an alarm for a greenlet, which is interrupted where it waits."""
    gevent: Any = sys.modules["gevent"]
    greenlet = gevent.getcurrent()

    def interrupt() -> None:
        gevent.kill(greenlet, error)  # when its hub runs next

    # A pending interruption is raised here, before this greenlet does anything else.
    return Alarm(interrupt, partial(gevent.sleep, 0))


def disarm(alarms: Sequence[Alarm]) -> None:
    """Cancel all alarms: the task has ended.

    Raises one of `LIMITS`, at most once for each alarm, if one rings before this has ended.
    """
    for alarm in alarms:
        alarm.cancel()


class Interruptible:
    """Awaits a coroutine, and can raise an exception in it where it waits."""

    def __init__(self, awaitable: Awaitable[Any], error: type[BaseException]) -> None:
        self._awaitable = awaitable
        self._error = error
        self._asked = False
        self._task: asyncio.Task[Any] | None = None
        from asyncio import get_running_loop

        self._loop = get_running_loop()

    def alarm(self) -> Alarm:
        def interrupt() -> None:
            self._loop.call_soon_threadsafe(self._ask)

        return Alarm(interrupt)

    def _ask(self) -> None:
        if self._task is not None and not self._task.done():
            self._asked = True
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        from asyncio import CancelledError, current_task

        self._task = current_task()
        inner: Generator[Any, Any, Any] = self._awaitable.__await__()
        thrown: BaseException | None = None
        answer: Any = None
        while True:
            try:
                waiting_for = inner.send(answer) if thrown is None else inner.throw(thrown)
            except StopIteration as end:
                return end.value
            thrown = answer = None
            try:
                answer = yield waiting_for
            except CancelledError as cancelled:
                thrown = self._translated(cancelled)
            except BaseException as error:
                thrown = error

    def _translated(self, cancelled: asyncio.CancelledError) -> BaseException:
        """Return our error if the alarm cancelled the task, else the cancellation."""
        if not self._asked or self._task is None:
            return cancelled
        self._asked = False
        self._task.uncancel()
        return self._error()
