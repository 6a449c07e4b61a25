"""Terminates running tasks from outside: the signals, and the request to workers."""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Sequence
from typing import Any, Self

from cloudq.amounts import seconds
from cloudq.driver.immutable import immutable
from cloudq.errors import ConfigurationError
from cloudq.results.record import DelayedMessage

SIGNALS = frozenset({"SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "TERM", "KILL", "INT", "QUIT"})
"""The signals that a task may be terminated by; each of them ends its process."""

Signal = str | int | None
"""A signal by name or number, as in Celery; None stands for SIGTERM."""


@immutable
class Termination:
    """A request to end running tasks by a signal.

    With `wait` it returns when the workers have replied, after `timeout` seconds at the latest.
    """

    signal: str
    wait: bool
    timeout: float | None

    @classmethod
    def of(cls, signal: Signal, *, wait: bool, timeout: float | None) -> Self:
        """Make one of the options of `revoke`. Raises as `signal_name`."""
        if timeout is not None:
            seconds(timeout, "timeout", ConfigurationError)
        return cls(signal=signal_name(signal), wait=wait, timeout=timeout)


def signal_name(given: Signal) -> str:
    """Give the name of a signal that ends a task. Raises `ConfigurationError` for any other."""
    name = "SIGTERM" if given is None else given
    if isinstance(name, int):  # also one of `signal.Signals`
        try:
            name = signals.Signals(name).name
        except ValueError:
            name = str(name)
    if name.upper() not in SIGNALS:
        raise ConfigurationError(
            f"signal {given!r}: a task is ended by one of {', '.join(sorted(SIGNALS))}"
        )
    return name.upper()


@immutable
class ResultActions:
    """The functions of an app that a result needs beyond the store.

    `take_back(id, message)` removes a delayed message from its queue, and says False when it has
    left. `terminate(ids, termination)` tells the workers to end running tasks.
    `children(outlines)` makes the results of which a record keeps the ids.
    """

    take_back: Callable[[str, DelayedMessage], bool]
    terminate: Callable[[Sequence[str], Termination], None]
    children: Callable[[str], list[Any]]


def actions_of(result: Any) -> ResultActions:
    """Give the actions of a result's app. Raises `ConfigurationError` if no app made the result."""
    if result.actions is None:
        raise ConfigurationError(
            f"{result!r} knows no workers that it could tell to end the task: "
            "take the result from the app, or use app.control.terminate"
        )
    return result.actions
