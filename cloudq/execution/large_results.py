"""Puts large results of calls into the payload store, before they are recorded."""

from __future__ import annotations

from cloudq.execution.outcomes import Outcomes
from cloudq.messages.message import TaskMessage
from cloudq.runtime import Runtime

NEVER_LARGE = 256
"""Characters of a value that any setting lets stand in its record."""
# Characters that any result store has room for: nothing is opened for shorter values.
_SMALL = 16_384


def put_away(runtime: Runtime, outcomes: Outcomes, message: TaskMessage, text: str) -> str:
    """Return what is recorded of a call's value, given as JSON: itself, or a claim to it.

    What no record keeps is left to the message that carries it on. Raises `PayloadError`, and
    `BackendError` where the result store cannot be opened.
    """
    over = runtime.conf.payload_store_over
    if len(text) <= (_SMALL if over is None else min(_SMALL, over // 4)):
        return text
    if outcomes.is_eager or outcomes.ignores_result(message):
        return text
    backend = runtime.backend
    if backend is None:
        return text
    item = backend.driver.limits.item
    return backend.large.put_away(text, item if backend.sealing is None else item * 5 // 8)
