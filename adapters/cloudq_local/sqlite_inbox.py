"""Messages on their way into a SQLite file: appended to a file beside it, its inbox.

To append costs a tenth of what an insert does. Who looks for messages takes in first what was
appended, in the same transaction. So the inbox is for messages that nothing must be asked for: no
order, no deduplication, no delay; and for files whose commits are not synced, since it is not.

The inbox begins with a head: a mark, the database that it belongs to, the boot of the machine, and
its generation, a random name. Then comes how far it is known to be taken in, and of which
generation that was said. The database itself says the same in the table `inbox`, which is what
counts. Records follow.

Whoever writes or reads records has the inbox locked, so that half a record is nobody's who lives.
When all is taken in and that is committed, a long inbox begins anew, with another generation. One
of an earlier boot does so before anything is appended: a power loss may have taken from it what
the database has seen.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
import stat
import struct
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from cloudq.clock import Backoff
from cloudq.driver import Code, Outgoing
from cloudq.driver.forks import renew_after_fork
from cloudq.driver.log import Log
from cloudq_local.items import Refusal
from cloudq_local.sqlite_file import Database
from cloudq_local.sqlite_messages import insert
from cloudq_local.sqlite_paths import INBOX
from cloudq_local.sqlite_records import record, rows

log = Log("cloudq.sqlite")

# Bytes of a body that is appended at most: larger ones gain little.
_LARGEST = 1 << 16
# Bytes after which an inbox begins anew once all is taken in.
_LONG = 1 << 20
# Bytes after which a sender takes in itself what nobody else has, so that no look at the queues
# takes long: some 5,000 small messages.
_FULL = 1 << 21

_MARK = b"cloudq I"
_HEAD = struct.Struct("<8s16s16s16s")
_KNOWN = struct.Struct("<16sQ")
_FIRST = _HEAD.size + _KNOWN.size  # where records begin

_LONGEST_NAME = 1 << 12
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

_NAME = "SELECT name FROM inbox"
_MAKE = "INSERT OR IGNORE INTO inbox VALUES (1, randomblob(16), x'', 0)"
_TAKEN = "SELECT generation, position FROM inbox"
_TAKE = "UPDATE inbox SET generation = ?, position = ?"


def _boot() -> bytes | None:
    """Return the name of this boot of the machine; None where that is not told."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return uuid.UUID(file.read().strip()).bytes
    except (OSError, ValueError):
        return None


class _Taken(NamedTuple):
    """A part of the inbox that is taken in by a transaction. With `ends` it is kept locked."""

    generation: bytes
    position: int
    ends: bool


class Inbox:
    """The inbox of one database. Safe to use from many threads, and in forked processes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._path = ""
        self._boot = _boot()
        self._file: int | None = None
        self._name = b""
        self._opening = 0  # the opening of the database for which the file was opened
        self._is_fit = False  # it is of this boot, so that it may be appended to
        self._queues: dict[str, bytes] = {}
        self.appends = self._boot is not None and database.synchronous != "full"
        renew_after_fork(self, Inbox._close)

    def append(self, queue: str, message: Outgoing, now: float) -> bool:
        """Append a message without order, deduplication and delay; False if it cannot be done."""
        if not self.appends or len(message.body) > _LARGEST or len(message.id) > _LONGEST_NAME:
            return False
        name = self._queues.get(queue) or self._queue(queue)
        try:
            length = self._append(record(name, message.id.encode(), message.body, now))
        except (OSError, Refusal) as error:  # a disk may be full: then SQLite will tell
            if not _is_raised_here(error):
                raise
            log.debug("%s cannot be written to", self._path, exc_info=error)
            return False
        if not length or length > _FULL:
            self._take_in_now()
        return length > 0

    def _queue(self, queue: str) -> bytes:
        name = self._queues[queue] = queue.encode()
        return name

    def _append(self, record: bytes) -> int:
        """Append a record, and return the length of the inbox; 0 if it is to begin anew first."""
        with self._database.lock:
            self._database.check()
            while True:
                file = self._file
                if file is None or not self._is_fit or self._opening != self._database.openings:
                    file = self._open(makes=True)
                if file is None or not self._is_fit:
                    return 0
                try:
                    self._lock(file)
                    status = os.fstat(file)
                    if status.st_nlink:
                        size = status.st_size
                        if size < _FIRST:
                            size = self._begin(file)
                        _write(file, record, size)
                        return size + len(record)
                finally:
                    fcntl.flock(file, fcntl.LOCK_UN)
                self._close()  # somebody has deleted it

    def _take_in_now(self) -> None:
        try:
            with self._database.lock, self.transaction():
                pass
        except Exception as error:  # what is sent is sent: who looks for it tries again
            if not _is_raised_here(error):
                raise
            log.debug("%s is not taken in", self._path, exc_info=error)

    def waits(self) -> bool:
        """Tell whether there may be messages that are not taken in."""
        with self._database.lock:
            if self._file is None:
                self._database.check()
            file = self.there()
            if file is None:
                return False
            length = os.fstat(file).st_size
            head = os.pread(file, _FIRST, 0)
        if length <= _FIRST or len(head) < _FIRST:
            return False
        generation, position = _KNOWN.unpack_from(head, _HEAD.size)
        return generation != _HEAD.unpack_from(head)[3] or position < length

    def take_in(self) -> None:
        """Take in what was appended so far."""
        if self.waits():
            with self._database.lock, self.transaction():
                pass

    def transaction(self) -> _Transaction:
        """Return the surroundings of a write transaction that first takes in what was appended.

        It is not synced, and needs the database's lock.
        """
        return _Transaction(self, self._database)

    def close(self) -> None:
        """Close it; what this process may have appended is taken in before."""
        with suppress(Exception):  # else it stays for the next who opens the database
            if self._file is not None and self.waits():
                self._take_in_now()
        with self._database.lock:
            self._close()

    def _close(self) -> None:
        file, self._file, self._is_fit = self._file, None, False
        if file is not None:
            os.close(file)

    # ---- the file; all of this needs the database's lock

    def there(self) -> int | None:
        """Return the inbox, open, if there is one."""
        file = self._file
        if (
            file is not None
            and self._opening == self._database.openings
            and os.fstat(file).st_nlink
        ):
            return file
        return self._open(makes=False)

    def _open(self, *, makes: bool) -> int | None:
        """Open the inbox of the database, and if `makes` make it; None if there is none."""
        self._close()
        self._path = f"{self._database.real_path}{INBOX}"  # whatever name it was opened by
        try:
            file = os.open(self._path, _FLAGS | os.O_CREAT if makes else _FLAGS, 0o600)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = f"cannot open {self._path}: {error.strerror}"
            raise Refusal(reason, code=Code.DENIED) from error
        is_ours = False
        try:
            self._name = self._database_name(makes=makes)
            is_ours = bool(self._name) and self._belongs(file, makes=makes)
        finally:
            if not is_ours:
                os.close(file)
        if not is_ours:
            return None
        self._file, self._opening = file, self._database.openings
        return file

    def _database_name(self, *, makes: bool) -> bytes:
        row = self._database.patiently(_NAME).fetchone()
        if row is None and makes:
            self._database.patiently(_MAKE)
            row = self._database.patiently(_NAME).fetchone()
        return row[0] if row is not None else b""

    def _belongs(self, file: int, *, makes: bool) -> bool:
        """Tell whether an inbox is this database's; if `makes`, make it so.

        Raises `Refusal` for one of another release.
        """
        try:
            self._lock(file)
            if makes and not os.fstat(file).st_size:
                status = os.stat(self._database.path)
                if not os.geteuid():  # as SQLite does: the file's own user needs it too
                    os.fchown(file, status.st_uid, status.st_gid)
                os.fchmod(file, stat.S_IMODE(status.st_mode))
            head = os.pread(file, _HEAD.size, 0)
            self._is_fit = len(head) < _HEAD.size
            if self._is_fit:
                return True
            mark, name, boot, _ = _HEAD.unpack(head)
            if not any(head):  # a power loss took it
                return True
            if mark != _MARK:
                reason = (
                    f"{self._path} is damaged, or of another release of cloudq: upgrade this one,"
                    " or move that file away"
                )
                raise Refusal(reason, code=Code.INVALID)
            if name != self._name and makes and self._database.is_current():
                log.warning("%s was that of another database, and begins anew", self._path)
                self._begin(file)
                return True
            self._is_fit = boot == self._boot
            return name == self._name
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _begin(self, file: int) -> int:
        """Empty an inbox, give it a head, and return its length. Needs it locked."""
        os.ftruncate(file, 0)
        head = _HEAD.pack(_MARK, self._name, self._boot or b"", secrets.token_bytes(16))
        _write(file, head + bytes(_KNOWN.size), 0)
        self._is_fit = True
        return _FIRST

    def _lock(self, file: int) -> None:
        """Wait for the lock on an inbox, which is held for microseconds."""
        deadline, backoff = 0.0, None
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + self._database.busy_timeout
                if now > deadline:
                    reason = f"another process keeps {self._path} locked"
                    raise Refusal(reason, code=Code.THROTTLED) from None
            else:
                return
            backoff = backoff or Backoff(0.00005, 0.005, factor=1.5, jitter=0.0)
            time.sleep(backoff.failed())

    def insert(self, file: int) -> _Taken | None:
        """Insert what was appended and is not in the database yet. Needs a transaction."""
        database = self._database
        known: tuple[bytes, int] = database.execute(_TAKEN).fetchone()
        taken, data = self._read(file, *known)
        if taken is None or known == taken[:2]:
            return taken
        insert(database, rows(data, self._path))
        database.execute(_TAKE, taken[:2])
        return taken

    def _read(self, file: int, known: bytes, position: int) -> tuple[_Taken | None, bytes]:
        """Read what was appended since; an inbox that is to begin anew is left locked."""
        ends = False
        try:
            self._lock(file)
            length = os.fstat(file).st_size
            head = os.pread(file, _HEAD.size, 0)
            if length < _FIRST:
                return None, b""
            mark, name, boot, generation = _HEAD.unpack(head)
            if (mark, name) != (_MARK, self._name) and any(head):  # another file has come meanwhile
                self._opening = 0
                return None, b""
            start = position if generation == known else _FIRST
            data = os.pread(file, length - start, start) if length > start else b""
            ends = length > _LONG or self._boot not in (None, boot)
            return _Taken(generation, length, ends), data
        finally:
            if not ends:
                fcntl.flock(file, fcntl.LOCK_UN)

    def say(self, file: int, taken: _Taken) -> None:
        """Say in the inbox itself that all is taken in, or begin it anew, after that is committed.

        Who looks need not ask the database then. It is no loss if it cannot be said, or if another
        has the inbox locked: who looks next says it. Since that was committed, another may have
        begun it anew, or not have come that far.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if taken.ends:
                self._begin(file)
            elif os.pread(file, _HEAD.size, 0)[-len(taken.generation) :] == taken.generation:
                os.pwrite(file, _KNOWN.pack(taken.generation, taken.position), _HEAD.size)
        except OSError as error:
            if not _is_raised_here(error):
                raise
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


class _Transaction:
    """The surroundings of a write transaction that has taken in what was appended."""

    def __init__(self, inbox: Inbox, database: Database) -> None:
        self._inbox = inbox
        self._database = database
        self._file: int | None = None
        self._taken: _Taken | None = None

    def __enter__(self) -> Database:
        self._database.begin(synced=False)
        try:
            self._file = self._inbox.there()
            if self._file is not None:
                self._taken = self._inbox.insert(self._file)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self._database

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        file, taken = self._file, self._taken
        try:
            self._database.__exit__(kind, error, trace)
            if kind is None and file is not None and taken is not None:
                self._inbox.say(file, taken)
        finally:
            if file is not None and (taken is None or taken.ends):
                fcntl.flock(file, fcntl.LOCK_UN)


def _is_raised_here(error: Exception) -> bool:
    """Tell whether what was done here raised it, and no handler of a signal and no time limit."""
    if isinstance(error, OSError):
        return error.errno is not None
    return isinstance(error, (Refusal, sqlite3.Error))


def _write(file: int, data: bytes, at: int) -> None:
    """Write all of this, or nothing."""
    if os.pwrite(file, data, at) != len(data):
        os.ftruncate(file, at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
