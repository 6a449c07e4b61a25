"""Celery's signals: functions that are told of what happens to tasks and workers.

    @task_failure.connect(sender="shop.charge")
    def alarm(sender, task_id, exception, **more): ...

A signal tells and changes nothing (except the headers that `before_task_publish` may add to);
what wraps the call of a task is middleware. Receivers are called in the order in which they were
connected, in the thread and the process where it happens. One that raises is logged: the others
are called all the same, and the message is not lost.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import MethodType
from typing import Any, TypeVar, cast, overload

from cloudq.driver.log import Log

log = Log("cloudq.signals")

Receiver = Callable[..., Any]
F = TypeVar("F", bound=Receiver)


@dataclass(frozen=True, slots=True)
class _Connection:
    receiver: Callable[[], Receiver | None]
    key: Hashable
    sender: object


class Signal:
    """Something that happens, and the functions that want to know. Safe to use from many threads.

    A signal without receivers is false: whoever sends it asks that first, and makes nothing up.
    """

    def __init__(self, name: str, *gives: str) -> None:
        self.name = name
        self.gives = frozenset(gives)
        self._lock = threading.Lock()
        self.connections: tuple[_Connection, ...] = ()

    def __repr__(self) -> str:
        return f"<Signal {self.name}: {', '.join(sorted(self.gives))}>"

    def __bool__(self) -> bool:
        return bool(self.connections)

    @overload
    def connect(self, receiver: F, /) -> F: ...
    @overload
    def connect(
        self,
        receiver: None = None,
        /,
        *,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
    ) -> Callable[[F], F]: ...
    @overload
    def connect(
        self,
        receiver: F,
        /,
        *,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
    ) -> F: ...
    def connect(
        self,
        receiver: Any = None,
        /,
        *,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
    ) -> Any:
        """Have a function called, with `sender=` only for one task (or its name).

        Usable as a decorator, with and without options. A receiver is held weakly, as Celery
        does, so that one that is nowhere else ends with its owner; `weak=False` keeps it. Who
        connects twice, or with a `dispatch_uid` that is there, is called once.
        """
        if receiver is None:

            def connected(function: Receiver) -> Receiver:
                return self.connect(function, sender=sender, weak=weak, dispatch_uid=dispatch_uid)

            return connected
        if not callable(receiver):
            raise TypeError(f"{self.name}.connect: {receiver!r} cannot be called")
        if inspect.iscoroutinefunction(receiver):
            raise TypeError(
                f"{self.name}.connect: {receiver!r} is async, and nobody would await it"
            )
        function = cast("Receiver", receiver)
        made = _Connection(
            receiver=_reference(function, self._forget) if weak else lambda: function,
            key=(dispatch_uid or _identity(function), _identity(sender)),
            sender=sender,
        )
        with self._lock:
            if all(made.key != known.key for known in self.connections):
                self.connections = (*self.connections, made)
        return receiver

    def disconnect(
        self,
        receiver: Receiver | None = None,
        sender: object = None,
        dispatch_uid: Hashable = None,
    ) -> bool:
        """Stop calling a receiver, named as when it was connected; whether it was connected."""
        key = (dispatch_uid or _identity(receiver), _identity(sender))
        with self._lock:
            left = tuple(known for known in self.connections if known.key != key)
            found = len(left) < len(self.connections)
            self.connections = left
        return found

    def send(self, sender: object, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call the receivers of this sender; what each returned, or the exception it raised."""
        answers: list[tuple[Receiver, Any]] = []
        for connection in self.connections:
            if connection.sender is not None and not _same(connection.sender, sender):
                continue
            receiver = connection.receiver()
            if receiver is None:
                continue
            try:
                answer = receiver(signal=self, sender=sender, **named)
            except Exception as error:  # the user's code; what it was told of goes on without it
                log.exception("a receiver of %s raised: %r", self.name, receiver)
                answer = error
            answers.append((receiver, answer))
        return answers

    def _forget(self, reference: object) -> None:
        with self._lock:
            self.connections = tuple(
                known for known in self.connections if known.receiver is not reference
            )


def _reference(receiver: Receiver, gone: Callable[[object], None]) -> Callable[[], Receiver | None]:
    if isinstance(receiver, MethodType):
        return weakref.WeakMethod(receiver, gone)
    return weakref.ref(receiver, gone)


def _identity(thing: object) -> Hashable:
    if isinstance(thing, MethodType):
        return id(thing.__self__), id(thing.__func__)
    return thing if isinstance(thing, str) else id(thing)


def _same(wanted: object, sender: object) -> bool:
    """Tell whether a receiver's sender is this one; a task equals its name."""
    if wanted is sender or wanted == sender:
        return True
    return _name(wanted) is not None and _name(wanted) == _name(sender)


def _name(sender: object) -> str | None:
    return sender if isinstance(sender, str) else getattr(sender, "name", None)


_PUBLISHED = ("body", "exchange", "routing_key", "headers")

before_task_publish = Signal("before_task_publish", *_PUBLISHED, "properties", "declare")
after_task_publish = Signal("after_task_publish", *_PUBLISHED)
task_received = Signal("task_received", "request")
task_prerun = Signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun = Signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success = Signal("task_success", "result", "runtime")
task_retry = Signal("task_retry", "request", "reason", "einfo")
task_failure = Signal(
    "task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo"
)
task_revoked = Signal("task_revoked", "request", "terminated", "signum", "expired")
task_rejected = Signal("task_rejected", "message", "exc")
task_unknown = Signal("task_unknown", "message", "exc", "name", "id")
worker_init = Signal("worker_init")
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down", "sig", "how", "exitcode")
worker_shutdown = Signal("worker_shutdown")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown", "pid", "exitcode")
