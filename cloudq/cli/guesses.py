"""Guesses the task that a mistyped name means."""

from __future__ import annotations

from collections.abc import Iterable

from cloudq.errors import near


def task_meant(name: str, known: Iterable[str]) -> str | None:
    """Return the task that is probably meant by a name without its module, or a mistyped one.

    None for a pattern, for the name of a task, and where no name is close.
    """
    # The modules that tasks share make all of them look alike.
    last = {task.rpartition(".")[2]: task for task in known}
    if name in last.values() or any(sign in name for sign in "*?["):
        return None
    close = near(name.rpartition(".")[2], last)
    return None if close is None else last[close]
