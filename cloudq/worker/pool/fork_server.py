"""Starts children as forks of a process that has loaded the app: the supervisor's side."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum

from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool import pipe
from cloudq.worker.pool_kinds import PoolKind

log = logging.getLogger("cloudq.worker")

# Seconds that a fork may take: one that takes longer never ends.
_FORKING = 30.0
# Seconds that the server may take to end, once its children have.
_ENDING = 5.0

_SERVER = (
    "import gc; gc.disable(); "
    "import sys; from cloudq.worker.pool.fork_main import serve; serve(int(sys.argv[1]))"
)


class Answer(Enum):
    """Messages of the server, each with two numbers.

    The app is loaded; a child was started: its process id, with a descriptor of its process; none
    could be: the error number; a child has ended: its process id and its exit code.
    """

    READY = b"r"
    STARTED = b"s"
    FAILED = b"f"
    ENDED = b"e"


ANSWER = struct.Struct("=cii")
FORK = b"f"
"""The one request, sent with the descriptor by which the child gets its jobs."""


class State(Enum):
    """States of a fork server. One that is gone before it was ready cannot be used."""

    LOADING = "loading"
    READY = "ready"
    LOST = "lost"
    UNFIT = "unfit"


class Forked:
    """A child of the fork server, with the part of `subprocess.Popen` that its handle needs."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises `subprocess.TimeoutExpired`."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"child {self.pid}", timeout or 0.0)
        return self.returncode or 0

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        with self._lock, suppress(ProcessLookupError):
            if self.returncode is None:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def end(self, returncode: int) -> None:
        """Note that it has ended."""
        with self._lock:
            self.returncode = returncode
            os.close(self._descriptor)
        self._ended.set()


class ForkServer:
    """A process that loads the app and does nothing else, so that children can be forked from it.

    A fork takes milliseconds and shares the app's memory. Create it in the main thread: on Linux
    it dies with that, and its children with it. `changed` is called when it has loaded the app,
    and when it is gone, in a thread of its own.
    """

    def __init__(self, options: WorkerOptions, changed: Callable[[], None]) -> None:
        self.state = State.LOADING
        self._changed = changed
        self._children: dict[int, Forked] = {}
        self._answers: queue.SimpleQueue[Forked | OSError | None] = queue.SimpleQueue()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        with suppress(OSError):  # it has ended, or the set-up is too long: its reader sees the end
            self._socket.send(pickle.dumps(pipe.Setup(os.getpid(), sys.path, options)))
        self._reader = threading.Thread(target=self._read, name="fork-server", daemon=True)
        self._reader.start()

    def start(self, descriptor: int) -> Forked | None:
        """Fork a child that gets its jobs by a descriptor; None if the server is gone.

        Raises `OSError` where no process can be made.
        """
        if self.state is not State.READY:
            return None
        try:
            socket.send_fds(self._socket, [FORK], [descriptor])
            answer = self._answers.get(timeout=_FORKING)
        except (OSError, queue.Empty) as error:
            log.warning("the process that children are forked from does not answer: %r", error)
            self._process.kill()
            return None
        if isinstance(answer, OSError):
            raise answer
        return answer

    def close(self) -> None:
        """End the server. Call when its children have ended."""
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:  # something that the app registered with atexit
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        with suppress(OSError):
            while (received := socket.recv_fds(self._socket, ANSWER.size, 1))[0]:
                kind, first, second = ANSWER.unpack(received[0])
                self._take_in(Answer(kind), first, second, received[1])
        self.state = State.UNFIT if self.state is State.LOADING else State.LOST
        for child in [*self._children.values()]:  # they die with the server
            child.kill()
            child.end(-signal.SIGKILL)
        self._children.clear()
        self._answers.put(None)
        self._changed()

    def _take_in(self, answer: Answer, first: int, second: int, descriptors: Sequence[int]) -> None:
        match answer:
            case Answer.READY:
                self.state = State.READY
                self._changed()
            case Answer.STARTED:
                os.set_inheritable(descriptors[0], False)
                child = self._children[first] = Forked(first, descriptors[0])
                self._answers.put(child)
            case Answer.FAILED:
                self._answers.put(OSError(first, os.strerror(first)))
            case Answer.ENDED:
                self._children.pop(first).end(second)


class Forks:
    """The fork server of a worker, started again when it was lost. Use it from the main thread.

    Without the option `fork`, and where the system or the app does not allow it, every child is a
    program of its own.
    """

    def __init__(self, options: WorkerOptions, *, changed: Callable[[], None]) -> None:
        self._options = options
        self._changed = changed
        self._can_fork = options.fork and options.pool is not PoolKind.GEVENT and _has_pidfd()
        self._server: ForkServer | None = None

    def prepare(self) -> bool:
        """Start the server if there is none, and tell whether children can be started now."""
        if not self._can_fork:
            return True
        if self._server is not None and self._server.state is State.LOST:
            log.warning("the process that children are forked from has died: another is started")
            self.close()
        if self._server is None:
            try:
                self._server = ForkServer(self._options, self._changed)
            except OSError as error:  # a child says more of it, if that cannot be started either
                log.warning("no process to fork children from can be started: %s", error)
                self._can_fork = False
                return True
        return self._server.state is not State.LOADING

    def start(self, descriptor: int) -> Forked | None:
        """Fork a child; None where it must be started as a program. Raises `OSError`."""
        return None if self._server is None else self._server.start(descriptor)

    def close(self) -> None:
        """End the server, once no child is left."""
        server, self._server = self._server, None
        if server is not None:
            server.close()


def _has_pidfd() -> bool:
    """Tell whether processes can be had by descriptors; Linux has them from 5.3 on."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # also in a container that forbids it
        return False
    return True
