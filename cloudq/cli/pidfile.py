"""Pidfiles: a worker's process id in a file, locked while the worker lives."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError

log = Log("cloudq.worker")

# Bytes of a process id and its line break, with room to spare.
_LONGEST = 32


@contextmanager
def held(path: Path) -> Generator[None]:
    """Keep this process's id in the file during the block, and remove the file afterwards.

    Raises `ConfigurationError` while another process holds the file, and for a file that is no
    pidfile, which is left as it is. A stale file is taken over: its lock ended with its process,
    even if another process has that id today.
    """
    try:
        file = _open(path, os.O_RDWR | os.O_CREAT)
    except FileNotFoundError as error:
        raise ConfigurationError(f"--pidfile {path}: {error.strerror}") from error
    try:
        if not _is_pidfile(file):
            raise ConfigurationError(
                f"--pidfile {path} is no pidfile, and is left as it is: name another file, or "
                "remove it"
            )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"--pidfile {path}: a worker with pid {_text(file)} is already running: stop "
                "it, or use another file"
            ) from None
        if not _is_still(file, path):  # its last holder removed it meanwhile
            with held(path):
                yield
            return
        left = _text(file)
        if left:
            log.warning("taking over stale pidfile %s of pid %s, which has ended", path, left)
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            if _is_still(file, path):
                path.unlink(missing_ok=True)
    finally:
        os.close(file)


def holder(path: Path) -> int | None:
    """Return the id of the process that holds the file; None if it is missing or stale."""
    if not os.path.lexists(path):
        return None
    try:
        file = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = _text(file)
        return int(text) if _is_pid(text) else None
    finally:
        os.close(file)
    return None


def _is_still(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


def _open(path: Path, flags: int) -> int:
    """Open a pidfile, not what a link in its place names, and without waiting for a pipe."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        raise
    except OSError as error:
        linked = error.errno == errno.ELOOP
        why = "is a symbolic link, which is not followed" if linked else error.strerror
        raise ConfigurationError(f"--pidfile {path}: {why}") from error


def _is_pidfile(file: int) -> bool:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_size > _LONGEST:
        return False
    text = _text(file)
    return not text or _is_pid(text)


def _is_pid(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) > 0


def _text(file: int) -> str:
    return os.pread(file, 64, 0).decode(errors="replace").strip()
