"""Lists the delayed messages of a SQLite file, and deletes them."""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.driver import Code, Failure, Scheduled
from cloudq_local.sqlite_file import Database

# Sent with a delay that is not over, and never delivered: what `release` moved to a later time
# has attempts. The second and third condition are those of the index `messages_delayed`.
_WAITS = "queue = ? AND due > sent_at AND attempts = 0 AND due > ?"
LOOK = (
    f"SELECT seq, id, body, due, grp FROM messages WHERE {_WAITS} AND seq > ? ORDER BY seq LIMIT ?"
)
_TAKE = f"DELETE FROM messages WHERE {_WAITS} AND seq = ? AND id = ? RETURNING grp"


def handle(seq: int, id: str) -> str:
    """Return a message's handle. Its place alone is not enough: SQLite gives it out again."""
    return f"{seq}.{id}"


def look(
    database: Database, queue: str, count: int, after: str | None, now: float
) -> Sequence[Scheduled]:
    """Look at the first waiting messages after a handle, in the order they were sent."""
    seq = 0 if after is None else _parts(after)[0]
    return [
        Scheduled(handle=handle(seq, id), id=id, body=body, due=due, group=group)
        for seq, id, body, due, group in database.read(LOOK, (queue, now, seq, count))
    ]


def take(
    database: Database, queue: str, handles: Sequence[str], now: float
) -> tuple[list[Failure], set[str]]:
    """Delete waiting messages; return which were missing, and the groups of the others.

    Needs a transaction. The groups must be unblocked afterwards.
    """
    failures: list[Failure] = []
    groups: set[str] = set()
    for index, one in enumerate(handles):
        taken = database.execute(_TAKE, (queue, now, *_parts(one))).fetchall()
        groups.update(group for (group,) in taken if group is not None)
        if not taken:
            reason = "it is not scheduled any more"
            failures.append(Failure(index=index, code=Code.NOT_FOUND, reason=reason))
    return failures, groups


def _parts(handle: str) -> tuple[int, str]:
    seq, _, id = handle.partition(".")
    return int(seq), id
