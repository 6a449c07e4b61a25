"""Pidfiles: a worker's process id in a file, locked while the worker lives."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cloudq.errors import ConfigurationError

log = logging.getLogger("cloudq.worker")


@contextmanager
def held(path: Path) -> Generator[None]:
    """Keep this process's id in the file during the block, and remove the file afterwards.

    Raises `ConfigurationError` while another process holds the file. A stale file is taken over:
    its lock ended with its process, even if another process has that id today.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigurationError(f"--pidfile {path}: {error.strerror}") from error
    try:
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
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def holder(path: Path) -> int | None:
    """Return the id of the process that holds the file; None if it is missing or stale."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"pidfile {path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = _text(file)
        return int(text) if text.isdigit() else None
    finally:
        os.close(file)
    return None


def _is_still(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _text(file: int) -> str:
    return os.pread(file, 64, 0).decode(errors="replace").strip()
