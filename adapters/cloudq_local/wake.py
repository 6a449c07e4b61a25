"""Wakes waiters of other processes over Unix datagram sockets.

A wake-up is a hint, which saves a waiter time. It cannot come from a process with another TMPDIR,
of another user or in another container, nor once the sockets' directory was cleaned away. So who
waits looks for itself every `LONGEST_WAIT` seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import select
import socket
import stat
import tempfile
from pathlib import Path
from types import TracebackType

from cloudq.errors import ConfigurationError

LONGEST_WAIT = 1.0
"""Seconds after which a waiter looks at the file without having been woken."""


def _digest(text: str, size: int) -> str:
    return hashlib.blake2s(text.encode(), digest_size=size).hexdigest()


# How often a listener tries again to make its socket in a directory that others have removed.
_TRIES = 100


def _private_root() -> Path:
    """Return the directory of this user's sockets; raises when someone else could reach into it."""
    root = Path(tempfile.gettempdir(), f"cloudq-{os.getuid()}")
    try:
        with contextlib.suppress(FileExistsError):
            root.mkdir(mode=0o700)
        status = root.lstat()
    except OSError as error:
        raise ConfigurationError(
            f"cannot make {root} for wake-ups: {error.strerror}: set TMPDIR to a directory that "
            "this user may write to"
        ) from error
    if wrong := _wrong(status):
        raise ConfigurationError(
            f"{root} {wrong}, so that others could reach into it; it must be a directory of yours "
            "with mode 700: have it removed, or set TMPDIR to a directory of your own"
        )
    return root


def _wrong(status: os.stat_result) -> str:
    if not stat.S_ISDIR(status.st_mode):
        return "is a symbolic link" if stat.S_ISLNK(status.st_mode) else "is no directory"
    if status.st_uid != os.getuid():
        return f"belongs to user {status.st_uid}"
    return f"has mode {stat.S_IMODE(status.st_mode):o}" if status.st_mode & 0o077 else ""


class Bell:
    """Wakes all listeners to a topic of one database file, in any process of this user.

    Each listener is a socket in a directory named by the file's real path. The names are hashes
    because a socket's path has room for about 100 bytes.
    """

    def __init__(self, file: Path) -> None:
        self._folder = _private_root() / _digest(os.path.realpath(file), 6)
        self._path = os.fspath(self._folder)  # a sender reads it each time
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def ring(self, topic: str) -> None:
        """Wake every listener of the topic; costs one directory read when there is none."""
        try:
            names = os.listdir(self._path)
        except OSError:  # nobody listens, or where this user cannot see
            return
        prefix = _digest(topic, 4) if names else ""
        for name in names:
            if name.startswith(prefix):
                self._ring(f"{self._folder}/{name}")

    def _ring(self, path: str) -> None:
        try:
            self._socket.sendto(b"!", path)
        except ConnectionRefusedError:
            # Nobody holds the other end: its process died without cleaning up.
            with contextlib.suppress(OSError):
                os.unlink(path)
        except OSError:
            # A full buffer is a waiter that has been rung already. Whatever else it is, what was
            # written is written: the waiter sees it a moment later.
            return

    def listen(self, topic: str) -> Ear:
        """Return a new listener, which hears every ring from now on.

        Where it cannot listen it hears none, and its waits end by themselves.
        """
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.setblocking(False)
        path = f"{self._folder}/{_digest(topic, 4)}{secrets.token_hex(4)}"
        for _ in range(_TRIES):
            try:
                _private_root()  # somebody may have cleaned up
                self._folder.mkdir(mode=0o700, exist_ok=True)
                ear.bind(path)
            except FileNotFoundError:
                # The last listener of another process has just removed the directory.
                continue
            except (OSError, ConfigurationError):
                break
            return Ear(ear, path)
        return Ear(ear, "")

    def close(self) -> None:
        """Remove the directory too, when nobody listens any more."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self._folder.rmdir()


class Ear:
    """One listener: a bound socket that keeps a wake-up until `wait` takes it."""

    def __init__(self, ear: socket.socket, path: str) -> None:
        self._socket = ear
        self.path = path
        self._poll = select.poll()
        self._poll.register(ear, select.POLLIN)

    def __enter__(self) -> Ear:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self, timeout: float) -> bool:
        """Block until a wake-up comes, or came since the last wait; False after `timeout`."""
        if not self._poll.poll(math.ceil(max(timeout, 0.0) * 1000)):
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(16)
        return True

    def wake(self) -> None:
        """End the wait of another thread, or the next one."""
        with contextlib.suppress(OSError):
            if self.path:
                self._socket.sendto(b"!", self.path)

    def fileno(self) -> int:
        """Return the socket's descriptor, readable once it was rung."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            if self.path:
                os.unlink(self.path)
        self._socket.close()
