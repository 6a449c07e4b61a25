"""The journal of a migration: a SQLite file with the progress of each message."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from cloudq.driver import Delivery, Scheduled
from cloudq.errors import ConfigurationError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
  queue TEXT NOT NULL, name TEXT NOT NULL, value, PRIMARY KEY (queue, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
  queue TEXT NOT NULL,
  id TEXT NOT NULL,
  digest BLOB NOT NULL,
  sent_at REAL NOT NULL,
  state INTEGER NOT NULL,
  delayed INTEGER NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (queue, id, digest, sent_at)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS messages_state ON messages (queue, state);
"""
_PRAGMAS = ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL")

# The `sent_at` of a message that was only listed, and of services that do not tell it.
_UNTOLD = -1.0


class Step(IntEnum):
    """The steps of a message on its way."""

    SENDING = 0  # it may or may not be in the target
    SENT = 1  # it is in the target, and maybe still in the source
    DONE = 2  # it is deleted at the source


class Entry(NamedTuple):
    """The identity of one message.

    The id alone is not enough: a call can be published again under the same id. `sent_at` tells a
    message that is delivered again from one that was moved back to the source.
    """

    id: str
    digest: bytes
    sent_at: float = _UNTOLD

    @classmethod
    def of(cls, message: Delivery | Scheduled) -> Entry:
        told = message.sent_at if isinstance(message, Delivery) else None
        return cls(message.id, digest(message.body), _UNTOLD if told is None else told)

    @property
    def listed(self) -> Entry:
        """Return the same message as a listing of delayed messages shows it."""
        return self._replace(sent_at=_UNTOLD)

    @property
    def content(self) -> tuple[str, bytes]:
        """The part of its identity that its copy in the target shares."""
        return self.id, self.digest


def digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


class Journal:
    """An open journal of one or more queues. Every change is on the disk when its method returns.

    Only one process can have it open: a second one gets a `ConfigurationError`, as does the
    journal of a migration between other brokers.
    """

    def __init__(self, file: Path, *, source: str, target: str) -> None:
        self.file = file
        try:
            self._database = sqlite3.connect(file, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            raise ConfigurationError(f"cannot open the journal {file}: {error}") from error
        try:
            self._open(source, target)
        except sqlite3.Error as error:
            self._database.close()
            raise ConfigurationError(
                f"cannot use the journal {file}: {error}"
                + (": does another migration run?" if "locked" in str(error) else "")
            ) from error
        except BaseException:
            self._database.close()
            raise

    def _open(self, source: str, target: str) -> None:
        for pragma in _PRAGMAS:
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)
        # A hash, as a URL may have a password in it.
        brokers = hashlib.sha256(f"{source}\n{target}".encode()).hexdigest()
        if self._fact("", "brokers", brokers) != brokers:
            raise ConfigurationError(
                f"{self.file} is the journal of a migration between other brokers"
            )
        self.token = str(self._fact("", "token", secrets.token_hex(8)))

    # ---- facts

    def _fact(self, queue: str, name: str, first: str | float | None) -> str | float | None:
        """Return a stored fact; where there is none, store `first` and return it."""
        if first is not None:
            self._database.execute(
                "INSERT OR IGNORE INTO facts VALUES (?, ?, ?)", (queue, name, first)
            )
        row = self._database.execute(
            "SELECT value FROM facts WHERE queue = ? AND name = ?", (queue, name)
        ).fetchone()
        return row[0] if row else None

    def _set(self, queue: str, name: str, value: float) -> None:
        self._database.execute("REPLACE INTO facts VALUES (?, ?, ?)", (queue, name, value))

    def begin(self, queue: str, target: str, before: int | None) -> int | None:
        """Record the target of a queue and its count, and return what was recorded first."""
        if self._fact(queue, "target", target) != target:
            raise ConfigurationError(
                f"{self.file} says that {queue!r} was on its way to "
                f"{self._fact(queue, 'target', None)!r}: finish that first, with the same --map"
            )
        noted = self._fact(queue, "before", -1 if before is None else before)
        return None if noted is None or noted == -1 else int(noted)

    def held_until(self, queue: str, side: str) -> float:
        """Return the time until which an earlier run may hold messages of "source" or "target"."""
        return float(self._fact(queue, f"{side} held", None) or 0.0)

    def hold(self, queue: str, side: str, until: float) -> None:
        """Record that messages of a side may be held until a time, in epoch seconds."""
        self._set(queue, f"{side} held", until)

    # ---- messages

    def steps(self, queue: str, entries: Sequence[Entry]) -> list[Step | None]:
        """Return the step of each message; None for one that is not in the journal.

        A message that was listed while it was delayed has no `sent_at`; once delivered it has one.
        """
        found: list[Step | None] = []
        for entry in entries:
            rows = self._database.execute(
                "SELECT state FROM messages WHERE queue = ? AND id = ? AND digest = ?"
                " AND (sent_at = ? OR (delayed AND state < 2)) ORDER BY state DESC LIMIT 1",
                (queue, *entry),
            ).fetchall()
            found.append(Step(rows[0][0]) if rows else None)
        return found

    def sending(self, queue: str, entries: Iterable[Entry], *, delayed: bool) -> None:
        """Record that messages are about to be sent."""
        now = time.time()
        self._write(
            "REPLACE INTO messages VALUES (?, ?, ?, ?, 0, ?, ?)",
            [(queue, *entry, delayed, now) for entry in entries],
        )

    def answered(self, queue: str, *, sent: Iterable[Entry], refused: Iterable[Entry]) -> None:
        """Record which messages are in the target, and which it refused."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._mark(queue, sent, Step.SENT)
            self._database.executemany(
                "DELETE FROM messages"
                " WHERE queue = ? AND id = ? AND digest = ? AND sent_at = ? AND state = 0",
                [(queue, *entry) for entry in refused],
            )

    def done(self, queue: str, entries: Iterable[Entry]) -> None:
        """Record that messages were deleted at the source."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._mark(queue, entries, Step.DONE)

    def _mark(self, queue: str, entries: Iterable[Entry], step: Step) -> None:
        self._database.executemany(
            "UPDATE messages SET state = max(state, ?)"
            " WHERE queue = ? AND id = ? AND digest = ? AND (sent_at = ? OR delayed)",
            [(int(step), queue, *entry) for entry in entries],
        )

    def unsure(self, queue: str) -> tuple[list[Entry], float]:
        """Return the messages that may be in the target or not, and the time of the first send."""
        rows = self._database.execute(
            "SELECT id, digest, sent_at, at FROM messages WHERE queue = ? AND state = 0", (queue,)
        ).fetchall()
        return [Entry(*row[:3]) for row in rows], min((row[3] for row in rows), default=0.0)

    def count(self, queue: str) -> tuple[int, int]:
        """Return how many messages were moved, and how many of them were listed as delayed."""
        sql = "SELECT count(*), coalesce(sum(delayed), 0) FROM messages WHERE queue = ? AND state"
        moved, delayed = self._database.execute(sql, (queue,)).fetchone()
        return moved, delayed

    def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._database.executemany(sql, rows)

    # ---- the end

    def forget(self, queue: str) -> None:
        """Delete all that is recorded of a queue."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            for table in ("messages", "facts"):
                self._database.execute(f"DELETE FROM {table} WHERE queue = ?", (queue,))

    def close(self) -> bool:
        """Close the file, and delete it if it has no queue left; return whether it was deleted."""
        sql = "SELECT count(*) FROM facts WHERE queue <> ''"
        (queues,) = self._database.execute(sql).fetchone()
        self._database.close()
        if queues == 0:
            for end in ("", "-wal", "-shm"):
                self.file.with_name(self.file.name + end).unlink(missing_ok=True)
        return queues == 0
