"""Puts large results of calls into the payload store, before they are recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudq.execution.outcomes import Outcomes
from cloudq.messages.message import TaskMessage
from cloudq.messages.payload_places import storing
from cloudq.runtime import Runtime

# Characters that any result store has room for: nothing is opened for shorter values.
_SMALL = 16_384


def as_null(value: object) -> str:
    """Write a value that nobody reads."""
    return "null"


def written(
    runtime: Runtime,
    outcomes: Outcomes,
    message: TaskMessage,
    write: Callable[[Any], str],
    value: object,
) -> str:
    """Write a call's value as what is recorded: its JSON, or a claim to that. Raises as `write`.

    Raises `PayloadError` too, and `BackendError` where the result store cannot be opened.
    """
    text = storing(runtime.payloads, write, value)
    over = runtime.conf.payload_store_over
    if len(text) <= (_SMALL if over is None else min(_SMALL, over // 4)):
        return text
    return _put_away(runtime, outcomes, message, text)


def _put_away(runtime: Runtime, outcomes: Outcomes, message: TaskMessage, text: str) -> str:
    """Return a value's JSON, or a claim to it; what no record keeps stays as it is."""
    if outcomes.is_eager or outcomes.ignores_result(message):
        return text
    backend = runtime.backend
    return text if backend is None else backend.large.put_away(text, backend.driver.limits.item)
