"""Errors of SQLite: their codes, and what to do about them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cloudq.driver import Code
from cloudq_local.items import Refusal

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
    sqlite3.SQLITE_NOTADB: Code.UNREACHABLE,  # it was one when it was opened
    sqlite3.SQLITE_PERM: Code.DENIED,
    sqlite3.SQLITE_READONLY: Code.DENIED,
    sqlite3.SQLITE_TOOBIG: Code.TOO_LARGE,
}


def error_code(error: Exception) -> Code:
    """Return the code of an error that SQLite or these drivers raised."""
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, UnicodeEncodeError):
        return Code.INVALID
    if isinstance(error, sqlite3.Error):
        # The low byte is the primary code; the others tell its kinds apart.
        return _CODES.get(errorcode(error) & 0xFF, Code.UNKNOWN)
    return Code.UNKNOWN


_RECOVER = (
    'stop all that use it, save what can be read by "python -m cloudq_local.recover FILE NEW", then'
    " put NEW or a copy in its place, its -wal, -shm and -inbox moved away, or begin anew"
)
_DAMAGED = f"the file is damaged: {_RECOVER}"

# What to do, by SQLite's own codes: `Code` puts a full disk and a damaged file together.
_ADVICE = {
    sqlite3.SQLITE_AUTH: "this user may not do that with the file",
    sqlite3.SQLITE_BUSY: "another process keeps the file locked: try again, or raise busy_timeout",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: check its folder, and this user's rights",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_FULL: "its disk is full: free some space, then try again",
    sqlite3.SQLITE_IOERR: "the file cannot be read or written: is its disk full or ill?",
    sqlite3.SQLITE_LOCKED: "another statement keeps the file locked: try again",
    sqlite3.SQLITE_NOMEM: "this process has no memory left",
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_PERM: "this user may not write to the file or its folder",
    sqlite3.SQLITE_READONLY: "this user may not write to the file or its folder",
    sqlite3.SQLITE_TOOBIG: "it is larger than SQLite stores in one row",
}


def advice(error: Exception) -> str | None:
    """Return what to do about an error of SQLite; all its advice is about one local file."""
    if isinstance(error, UnicodeEncodeError):
        return "no name or id may have half of a character (a surrogate) in it"
    if isinstance(error, Refusal):  # of a file that could not be opened anew
        error = error.__cause__ if isinstance(error.__cause__, sqlite3.Error) else error
        if error.__cause__ is not None:
            return "put the file and its folder back, or name another"
        if isinstance(error, Refusal) and error.code in (Code.THROTTLED, Code.UNREACHABLE):
            return "try again in a moment"
    if not isinstance(error, sqlite3.Error):
        return None
    return _ADVICE.get(errorcode(error) & 0xFF, "SQLite refused it")


def errorcode(error: sqlite3.Error) -> int:
    """Return SQLite's own code of an error, of the extended ones."""
    # Errors of the Python module itself (a closed connection) carry no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)


def unopened(file: Path, error: sqlite3.Error | OSError) -> str:
    """Return a line that says why a file cannot be opened, and what to do about it."""
    if isinstance(error, OSError):
        doubt = f"may this user write to it and to {file.parent}?"
        return f"cannot open {file}: {error.strerror}: {doubt}"
    why = advice(error)
    if errorcode(error) & 0xFF == sqlite3.SQLITE_NOTADB:
        why = f"the file is not a SQLite database: name another; if it was one, {_RECOVER}"
    return f"cannot open {file}: {why} - {error}"
