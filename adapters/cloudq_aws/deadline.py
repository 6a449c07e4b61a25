"""Lambda's context as the deadline of an invocation."""

from __future__ import annotations

from typing import Protocol

from cloudq.execution.deadline import Deadline


class Context(Protocol):
    """The part of Lambda's context object that is used here."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


def deadline(context: Context | None, *, reserve: float) -> Deadline:
    """Return the time when the invocation ends; inf without a context (a call by hand)."""
    if context is None:
        return Deadline(None, reserve=reserve)
    return Deadline(lambda: context.get_remaining_time_in_millis() / 1000, reserve=reserve)
