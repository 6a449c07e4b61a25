"""One SQLite file: its schema, its connection, and its short write transactions."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

from cloudq.clock import Backoff
from cloudq.driver import Code
from cloudq.errors import ConfigurationError
from cloudq_local.items import Refusal

log = logging.getLogger("cloudq.sqlite")

VERSION = 1

# The time of a message that waits for an earlier one of its group.
BLOCKED = 1e300

# A message is receivable from `visible_at` on; `token` names its present lease (0 = none). Of a
# group only the first message has a time: the others are blocked, and get their `due` later.
_SCHEMA = """
CREATE TABLE cloudq_schema (version INTEGER NOT NULL);
CREATE TABLE queues (name TEXT PRIMARY KEY, max_deliveries INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE messages (
  seq INTEGER PRIMARY KEY,
  queue TEXT NOT NULL,
  visible_at REAL NOT NULL,
  token INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  due REAL NOT NULL,
  sent_at REAL NOT NULL,
  id TEXT NOT NULL,
  grp TEXT,
  body BLOB NOT NULL
);
CREATE INDEX messages_due ON messages (queue, visible_at);
CREATE INDEX messages_grp ON messages (queue, grp, seq) WHERE grp IS NOT NULL;
CREATE INDEX messages_delayed ON messages (queue) WHERE due > sent_at AND attempts = 0;
CREATE TABLE dead (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  queue TEXT NOT NULL,
  id TEXT NOT NULL,
  body BLOB NOT NULL,
  grp TEXT,
  attempts INTEGER NOT NULL,
  sent_at REAL NOT NULL,
  died_at REAL NOT NULL,
  reason TEXT NOT NULL
);
CREATE INDEX dead_queue ON dead (queue, seq);
CREATE TABLE dedup (
  queue TEXT NOT NULL, key TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE INDEX dedup_until ON dedup (until);
CREATE TABLE items (
  partition TEXT NOT NULL,
  sort TEXT NOT NULL,
  expires REAL,
  fields BLOB NOT NULL,
  PRIMARY KEY (partition, sort)
) WITHOUT ROWID;
CREATE INDEX items_expires ON items (expires) WHERE expires IS NOT NULL;
"""

# Earlier releases made files without it, and do not mind it.
_CLOCK = "CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY, latest REAL NOT NULL)"

_PRAGMAS = (
    "journal_mode=WAL",
    "wal_autocheckpoint=4000",
    "cache_size=-16000",
    "temp_store=MEMORY",
)

_CODES = {
    sqlite3.SQLITE_AUTH: Code.DENIED,
    sqlite3.SQLITE_BUSY: Code.THROTTLED,
    sqlite3.SQLITE_CANTOPEN: Code.NOT_FOUND,
    sqlite3.SQLITE_CONSTRAINT: Code.INVALID,
    sqlite3.SQLITE_CORRUPT: Code.UNREACHABLE,
    sqlite3.SQLITE_FULL: Code.UNREACHABLE,
    sqlite3.SQLITE_IOERR: Code.UNREACHABLE,
    sqlite3.SQLITE_LOCKED: Code.THROTTLED,
    sqlite3.SQLITE_MISMATCH: Code.INVALID,
    sqlite3.SQLITE_MISUSE: Code.INVALID,
    sqlite3.SQLITE_NOMEM: Code.UNREACHABLE,
    sqlite3.SQLITE_NOTADB: Code.INVALID,
    sqlite3.SQLITE_PERM: Code.DENIED,
    sqlite3.SQLITE_READONLY: Code.DENIED,
    sqlite3.SQLITE_TOOBIG: Code.TOO_LARGE,
}


_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process has held the file for too long: is one stopped, or "
    "copying it? busy_timeout in the URL says how long to wait",
    sqlite3.SQLITE_CANTOPEN: "the file or its folder is gone, or closed to this user",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore it, or use another",
    sqlite3.SQLITE_FULL: "the disk is full: make room on it",
    sqlite3.SQLITE_IOERR: "the disk does not read or write: look at its state, space and quota",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database: use another",
    sqlite3.SQLITE_PERM: "this user may not write to the file: look at its owner and mode",
    sqlite3.SQLITE_READONLY: "this user may not write to the file or its folder: look at their "
    "owners and modes",
}


def advice(error: Exception) -> str:
    """Say what to do about an error of these drivers; "" for what speaks for itself."""
    return _ADVICE.get(_errorcode(error) & 0xFF, "") if isinstance(error, sqlite3.Error) else ""


def error_code(error: Exception) -> Code:
    """Return the code of an error that SQLite or these drivers raised."""
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, sqlite3.Error):
        # The low byte is the primary code; the others tell its kinds apart.
        return _CODES.get(_errorcode(error) & 0xFF, Code.UNKNOWN)
    return Code.UNKNOWN


def _errorcode(error: sqlite3.Error) -> int:
    # Errors of the Python module itself (a closed connection) carry no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)


class Database:
    """A connection to the file, shared by threads behind a lock.

    `with database:` is a write transaction; `read` is one statement on its own. Both wait up to
    `busy_timeout` seconds for another process, asking in shorter steps than SQLite's
    own handler (1 ms and more), because a transaction here takes about 0.1 ms.
    """

    def __init__(self, file: Path, *, synchronous: str, busy_timeout: float) -> None:
        if not file.parent.is_dir():
            raise ConfigurationError(f"no directory {file.parent} for {file.name}: create it first")
        if file.is_dir():
            raise ConfigurationError(
                f"{file} is a directory: name a file, such as {file}/cloudq.db"
            )
        self._file = file
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._lock = Lock()
        self.openings = 0  # counts how often the file was opened: a new one knows nothing
        self._open()

    def _open(self) -> None:
        file = self._file
        try:
            there = _made(file)
            self._connection = sqlite3.connect(
                file,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
        except (sqlite3.OperationalError, OSError) as error:
            raise ConfigurationError(
                f"cannot open {file}: {error}: may this user write to it and to {file.parent}?"
            ) from error
        self.execute = self._connection.execute
        self.executemany = self._connection.executemany
        try:
            for pragma in (*_PRAGMAS, f"synchronous={self._synchronous}"):
                self._patiently(f"PRAGMA {pragma}")
            self._make()
        except BaseException:
            self._connection.close()
            raise
        self._there = there
        self.openings += 1

    def _check(self) -> None:
        """Open the file anew if another one, or none, has taken its place. Needs the lock.

        A system call costs about a microsecond. Without it, what is written goes to a file that
        nobody will ever find.
        """
        there = _identity(self._file)
        if there == self._there:
            return
        log.warning(
            "%s was %s while it was in use: it is opened anew, and what was in it is gone",
            self._file,
            "replaced" if there else "deleted",
        )
        old = self._connection
        try:
            self._open()
        except BaseException as error:
            self._connection, self.execute, self.executemany = old, old.execute, old.executemany
            if isinstance(error, ConfigurationError):
                raise Refusal(str(error), code=Code.NOT_FOUND) from error
            raise
        old.close()

    def __enter__(self) -> Database:
        self._lock.acquire()
        try:
            self._check()
            self._patiently("BEGIN IMMEDIATE")
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.execute("COMMIT")
            elif self._connection.in_transaction:
                self.execute("ROLLBACK")
        except BaseException:
            if self._connection.in_transaction:
                self.execute("ROLLBACK")
            raise
        finally:
            self._lock.release()

    def restart(self) -> None:
        """Undo what the present transaction did, and begin again."""
        self.execute("ROLLBACK")
        self._patiently("BEGIN IMMEDIATE")

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of one statement outside of a transaction."""
        with self._lock:
            self._check()
            return self._patiently(sql, values).fetchall()

    def read_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the first row (or None) of the statement for each of `rows`, of one moment."""
        with self._lock:
            self._check()
            if len(rows) == 1:
                return [self._patiently(sql, rows[0]).fetchone()]
            # One read transaction, so that each statement needs no file locks of its own.
            self._patiently("BEGIN")
            try:
                return [self.execute(sql, values).fetchone() for values in rows]
            finally:
                self.execute("COMMIT")

    def close(self) -> None:
        """Close the connection, when no thread uses it any more."""
        with self._lock:
            self._connection.close()

    def _patiently(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        deadline, backoff = 0.0, Backoff(0.00005, 0.005, factor=1.5, jitter=0.0)
        while True:
            try:
                return self.execute(sql, values)
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                deadline = deadline or now + self._busy_timeout
                if _errorcode(error) & 0xFF != sqlite3.SQLITE_BUSY or now > deadline:
                    raise
            time.sleep(backoff.failed())

    def _make(self) -> None:
        """Make the tables unless they are there; raises when a newer release made them."""
        if self._version() is None:
            self._patiently("BEGIN IMMEDIATE")
            if self._version() is None:
                for statement in _SCHEMA.split(";"):
                    self.execute(statement)
                self.execute("INSERT INTO cloudq_schema VALUES (?)", (VERSION,))
            self.execute("COMMIT")
        version = self._version()
        if version != VERSION:
            raise ConfigurationError(
                f"the file has schema {version} and this release reads schema {VERSION}: "
                "upgrade cloudq, or use another file"
            )
        self._patiently(_CLOCK)

    def _version(self) -> int | None:
        there = "SELECT 1 FROM sqlite_master WHERE name = 'cloudq_schema'"
        if self._patiently(there).fetchone() is None:
            return None
        return self._patiently("SELECT version FROM cloudq_schema").fetchone()[0]


def _made(file: Path) -> tuple[int, int] | None:
    """Make the file, readable by this user alone, unless it is there; return its identity.

    SQLite would make it readable by all, and gives its two companions the mode that it has.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    return _identity(file)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def database_file(path: str) -> Path:
    """Return the absolute path of the file that an address names."""
    return Path(os.path.abspath(path))
