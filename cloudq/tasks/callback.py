"""The base of all workflow nodes, for code that need not know their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudq.errors import ConfigurationError
from cloudq.tasks.task_app import TaskApp


class Callback:
    """Anything that `link` and `link_error` take: a signature or a node composed of some."""

    is_call = False  # true of a signature, which is one call of one task
    app: TaskApp | None

    def parts(self) -> Sequence[Any]:
        """Return the nodes directly inside this one; a generator of members is read to its end."""
        return ()

    def peek(self) -> Sequence[Any]:
        """Return the same nodes, but of an unread generator only the first, which stays in it."""
        return self.parts()


def app_of(node: Callback) -> TaskApp | None:
    """Return the app of the first part that has one; None for a node without any call.

    Raises `ConfigurationError` for calls that belong to no app.
    """
    stack, seen, calls = [node], set[int](), 0
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if current.app is not None:
            return current.app
        calls += current.is_call
        stack += current.peek()
    if calls == 0:
        return None
    raise ConfigurationError(
        f"{node!r} belongs to no app: make it with task.s(...) or app.signature(...)"
    )
