"""The write-ahead log of a SQLite file: made long once where commits are synced, and kept short."""

from __future__ import annotations

import os
import sqlite3
import time

from cloudq.clock import Backoff

# The bytes of a log in which SQLite begins anew: it does after 1,000 pages of 4 KB, and what the
# last transaction wrote beyond.
ROOM = 4_400_000

# SQLite begins the log anew when all of it is in the file and nobody reads it. Where many read and
# write at once there is no such moment, and the log grows for as long as they do.
LONG = 2 * ROOM
LOOK_EVERY = 1.0
# How long writers are kept waiting for those who read to end, in milliseconds; and the longest
# time until it is tried again if one of them does not: somebody copies the file, say.
WAIT = 200
TRIED_EVERY = 30.0


class WriteAheadLog:
    """The log of one file, as one process keeps it."""

    def __init__(self, file: str) -> None:
        self._path = f"{file}-wal"
        self._next_look = 0.0  # monotonic
        self._tries = Backoff(LOOK_EVERY, TRIED_EVERY)

    def begin_anew(self, connection: sqlite3.Connection) -> None:
        """Have the log begin anew, if it is long; the next commit cuts it. In no transaction."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY
        if self._length() <= LONG:
            return
        is_kept = True
        try:
            connection.execute(f"PRAGMA busy_timeout={WAIT}")
            [(is_kept, *_)] = connection.execute("PRAGMA wal_checkpoint(RESTART)")
        except sqlite3.OperationalError:
            pass  # whatever it is, what is written next says it
        finally:
            connection.execute("PRAGMA busy_timeout=0")
        if is_kept:
            self._next_look = now + self._tries.failed()
        else:
            self._tries.succeeded()

    def _length(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def make_room(self) -> None:
        """Make it as long as it gets, with zeros, which SQLite takes for its end.

        Needs the lock of a writer. Where it cannot be, the log grows as it would have.
        """
        try:
            opened = os.open(self._path, os.O_RDWR)
        except OSError:
            return
        try:
            size = os.fstat(opened).st_size
            try:
                if size < ROOM:
                    os.pwrite(opened, bytes(ROOM - size), size)
                    os.fdatasync(opened)
            except OSError:  # the disk may be full: what is left of it is for messages
                os.ftruncate(opened, size)
        finally:
            os.close(opened)
