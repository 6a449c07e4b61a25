"""Messages of a SQLite file: their limits, and their rows."""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.driver import FOREVER, Code, Failure, Limits, Outgoing

LIMITS = Limits(
    batch=256,
    body=16 << 20,
    batch_body=64 << 20,
    max_delay=FOREVER,
    max_lease=FOREVER,
    max_wait=3_600.0,
    ordered=True,
    dedup_window=300.0,
    billed=False,
)

Row = tuple[str, float, float, float, str, str | None, bytes]
"""A message as `sqlite_statements.SEND` takes it."""


def row(queue: str, message: Outgoing, now: float) -> Row:
    """Make the row of a message that is sent now."""
    due = now + message.delay
    return queue, due, due, now, message.id, message.group, message.body


def too_large(messages: Sequence[Outgoing]) -> list[Failure]:
    """Return the failures of those whose body is over the limit."""
    return [
        Failure(index=i, code=Code.TOO_LARGE, reason=f"{len(m.body)} bytes in one body")
        for i, m in enumerate(messages)
        if len(m.body) > LIMITS.body
    ]
