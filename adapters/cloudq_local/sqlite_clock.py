"""Notices that the machine's clock was set back, and moves the times of a file's messages along."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from cloudq_local.sqlite_file import Database
from cloudq_local.sqlite_schema import BLOCKED

# A clock that is set right by less than this hides nothing for long.
_SLACK = 5.0
# How often the time is noted in the file, in seconds.
_NOTED_EVERY = 1.0

_NOTE = (
    "INSERT INTO clock VALUES (1, ?)"
    " ON CONFLICT (one) DO UPDATE SET latest = max(latest, excluded.latest)"
)
LATEST = (
    "max(coalesce((SELECT latest FROM clock), 0),"
    " coalesce((SELECT sent_at FROM messages ORDER BY seq DESC LIMIT 1), 0))"
)
"""The latest time that the file knows of, as an expression of SQL."""

_LATEST = f"SELECT {LATEST}"
_MOVE = (
    "UPDATE messages SET due = due - ?, sent_at = sent_at - ?,"
    f" visible_at = iif(visible_at = {BLOCKED}, visible_at, visible_at - ?)"
)
_MOVE_KEYS = "UPDATE dedup SET until = until - ?"
_RESET = "UPDATE clock SET latest = ?"


class Times:
    """The time for one file's messages, which wait for times of this clock.

    `now` costs nothing but a comparison. Only a look at a queue in which nothing can be received
    asks the file too: another process may have noted a later time.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        transaction: Callable[[], AbstractContextManager[Database]],
    ) -> None:
        self._database = database
        self._transaction = transaction
        self._clock = clock
        self._latest = 0.0
        self._noted = 0.0

    def now(self) -> float:
        """Return the time in epoch seconds."""
        now = self._clock()
        if now < self._latest - _SLACK:
            self.check(now)
        self._latest = now
        return now

    def later(self, now: float) -> float:
        """Return the time once more; `now` if the clock was set back meanwhile."""
        return max(now, self._clock())

    def notes(self, now: float) -> bool:
        """Tell whether the time is to be noted again."""
        return abs(now - self._noted) > _NOTED_EVERY

    def note(self, now: float) -> None:
        """Note the time in the file, once a second. Needs a transaction."""
        if self.notes(now):
            self._database.execute(_NOTE, (now,))
            self._noted = now

    def check(self, now: float, latest: float | None = None) -> bool:
        """Move all times back as far as the clock was; False if it was not.

        `latest` is that of the file, read by the caller already.
        """
        if latest is None:
            latest = float(self._database.read(_LATEST)[0][0])
        if self._behind(now, latest) is None:
            return False
        with self._database.lock, self._transaction() as database:
            by = self._behind(now, database.execute(_LATEST).fetchone()[0])
            if by is None:  # another process was faster
                return True
            database.execute(_MOVE, (by, by, by))
            database.execute(_MOVE_KEYS, (by,))
            database.execute(_RESET, (now,))
        return True

    @staticmethod
    def _behind(now: float, latest: float) -> float | None:
        return latest - now if latest - now > _SLACK else None
