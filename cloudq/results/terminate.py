"""How running tasks are ended from outside: by which signals, and by whom."""

from __future__ import annotations

import signal as signals
from collections.abc import Sequence
from typing import Protocol

from cloudq.errors import ConfigurationError

SIGNALS = frozenset({"SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "TERM", "KILL", "INT", "QUIT"})
"""What a task may be terminated by; each of them ends its process."""

Signal = str | int | None
"""A signal by its name or its number, as Celery takes it; None is SIGTERM."""


class Stop(Protocol):
    """Tells the workers to end the tasks of these ids that run; with `wait`, until they reply."""

    def __call__(
        self, ids: Sequence[str], signal: str, *, wait: bool, timeout: float | None
    ) -> None: ...


def signal_name(given: Signal) -> str:
    """The name of a signal that ends a task. Raises `ConfigurationError` for any other."""
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
