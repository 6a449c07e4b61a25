"""Terminates running tasks from outside: the signals, and the request to workers."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass
from typing import Self

from cloudq.errors import ConfigurationError

SIGNALS = frozenset({"SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "TERM", "KILL", "INT", "QUIT"})
"""The signals that a task may be terminated by; each of them ends its process."""

Signal = str | int | None
"""A signal by name or number, as in Celery; None stands for SIGTERM."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
