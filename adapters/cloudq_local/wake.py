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
import weakref
from collections import deque
from pathlib import Path
from types import TracebackType

from cloudq.driver.forks import renew_after_fork
from cloudq.errors import ConfigurationError

LONGEST_WAIT = 1.0
"""Seconds after which a waiter looks at the file without having been woken."""


def _socket(owner: object) -> socket.socket:
    """Make a socket that is closed with its owner: not to close an app is no fault to tell."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    weakref.finalize(owner, made.close)
    return made


def _digest(text: str, size: int) -> str:
    return hashlib.blake2s(text.encode(), digest_size=size).hexdigest()


# How often a listener tries again to make its socket in a directory that others have removed.
_TRIES = 100
# Sockets that are kept for the next listeners of this process, and how their names begin
# meanwhile: with that no topic's does, so that nobody rings them.
_KEPT, _RESTING = 8, "-"


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
    because a socket's path has room for about 100 bytes. To rename a socket costs a fifth of what
    it costs to make one, so those of listeners that have ended are kept for the next. One for each
    topic may linger: it keeps its name, and whoever listens next has missed nothing meanwhile.
    """

    def __init__(self, file: Path) -> None:
        self._folder = _private_root() / _digest(os.path.realpath(file), 6)
        self._path = os.fspath(self._folder)  # a sender reads it each time
        self._socket = _socket(self)
        self._prefixes: dict[str, str] = {}
        self._resting: deque[_Bound] = deque()
        self._lingering: dict[str, _Bound] = {}
        self._is_closed = False
        self._is_deserted = False  # there was no directory when it was read last
        renew_after_fork(self, Bell._in_child)

    def _in_child(self) -> None:
        """Leave the kept sockets to the parent: each would take the other's wake-ups."""
        self._resting.clear()
        self._lingering.clear()

    def ring(self, topic: str) -> None:
        """Wake every listener of the topic; costs one directory read when there is none."""
        # To ask for a directory that is not there costs a third of what the failed read does.
        if self._is_deserted and not os.access(self._path, os.F_OK):
            return
        try:
            names = os.listdir(self._path)
        except OSError:  # nobody listens, or where this user cannot see
            self._is_deserted = True
            return
        self._is_deserted = False
        prefix = self._prefix(topic) if names else ""
        for name in names:
            if name.startswith(prefix):
                self._ring(f"{self._path}/{name}")

    def _prefix(self, topic: str) -> str:
        prefix = self._prefixes.get(topic)
        if prefix is None:
            prefix = self._prefixes[topic] = _digest(topic, 4)
        return prefix

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
        if (ear := self.listening(topic)) is not None:
            ear.drain()
            return ear
        prefix = self._prefix(topic)
        while self._resting:
            with contextlib.suppress(IndexError):  # another thread has taken the last
                bound = self._resting.pop()
                if bound.rename(f"{self._path}/{prefix}{bound.name}"):
                    bound.drain()
                    return Ear(self, topic, bound)
        return Ear(self, topic, self._bound(prefix))

    def listening(self, topic: str) -> Ear | None:
        """Return a listener that has heard every ring since the last one was closed to linger.

        None where none lingers: a new one hears what comes from then on.
        """
        bound = self._lingering.pop(topic, None)
        return None if bound is None else Ear(self, topic, bound)

    def _bound(self, prefix: str) -> _Bound:
        """Make a socket that listens; one without a path where that cannot be."""
        bound = _Bound()
        for _ in range(_TRIES):
            try:
                _private_root()  # somebody may have cleaned up
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._clean_up()
                bound.bind(f"{self._path}/{prefix}{bound.name}")
            except FileNotFoundError:
                # The last listener of another process has just removed the directory.
                continue
            except (OSError, ConfigurationError):
                break
            return bound
        return bound

    def _clean_up(self) -> None:
        """Delete the names that processes left behind when they were killed, which nobody rings."""
        for name in os.listdir(self._path):
            if name.startswith(_RESTING):
                self._ring(f"{self._path}/{name}")

    def linger(self, topic: str, bound: _Bound) -> None:
        """Let the socket of a listener that has ended listen on for the next one of its topic."""
        if self._is_closed or self._lingering.setdefault(topic, bound) is not bound:
            self.rest(bound)
        elif self._is_closed:  # in the meantime, by another thread
            self._empty()

    def rest(self, bound: _Bound) -> None:
        """Keep the socket of a listener that has ended for the next, if there are few."""
        if (
            self._is_closed
            or len(self._resting) >= _KEPT
            or not bound.rename(f"{self._path}/{_RESTING}{bound.name}")
        ):
            bound.close()
            return
        self._resting.append(bound)
        if self._is_closed:  # in the meantime, by another thread
            self._empty()

    def close(self) -> None:
        """Remove the directory too, when nobody listens any more."""
        self._is_closed = True
        self._empty()
        self._socket.close()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _empty(self) -> None:
        with contextlib.suppress(IndexError):  # another thread empties it too
            while True:
                self._resting.pop().close()
        with contextlib.suppress(KeyError):
            while True:
                self._lingering.popitem()[1].close()


class _Bound:
    """A socket with a path in the directory of wake-ups, "" if it has none."""

    def __init__(self) -> None:
        self.socket = _socket(self)
        self.name = secrets.token_hex(4)
        self.path = ""
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)

    def bind(self, path: str) -> None:
        self.socket.bind(path)
        self.path = path

    def rename(self, path: str) -> bool:
        """Give it another path; where its own is gone close it, and return False."""
        try:
            os.rename(self.path, path)
        except OSError:
            self.close()
            return False
        self.path = path
        return True

    def is_rung(self, timeout: float) -> bool:
        return bool(self._poll.poll(math.ceil(max(timeout, 0.0) * 1000)))

    def drain(self) -> None:
        """Take the wake-ups that came."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(16)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.path:
                os.unlink(self.path)
        self.path = ""
        self.socket.close()


class Ear:
    """One listener: a socket that keeps a wake-up until `wait` takes it."""

    def __init__(self, bell: Bell, topic: str, bound: _Bound) -> None:
        self._bell = bell
        self._topic = topic
        self._bound = bound
        self._is_closed = False

    @property
    def path(self) -> str:
        """The path of the socket, "" where it cannot listen."""
        return self._bound.path

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
        if not self._bound.is_rung(timeout):
            return False
        self._bound.drain()
        return True

    def drain(self) -> None:
        """Forget the wake-ups that came."""
        self._bound.drain()

    def wake(self) -> None:
        """End the wait of another thread, or the next one."""
        with contextlib.suppress(OSError):
            if self.path and not self._is_closed:
                self._bound.socket.sendto(b"!", self.path)

    def fileno(self) -> int:
        """Return the socket's descriptor, readable once it was rung."""
        return self._bound.socket.fileno()

    def close(self, *, lingers: bool = False) -> None:
        """Stop listening, or with `lingers` leave that to the next listener to the topic."""
        if not self._is_closed:
            self._is_closed = True
            if self._bound.path:
                if lingers:
                    self._bell.linger(self._topic, self._bound)
                else:
                    self._bell.rest(self._bound)
            else:
                self._bound.close()
