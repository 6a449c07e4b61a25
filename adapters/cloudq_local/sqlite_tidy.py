"""Housekeeping of a SQLite file: what has expired is deleted, and free space given back."""

from __future__ import annotations

import time

from cloudq_local.sqlite_file import Database

# How often each process tidies, in seconds, and how many rows of a table it deletes then at most.
# Where it comes to that many it goes on in the next transaction.
EVERY = 10.0
MOST = 1000

# Free pages that stay in the file for what is written next: so many, or a quarter of the file. Of
# the others so many at a time are given back, which moves as many and takes some 10 ms.
KEPT = 2000
GIVEN_BACK = 400

ITEMS = (
    "DELETE FROM items WHERE (partition, sort) IN"
    " (SELECT partition, sort FROM items WHERE expires <= ? LIMIT ?)"
)
"""Deletes items that have expired by a time, up to a number."""

_KEYS = (
    "DELETE FROM dedup WHERE (queue, key) IN"
    " (SELECT queue, key FROM dedup WHERE until <= ? LIMIT ?)"
)
_DEAD = "DELETE FROM dead WHERE seq IN (SELECT seq FROM dead WHERE died_at <= ? LIMIT ?)"


class Tidy:
    """The housekeeping of one process, which is part of transactions that write anyway."""

    def __init__(self) -> None:
        self._at = -EVERY  # monotonic

    def run(self, database: Database, now: float) -> None:
        """Delete what has expired, and give space back, if it is time. Needs a transaction."""
        tidied_at = time.monotonic()
        if tidied_at < self._at + EVERY:
            return
        gone = [database.execute(sql, (now, MOST)).rowcount for sql in (ITEMS, _KEYS)]
        if database.keep_dead:
            gone.append(database.execute(_DEAD, (now - database.keep_dead, MOST)).rowcount)
        _give_back(database)
        if max(gone) < MOST:
            self._at = tidied_at


def _give_back(database: Database) -> None:
    """Give free pages back to the file system; a file of an earlier release keeps them."""
    [(free,)] = database.execute("PRAGMA freelist_count")
    [(pages,)] = database.execute("PRAGMA page_count")
    spare = free - max(KEPT, pages // 4)
    # Of a statement without columns Python runs one step, and with that it gives one page back.
    for _ in range(min(spare, GIVEN_BACK)):
        database.execute("PRAGMA incremental_vacuum")
