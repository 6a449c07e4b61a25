"""Keeps a task from waiting for other tasks where that might never end."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from cloudq.errors import ConfigurationError, TaskRevoked, WaitInTask

_ADVICE = (
    "Let the tasks follow each other in a chain, a chord or by link=; or, where other workers "
    "surely run what is waited for, wait inside `with allow_join_result():`"
)
_NEVER = (
    "result.get() must not be called within a task: it waits for a task that may need the place "
    f"of the one that waits, and then for ever. {_ADVICE}"
)


@dataclass(eq=False, slots=True)
class Places:
    """The places of a process for calls that run at the same time, and those that wait in them.

    `most` is their number; 0 says that no call may wait for another. Safe to use from many
    threads.
    """

    most: int
    _waiting: dict[object, int] = field(default_factory=dict[object, int], init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def take(self, place: object, *, surely: bool) -> None:
        """Count a call as waiting. Raises `WaitInTask` where none would be left that runs.

        With `surely` it never raises.
        """
        with self._lock:
            waits = self._waiting.get(place, 0)
            if not waits and not surely and len(self._waiting) + 1 >= self.most:
                others = self.most - 1
                why = f"{others} of {self.most} wait already" if others else "it runs one at a time"
                raise WaitInTask(
                    "result.get() within a task would wait for ever: all calls that this process "
                    f"runs at a time would wait, and none would run ({why}). {_ADVICE}, or give "
                    "get() a timeout"
                )
            self._waiting[place] = waits + 1

    def give_back(self, place: object) -> None:
        """Count a call as running again, once nothing is waited for in it."""
        with self._lock:
            waits = self._waiting.pop(place) - 1
            if waits:
                self._waiting[place] = waits


RUNNING_IN: ContextVar[tuple[Places, object] | None] = ContextVar("running_in", default=None)
"""The places in which the call of this context runs, and an object that stands for the call."""
ALLOWED: ContextVar[bool | None] = ContextVar("join_allowed", default=None)


@contextmanager
def allow_join_result() -> Generator[None]:
    """Allow tasks to wait for others in this block, however long that takes; Celery's name."""
    token = ALLOWED.set(True)
    try:
        yield
    finally:
        ALLOWED.reset(token)


@contextmanager
def denied_join_result() -> Generator[None]:
    """Let every wait for a result in this block raise `WaitInTask`; Celery's name."""
    token = ALLOWED.set(False)
    try:
        yield
    finally:
        ALLOWED.reset(token)


class Wait:
    """One wait for results. Raises `WaitInTask` at once where the running call must not wait.

    `allowed` is the caller's word that it ends; `ends` says that it has a timeout.
    """

    def __init__(self, *, allowed: bool, ends: bool = False) -> None:
        running, said = RUNNING_IN.get(), ALLOWED.get()
        never = running is not None and not running[0].most
        if not allowed and (said is False or (never and not said)):
            raise WaitInTask(_NEVER)
        self._running = running
        self._surely = bool(allowed or said or ends)
        self._is_counted = False

    def begin(self) -> None:
        """Count the running call as waiting, before its first pause. Raises `WaitInTask`."""
        if self._running is not None and not self._is_counted:
            places, call = self._running
            places.take(call, surely=self._surely)
            self._is_counted = True

    def end(self) -> None:
        """Count it as running again."""
        if self._running is not None and self._is_counted:
            places, call = self._running
            places.give_back(call)
            self._is_counted = False


_ROLLED_BACK = "{id} was not sent: its transaction was rolled back, or its send failed"
_UNCOMMITTED = (
    "{id} is sent when the transaction of this thread commits: get() before that would wait in vain"
)


class Promise:
    """The sending of a call that waits for a transaction to commit, or for the end of a batch.

    It is made by the thread that sends. `early` and `dropped` are the texts of the errors of who
    waits too early, or for what is not sent.
    """

    def __init__(self, *, early: str = _UNCOMMITTED, dropped: str = _ROLLED_BACK) -> None:
        self.is_dropped = False
        self._early, self._dropped = early, dropped
        self._thread = threading.get_ident()

    def drop(self) -> None:
        """Say that nothing holds the call any more that would send it."""
        self.is_dropped = True

    def check(self, id: str) -> None:
        """Raise where nothing will be sent, or not while the present thread waits."""
        if self.is_dropped:
            raise TaskRevoked(self._dropped.format(id=id))
        if self._thread == threading.get_ident():
            raise ConfigurationError(self._early.format(id=id))


def refuse_vain(result: Any) -> None:
    """Raise for a result of which nothing will ever come, as far as its handle knows."""
    if result.ignored:
        raise never_recorded(result)
    if result.promise is not None:
        result.promise.check(result.id)


def never_recorded(result: Any) -> ConfigurationError:
    """Make the error of waiting for a call of which nothing will ever be recorded."""
    return ConfigurationError(
        f"the end of {result.id} is not recorded, since {result.task or 'the task'} was called "
        "with ignore_result: get() would wait in vain. Call it with ignore_result=False, or do "
        "not wait for it"
    )
