"""Messages of a SQLite file: their limits, and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from cloudq.driver import FOREVER, Code, Failure, Limits, Outgoing
from cloudq_local.sqlite_file import Database
from cloudq_local.sqlite_statements import SEND, SEND_MANY

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

# Bytes of bodies that are sent together at most: SQLite's module copies the values of a statement,
# and keeps them with it until its next use.
_SMALL = 4 << 20

Row = tuple[str, float, float, float, str, str | None, bytes]
"""A message as `sqlite_statements.SEND` takes it."""
Statements = Sequence[tuple[str, tuple[Any, ...]]]
"""Statements about the messages of a lease, each with its own values."""


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


def insert(database: Database, rows: Sequence[Row]) -> None:
    """Insert messages of no groups, small ones in few statements. Needs a transaction."""
    done = 0
    is_small = sum(len(row[-1]) for row in rows) <= _SMALL
    for size, statement in SEND_MANY.items() if is_small else ():
        while len(rows) - done >= size:
            database.execute(statement, [*chain.from_iterable(rows[done : done + size])])
            done += size
    database.executemany(SEND, rows[done:])


def apply(database: Database, statements: Statements, receipts: Sequence[tuple[int, int]]) -> int:
    """Apply statements to the messages of these numbers and leases; the last counts its changes.

    Needs a transaction.
    """
    leases: dict[int, list[int]] = {}
    for number, lease in receipts:
        leases.setdefault(lease, []).append(number)
    changed = 0
    for statement, values in statements:
        rows = [(*values, lease, str(numbers)) for lease, numbers in leases.items()]
        changed = sum(database.execute(statement, row).rowcount for row in rows)
    return changed
