"""The journal of a migration: a SQLite file that knows of each message how far it has come."""

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

# Of a message that is listed before it is delivered, and of services that do not tell.
_UNTOLD = -1.0


class Step(IntEnum):
    """How far a message has come."""

    SENDING = 0  # it may or may not be in the target
    SENT = 1  # it is in the target, and maybe still in the source
    DONE = 2  # it is deleted at the source


class Entry(NamedTuple):
    """What tells one message from all others.

    The id alone does not: a call can be published again under the id that it had. `sent_at` tells
    a message that is delivered again from one that was moved back to the source.
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
        """The same message, as a list of what waits tells of it."""
        return self._replace(sent_at=_UNTOLD)

    @property
    def content(self) -> tuple[str, bytes]:
        """What it has in common with its copy in the target."""
        return self.id, self.digest


def digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


class Journal:
    """An open journal, of one or more queues. Every method's change is on the disk on return.

    One process at a time: a second one is a `ConfigurationError`, and so is a journal of other
    brokers.
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
        # A URL may have a password in it.
        brokers = hashlib.sha256(f"{source}\n{target}".encode()).hexdigest()
        if self._fact("", "brokers", brokers) != brokers:
            raise ConfigurationError(
                f"{self.file} is the journal of a migration between other brokers"
            )
        self.token = str(self._fact("", "token", secrets.token_hex(8)))

    # ---- facts

    def _fact(self, queue: str, name: str, first: str | float | None) -> str | float | None:
        """What is known; `first` becomes known where nothing is."""
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
        """Note where a queue goes and how much was in it; what was noted first."""
        if self._fact(queue, "target", target) != target:
            raise ConfigurationError(
                f"{self.file} says that {queue!r} was on its way to "
                f"{self._fact(queue, 'target', None)!r}: finish that first, with the same --map"
            )
        noted = self._fact(queue, "before", -1 if before is None else before)
        return None if noted is None or noted == -1 else int(noted)

    def held_until(self, queue: str, side: str) -> float:
        """Until when an earlier run may hold messages of a side ("source" or "target")."""
        return float(self._fact(queue, f"{side} held", None) or 0.0)

    def hold(self, queue: str, side: str, until: float) -> None:
        """Note that messages of a side may be held until then (epoch seconds)."""
        self._set(queue, f"{side} held", until)

    # ---- messages

    def steps(self, queue: str, entries: Sequence[Entry]) -> list[Step | None]:
        """How far each message has come; None for one that is not in the journal.

        A message that was listed while it waited comes without its time, and later with it.
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
        """The messages are about to be sent."""
        now = time.time()
        self._write(
            "REPLACE INTO messages VALUES (?, ?, ?, ?, 0, ?, ?)",
            [(queue, *entry, delayed, now) for entry in entries],
        )

    def answered(self, queue: str, *, sent: Iterable[Entry], refused: Iterable[Entry]) -> None:
        """Some are in the target, and others are not: it refused them."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._mark(queue, sent, Step.SENT)
            self._database.executemany(
                "DELETE FROM messages"
                " WHERE queue = ? AND id = ? AND digest = ? AND sent_at = ? AND state = 0",
                [(queue, *entry) for entry in refused],
            )

    def done(self, queue: str, entries: Iterable[Entry]) -> None:
        """The messages are deleted at the source."""
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
        """The messages that may or may not be in the target, and when the first was sent."""
        rows = self._database.execute(
            "SELECT id, digest, sent_at, at FROM messages WHERE queue = ? AND state = 0", (queue,)
        ).fetchall()
        return [Entry(*row[:3]) for row in rows], min((row[3] for row in rows), default=0.0)

    def count(self, queue: str) -> tuple[int, int]:
        """How many messages were moved, and how many of them were listed as delayed."""
        sql = "SELECT count(*), coalesce(sum(delayed), 0) FROM messages WHERE queue = ? AND state"
        moved, delayed = self._database.execute(sql, (queue,)).fetchone()
        return moved, delayed

    def _write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            self._database.executemany(sql, rows)

    # ---- the end

    def forget(self, queue: str) -> None:
        """Nothing of the queue needs to be known any more."""
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:
            for table in ("messages", "facts"):
                self._database.execute(f"DELETE FROM {table} WHERE queue = ?", (queue,))

    def close(self) -> bool:
        """Close the file, and remove it when it knows of no queue; whether it was removed."""
        sql = "SELECT count(*) FROM facts WHERE queue <> ''"
        (queues,) = self._database.execute(sql).fetchone()
        self._database.close()
        if queues == 0:
            for end in ("", "-wal", "-shm"):
                self.file.with_name(self.file.name + end).unlink(missing_ok=True)
        return queues == 0
