"""Operators' commands on the queues of a SQLite file."""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.driver import Code, Failure, Peeked, Purged, QueueStats
from cloudq_local.sqlite_file import Database
from cloudq_local.sqlite_schema import BLOCKED

_NAMES = (
    "SELECT name FROM queues UNION SELECT queue FROM messages UNION SELECT queue FROM dead"
    " ORDER BY 1"
)
# One statement sees one moment. Only leased and delayed messages cost a look at their row.
_STATS = (
    "SELECT"
    " (SELECT count(*) FROM messages WHERE queue = v.queue AND visible_at <= v.now),"
    f" (SELECT count(*) FROM messages WHERE queue = v.queue AND visible_at = {BLOCKED}),"
    " (SELECT count(*) FROM messages WHERE queue = v.queue AND visible_at > v.now"
    f" AND visible_at < {BLOCKED} AND token = 0),"
    " (SELECT count(*) FROM messages WHERE queue = v.queue AND visible_at > v.now"
    f" AND visible_at < {BLOCKED} AND token <> 0),"
    " (SELECT count(*) FROM dead WHERE queue = v.queue),"
    " (SELECT sent_at FROM messages WHERE queue = v.queue ORDER BY visible_at, seq LIMIT 1)"
    " FROM (SELECT ? queue, ? now) v"
)
_PEEK = (
    "SELECT id, body, attempts, seq, sent_at, NULL FROM messages"
    " WHERE queue = ? AND (token = 0 OR visible_at <= ?) ORDER BY visible_at, seq LIMIT ?"
)
_PEEK_DEAD = (
    "SELECT id, body, attempts, seq, sent_at, reason FROM dead WHERE queue = ? ORDER BY seq LIMIT ?"
)
_REDRIVE = (
    "INSERT INTO messages (queue, visible_at, due, sent_at, id, grp, body)"
    " SELECT queue, iif(grp IS NOT NULL AND EXISTS"
    " (SELECT 1 FROM messages m WHERE m.queue = dead.queue AND m.grp = dead.grp),"
    f" {BLOCKED}, v.now), v.now, v.now, id, grp, body FROM dead, (SELECT ? now) v"
    " WHERE queue = ? AND seq = ?"
)
_DELETE_DEAD = "DELETE FROM dead WHERE queue = ? AND seq = ?"


def create(database: Database, queue: str, max_deliveries: int) -> None:
    """Make the queue; an existing one is left as it is."""
    with database.lock, database:
        database.execute("INSERT OR IGNORE INTO queues VALUES (?, ?)", (queue, max_deliveries))


def delete(database: Database, queue: str) -> None:
    """Delete the queue, its messages and its dead letters."""
    with database.lock, database:
        database.execute("DELETE FROM queues WHERE name = ?", (queue,))
        for table in ("messages", "dead", "dedup"):
            database.execute(f"DELETE FROM {table} WHERE queue = ?", (queue,))


def names(database: Database) -> Sequence[str]:
    """Return the names of all queues, in their order."""
    return [name for (name,) in database.read(_NAMES)]


def max_deliveries(database: Database, queue: str) -> int:
    """Return how often a message may be received, 0 for any number."""
    rows = database.read("SELECT max_deliveries FROM queues WHERE name = ?", (queue,))
    return rows[0][0] if rows else 0


def stats(database: Database, queue: str, now: float) -> QueueStats:
    """Count the queue's messages as of now."""
    ((due, blocked, delayed, leased, dead, sent_at),) = database.read(_STATS, (queue, now))
    return QueueStats(
        queue=queue,
        ready=due + blocked,
        delayed=delayed,
        leased=leased,
        dead=dead,
        oldest_age=None if sent_at is None else max(now - sent_at, 0.0),
        exact=True,
    )


def peek(database: Database, queue: str, count: int, now: float) -> Sequence[Peeked]:
    """Look at the first messages that are not leased."""
    return [_peeked(*row) for row in database.read(_PEEK, (queue, now, count))]


def purge(database: Database, queue: str) -> Purged:
    """Delete every message, leased or not."""
    with database.lock, database:
        return Purged(
            count=database.execute("DELETE FROM messages WHERE queue = ?", (queue,)).rowcount
        )


def peek_dead(database: Database, queue: str, count: int) -> Sequence[Peeked]:
    """Look at the first dead letters."""
    return [_peeked(*row) for row in database.read(_PEEK_DEAD, (queue, count))]


def take_dead(
    database: Database, queue: str, messages: Sequence[Peeked], *, redrive_at: float | None
) -> Sequence[Failure]:
    """Delete the dead letters, after sending them again when `redrive_at` is a time."""
    failures: list[Failure] = []
    with database.lock, database:
        for index, message in enumerate(messages):
            if redrive_at is not None:
                database.execute(_REDRIVE, (redrive_at, queue, message.handle))
            if not database.execute(_DELETE_DEAD, (queue, message.handle)).rowcount:
                reason = "it is no longer among the dead letters"
                failures.append(Failure(index=index, code=Code.NOT_FOUND, reason=reason))
    return failures


def purge_dead(database: Database, queue: str) -> Purged:
    """Delete every dead letter."""
    with database.lock, database:
        return Purged(count=database.execute("DELETE FROM dead WHERE queue = ?", (queue,)).rowcount)


def _peeked(
    id: str, body: bytes, attempts: int, handle: int, sent_at: float, reason: str | None
) -> Peeked:
    return Peeked(
        id=id, body=body, attempts=attempts, handle=handle, sent_at=sent_at, reason=reason
    )
