"""One SQLite file: its schema, its connection, and its short write transactions."""

from __future__ import annotations

import ctypes
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
from cloudq.driver.forks import HOLD, hold_while_forking, renew_after_fork
from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError
from cloudq_local.items import Refusal
from cloudq_local.sqlite_errors import error_code, errorcode, unopened
from cloudq_local.sqlite_log import ROOM, WriteAheadLog
from cloudq_local.sqlite_log_watch import LogWatch
from cloudq_local.sqlite_paths import identity, made
from cloudq_local.sqlite_schema import LATER, SCHEMA, VERSION

log = Log("cloudq.sqlite")

_PRAGMAS = (
    "journal_mode=WAL",
    "wal_autocheckpoint=1000",
    # A log that a large transaction, or a reader who stayed long, has made longer is cut again.
    f"journal_size_limit={ROOM}",
    "cache_size=-16000",
    "temp_store=MEMORY",
)


# Where each commit is synced, the log is made as long as it gets after so many of them. To write
# over a part of a file is synced four times as fast as to append to it, which changes its size too.
_WORTH_ROOM = 8


class Database:
    """A connection to the file, shared by threads behind a lock.

    `with database.lock, database:` is a write transaction, `write` one of a single statement,
    `read` one statement that writes nothing. All wait up to `busy_timeout` seconds for another
    process, asking in shorter steps than SQLite's own handler (1 ms and more), because a
    transaction here takes about 0.1 ms.

    A time limit may raise in a thread between any two bytecodes. No lock is lost to it where the
    interpreter itself takes it, in a `with`; a transaction whose end it cut off is undone by
    `check`.

    `unsynced` writes survive the death of every process, but not a power loss: what it takes away
    is what was written since the last synced one. They save the disk's time where `synchronous`
    is `full`.

    In a process that was forked, and where the file was deleted or replaced, it opens the file
    anew.

    Dead letters are deleted after `keep_dead` seconds; 0 keeps them.
    """

    def __init__(
        self, file: Path, *, synchronous: str, busy_timeout: float, keep_dead: float = 0.0
    ) -> None:
        self.busy_timeout = busy_timeout
        self.keep_dead = keep_dead
        self._file = file
        self._path = os.fspath(file)
        self._log = WriteAheadLog(self._path)
        self.synchronous = synchronous
        self._pragmas = (*_PRAGMAS, f"synchronous={synchronous}")
        self.lock = Lock()
        self._watch = LogWatch(file, self.lock)
        self._is_held = False  # for a fork: no thread is in SQLite then
        self.openings = 0  # counts how often the file was opened: a new one knows nothing
        try:
            if not file.parent.is_dir():
                missing = f"no directory {file.parent} for {file.name}: create it first"
                raise ConfigurationError(missing)
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise ConfigurationError(unopened(file, error)) from error
        hold_while_forking(self, Database._hold, Database._let_go)
        renew_after_fork(self, Database._in_child)

    def __del__(self) -> None:
        """Close the connection of what was dropped and not closed, as SQLite's module itself does.

        From Python 3.13 on it would warn of that.
        """
        with suppress(AttributeError, sqlite3.Error):  # it was never open
            if self._identity is not None:  # else it is a parent's, or one of a file that is gone
                self._connection.close()

    def _open(self) -> None:
        there = made(self._file)
        self._connection = sqlite3.connect(
            self._file,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        self.execute = self._connection.execute
        self.executemany = self._connection.executemany
        self._is_synced = True
        self._syncs = 0
        try:
            if os.path.getsize(self._path) == 0:  # it is for a file in which nothing is yet
                self.patiently("PRAGMA auto_vacuum=INCREMENTAL")
            for pragma in self._pragmas:
                self.patiently(f"PRAGMA {pragma}")
            self._make()
        except BaseException:
            self._connection.close()
            raise
        self._identity = there
        self.real_path = os.path.realpath(self._path)  # SQLite's own files are beside that too
        self._watch.opened(self._connection, self.real_path)
        self.openings += 1

    def _hold(self) -> bool:
        self._is_held = self.lock.acquire(timeout=HOLD)
        return self._is_held

    def _let_go(self) -> None:
        self._is_held = False
        self.lock.release()

    def _in_child(self) -> None:
        """Give up the parent's connection, and open another at the next use.

        SQLite knows the locks that its process has on a file by the file. A second connection
        beside the parent's would count locks as its own that this process does not have.
        """
        self.lock = Lock()
        if self._is_held:
            self._connection.close()
        else:  # a thread of the parent was in SQLite, whose own locks may be taken for ever
            _keep_for_ever(self._connection)
        self._is_held = False
        self._identity = None
        self._watch = LogWatch(self._file, self.lock)

    def check(self) -> None:
        """Open the file that is there now, if it is another. Needs the lock.

        The connection to a deleted file works on, and nobody else sees what it writes.
        """
        if self._watch.has_left:  # another connection may have let go of it for us
            self._identity = None
        before, there = self._identity, identity(self._path)
        if before is not None:
            if self._connection.in_transaction:  # its thread was interrupted as it ended it
                self.undo()
            if there == before:
                self._watch.look()
                return
            log.warning(
                "%s was %s while it was in use: it is opened anew, and what was in it is gone",
                self._file,
                "replaced" if there else "deleted",
            )
            # A file that was only moved away gets what it lacks.
            with suppress(sqlite3.Error):
                self.execute("PRAGMA wal_checkpoint")
            # To close it would delete files beside the new one that have the old one's names.
            _keep_for_ever(self._connection)
            self._identity = None
            self._watch.was_replaced()
        self._watch.check_alone()
        try:
            self._open()
        except (ConfigurationError, OSError) as error:
            raise Refusal(f"cannot open {self._file}: {error}", code=Code.NOT_FOUND) from error
        except sqlite3.Error as error:
            raise Refusal(f"cannot open {self._file}: {error}", code=error_code(error)) from error

    def is_current(self) -> bool:
        """Tell whether the file that is open is still the one of its name."""
        return identity(self._path) == self._identity

    @property
    def path(self) -> str:
        """The absolute path of the file."""
        return self._path

    def unsynced(self) -> _Unsynced:
        """Return the surroundings of a write transaction of which a power loss may take all."""
        return _Unsynced(self)

    def __enter__(self) -> Database:
        return self.begin()

    def begin(self, *, synced: bool = True) -> Database:
        """Begin a write transaction, which `__exit__` ends. Needs the lock."""
        self._ready(synced)
        try:
            self.patiently("BEGIN IMMEDIATE")
        except BaseException:
            if self._connection.in_transaction:
                self.undo()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._connection.in_transaction:
                self.execute("COMMIT" if kind is None else "ROLLBACK")
        except BaseException:
            if self._connection.in_transaction:
                self.execute("ROLLBACK")
            raise

    def undo(self) -> None:
        """Undo what the present transaction did; its end then writes nothing."""
        self.execute("ROLLBACK")

    def restart(self) -> None:
        """Undo what the present transaction did, and begin again."""
        self.undo()
        self.patiently("BEGIN IMMEDIATE")

    def write(self, sql: str, values: Sequence[Any] = (), *, synced: bool = True) -> list[Any]:
        """Run one statement as a write transaction, and return its rows."""
        with self.lock:
            self._ready(synced)
            return self.patiently(sql, values).fetchall()

    def _ready(self, synced: bool) -> None:
        """Make ready for a write transaction. Needs the lock."""
        self.check()
        self._log.begin_anew(self._connection)
        self._sync(synced)

    def _sync(self, wanted: bool) -> None:
        """Have the commits from now on synced, or not. Needs the lock, and no transaction."""
        if self.synchronous != "full":
            return
        if wanted is not self._is_synced:
            # A pragma takes effect when it is compiled, which a cached statement is not again.
            self._connection.executescript(f"PRAGMA synchronous={'full' if wanted else 'normal'}")
            self._is_synced = wanted
        if wanted and self._syncs < _WORTH_ROOM:
            self._syncs += 1
            if self._syncs == _WORTH_ROOM:
                self.patiently("BEGIN IMMEDIATE")  # nobody else appends to the log meanwhile
                try:
                    self._log.make_room()
                finally:
                    self.execute("COMMIT")

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of one statement outside of a transaction."""
        with self.lock:
            self.check()
            return self.patiently(sql, values).fetchall()

    def close(self) -> None:
        """Close the connection, when no thread uses it any more."""
        with self.lock:
            self._connection.close()

    def patiently(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement, and wait while another process writes. Needs the lock."""
        deadline, backoff = 0.0, None
        while True:
            try:
                return self.execute(sql, values)
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                deadline = deadline or now + self.busy_timeout
                if errorcode(error) & 0xFF != sqlite3.SQLITE_BUSY or now > deadline:
                    raise
            backoff = backoff or Backoff(0.00005, 0.005, factor=1.5, jitter=0.0)
            time.sleep(backoff.failed())

    def _make(self) -> None:
        """Make the tables unless they are there; raises when a newer release made them."""
        if self._version() is None:
            self.patiently("BEGIN IMMEDIATE")
            if self._version() is None:
                for statement in SCHEMA.split(";"):
                    self.execute(statement)
                self.execute("INSERT INTO cloudq_schema VALUES (?)", (VERSION,))
            self.execute("COMMIT")
        version = self._version()
        if version != VERSION:
            raise ConfigurationError(
                f"{self._file} has schema {version} and this release reads schema {VERSION}: "
                "upgrade cloudq, or use another file"
            )
        for statement in LATER:
            self.patiently(statement)

    def _version(self) -> int | None:
        there = "SELECT 1 FROM sqlite_master WHERE name = 'cloudq_schema'"
        if self.patiently(there).fetchone() is None:
            return None
        row = self.patiently("SELECT version FROM cloudq_schema").fetchone()
        return row[0] if row else 0


class _Unsynced:
    """The surroundings of a write transaction that is not synced."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Database:
        return self._database.begin(synced=False)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.__exit__(kind, error, trace)


def _keep_for_ever(connection: sqlite3.Connection) -> None:
    """Keep a connection from being closed, even when the process ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
