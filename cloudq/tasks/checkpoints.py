"""Checkpoints of a call: steps that run only once, and states to resume from.

The values of steps and the last state are in the result store, so a redelivery, a retry, or the
next invocation of a function finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op
from cloudq.errors import CloudQError, InvalidArguments
from cloudq.messages.values import dump_value, load_value
from cloudq.results.backend import Backend
from cloudq.results.stored import reading, typed

T = TypeVar("T")

# Kept as long as results, and at least this long: a call that waits for its retry needs it then.
_KEPT = 7 * 86_400.0
_LONGEST_NAME = 200
# Another step is begun if there is time for one and a half times the longest so far.
_SPARE = 1.5


class Continued(CloudQError):
    """Raised by `self.checkpoint` when a function's time ends; a new message continues the call."""


class Superseded(CloudQError):
    """Raised by `self.checkpoint` when a later delivery of the same call is running."""


class Progress:
    """The steps of one run that must end by `until`, in monotonic seconds."""

    def __init__(self, until: float, clock: Callable[[], float] = monotonic) -> None:
        self.saved = False
        self._until = until
        self._clock = clock
        self._last = clock()
        self._longest = 0.0

    def step(self) -> bool:
        """Note that a step is done and saved; tell whether there is time for another."""
        now = self._clock()
        self.saved = True
        self._longest = max(self._longest, now - self._last)
        self._last = now
        return now + _SPARE * self._longest < self._until


def recall(backend: Backend, task_id: str, step: str) -> tuple[bool, Any]:
    """Read whether a step is done, and its value. One consistent read. Raises `BackendError`."""
    if not step or len(step) > _LONGEST_NAME:
        raise InvalidArguments(f"the step {step[:40]!r} has a name of 1 to {_LONGEST_NAME} letters")
    key = _step_key(task_id, step)
    found = backend.get([key])
    return (True, _value(found[key])) if key in found else (False, None)


def remember(backend: Backend, task_id: str, step: str, value: T) -> T:
    """Record the value of a step and return the value that counts: the first one recorded.

    It is the value as it is read, so that the first run goes on with what a later one would get:
    a list for a tuple, a dict for a dataclass. One request. Raises `BackendError`, and
    `EncodeError` for a value that cannot be kept.
    """
    text = dump_value(value)
    change = Change(
        set={"value": text},
        expires=_expires(backend),
        when=(Check(field="value", op=Op.ABSENT),),
    )
    try:
        backend.update(_step_key(task_id, step), change)
    except ConditionFailed as error:
        if error.current:
            return _value(error.current)
    return load_value(text)


def save(backend: Backend, task_id: str, fence: int, state: object) -> None:
    """Save a state in place of the last one. Raises `Superseded`, and as `remember`."""
    change = Change(
        set={"value": dump_value(state), "fence": fence},
        expires=_expires(backend),
        when=(Check(field="fence", op=Op.LE, value=fence, or_absent=True),),
    )
    try:
        backend.update(_state_key(task_id), change)
    except ConditionFailed as error:
        raise Superseded(
            f"task {task_id}: a later delivery of this call is running, so this one stops"
        ) from error


def load(backend: Backend, task_id: str, default: T) -> T:
    """Return the state that was saved last, or the default. One consistent read."""
    key = _state_key(task_id)
    found = backend.get([key])
    return _value(found[key]) if key in found else default


def _step_key(task_id: str, step: str) -> Key:
    return Key(f"step#{task_id}", step)


def _state_key(task_id: str) -> Key:
    return Key(f"state#{task_id}")


def _value(item: Item) -> Any:
    with reading(item.key):
        return load_value(typed(item, {"value": str})["value"])


def _expires(backend: Backend) -> float:
    return backend.clock() + max(backend.expires, _KEPT)
