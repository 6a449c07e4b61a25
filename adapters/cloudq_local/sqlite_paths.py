"""Makes the files of a SQLite database, and tells one file of a name from another."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cloudq.driver import Address
from cloudq.errors import ConfigurationError

INBOX = "-inbox"
"""The end of the name of the file to which messages are appended."""

_COMPANIONS = ("-wal", "-shm", INBOX)

_Companions = tuple[tuple[int, int] | None, tuple[int, int] | None]


def made(file: Path) -> tuple[int, int] | None:
    """Make the file, readable by this user alone, unless it is there; return its identity.

    SQLite would make it readable by all, and gives its companions the mode that it has. Those
    of an earlier file that was moved away would be taken for the new one's, so they are deleted.
    """
    if identity(file) is None:
        with _alone_in(file.parent):
            if identity(file) is None:
                for companion in _COMPANIONS:
                    file.with_name(file.name + companion).unlink(missing_ok=True)
                os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    if file.is_dir():
        raise ConfigurationError(f"{file} is a directory: name a file, such as {file}/cloudq.db")
    if not file.is_file():
        raise ConfigurationError(f"{file} is no regular file: name another")
    return identity(file)


def companions(file: str) -> _Companions:
    """Return the identities of SQLite's own files beside a database: its log, and the log's index.

    Each process that has it open has these open too, and agrees with others by them alone.
    """
    return identity(f"{file}-wal"), identity(f"{file}-shm")


def remove_companions(file: str, of: _Companions) -> None:
    """Delete these where they are still there: a file that was put in another's place has none.

    SQLite would take the log of the earlier file for that of the new one.
    """
    with _alone_in(Path(file).parent):
        for end, known in zip(_COMPANIONS, of, strict=False):
            if known is not None and identity(f"{file}{end}") == known:
                os.unlink(f"{file}{end}")


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Keep other processes that make a file in this folder waiting."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def identity(file: Path | str) -> tuple[int, int] | None:
    """Return the file system and the number of the file of this name; None if there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def file_of(address: Address) -> Path | None:
    """Return the path of the file of an address; None for one that names none."""
    return database_file(address.path) if address.path else None


def database_file(path: str) -> Path:
    """Return the absolute path of the file that an address names."""
    if "\0" in path:
        raise ConfigurationError(f"{path!r} is no path: it has a NUL in it")
    return Path(os.path.abspath(path))
