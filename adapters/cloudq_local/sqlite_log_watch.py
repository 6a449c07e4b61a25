"""Notices that the log of a SQLite file was deleted in use, and has all let go of it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from weakref import WeakSet

from cloudq.driver import Code
from cloudq.driver.log import Log
from cloudq_local.items import Refusal
from cloudq_local.sqlite_paths import companions, remove_companions

log = Log("cloudq.sqlite")

# Seconds between two looks, each of which costs what a statement does.
_LOOKED_EVERY = 0.5
# Seconds for which the file is left alone. Each process looks before it uses the file, so that by
# then none uses the log that it has open and that has no name any more.
_ALONE = 5.0


class LogWatch:
    """Watches the log of one connection, and its index, by which processes agree with each other.

    Deleted, they stay with those who have them open. Who opens the file then gets new ones, and
    neither side would see what the other writes. So what is in the log is written into the file,
    and all let go of it, the idle connections of this process too: SQLite shares the index among
    those of one process. Then the file is opened anew. `lock` is that of the connection; all
    methods need it.
    """

    def __init__(self, file: Path, lock: Lock) -> None:
        self.has_left = False
        self._file = file
        self._lock = lock
        self._connection: sqlite3.Connection | None = None
        self._path = ""
        self._known = companions("")
        self._looks_at = self._left_at = self._opened_at = 0.0  # monotonic
        _watches.add(self)

    def opened(self, connection: sqlite3.Connection, path: str) -> None:
        """Begin to watch the log of a connection to the file of this real path."""
        self._connection, self._path = connection, path
        self._known = companions(path)
        self._opened_at = time.monotonic()
        self._looks_at = self._opened_at + _LOOKED_EVERY
        self.has_left = False

    def look(self) -> None:
        """Let go of the file if its log was deleted. Raises `Refusal` then."""
        now = time.monotonic()
        if now < self._looks_at or self._connection is None:
            return
        if companions(self._path) == self._known:
            self._looks_at = now + _LOOKED_EVERY
            return
        if self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            again = f"the log of {self._file} was deleted while it was in use: try again"
            raise Refusal(again, code=Code.THROTTLED)
        log.error("%s", self._says())
        self._leave()
        raise Refusal(self._says(), code=Code.UNREACHABLE)

    def was_replaced(self) -> None:
        """Delete the log of a file in whose place another was put, which has none of its own."""
        with suppress(OSError):
            remove_companions(self._path, self._known)

    def check_alone(self) -> None:
        """Raise `Refusal` while others may still use a log that was deleted."""
        if self.has_left and not self._is_alone():
            raise Refusal(self._says(), code=Code.UNREACHABLE)

    def _says(self) -> str:
        return (
            f"the log of {self._file} was deleted while it was in use: what was in it is saved in"
            f" the file, which is opened anew in {_ALONE:g} s"
        )

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self.has_left = None, True
        self._left_at = time.monotonic()

    def _is_alone(self) -> bool:
        for other in list(_watches):
            if other is self or not other._still_has_what(self):
                continue
            if not other._lock.acquire(blocking=False):
                return False  # it is in use, and looks for itself
            try:
                if other._still_has_what(self):
                    other._leave()
            finally:
                other._lock.release()
        return time.monotonic() >= self._left_at + _ALONE

    def _still_has_what(self, other: LogWatch) -> bool:
        """Tell whether this has had the log open since before another has left it."""
        is_older = self._path == other._path and self._opened_at <= other._left_at
        return is_older and self._connection is not None


_watches: WeakSet[LogWatch] = WeakSet()
