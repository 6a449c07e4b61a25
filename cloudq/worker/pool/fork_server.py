"""Starts children as forks of a process that has loaded the app: the supervisor's side."""

from __future__ import annotations

import errno
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence, Set
from contextlib import suppress
from types import TracebackType
from typing import Self

from cloudq.app import CloudQ
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool.child_main import SIGNALS
from cloudq.worker.pool.fork_main import ANSWER, FORK, Answer, serve, unfit
from cloudq.worker.pool_kinds import PoolKind

log = logging.getLogger("cloudq.worker")

# Seconds that a fork may take: one that takes longer never ends.
_FORKING = 30.0
# Seconds that the server may take to end, once its children have.
_ENDING = 5.0


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
    """A fork of this process that does nothing but fork, so that it never has a second thread.

    A child that is forked from it takes milliseconds and shares the app's memory. Create it when
    the app is loaded and nothing is open yet, in the main thread: on Linux it dies with that, and
    its children with it. Where the options, the system or the app do not allow forks, and when it
    was killed, it starts none.
    """

    def __init__(self, app: CloudQ, options: WorkerOptions, before: Set[int] | None) -> None:
        self._pid = 0
        self._children: dict[int, Forked] = {}
        self._answers: queue.SimpleQueue[Forked | OSError | None] = queue.SimpleQueue()
        self._is_there = False
        if before is None or not options.fork or options.pool is PoolKind.GEVENT:
            return
        reason = unfit(before)
        if reason is not None:
            log.info("importing the app %s: its processes are started anew, not forked", reason)
            return
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._fork(app, theirs)
        self._is_there = True
        self._reader = threading.Thread(target=self._read, name="fork-server", daemon=True)
        self._reader.start()

    def _fork(self, app: CloudQ, theirs: socket.socket) -> None:
        parent = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # closed, or none
                stream.flush()  # else both would write what waits
        # A signal that comes meanwhile waits for the handlers of each.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._pid = os.fork()
            if not self._pid:
                self._socket.close()
                serve(app, theirs, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pid:
            self._close()

    def start(self, descriptor: int) -> Forked | None:
        """Fork a child that gets its jobs by a descriptor; None where it must be a program.

        Raises `OSError` where no process can be made.
        """
        if not self._is_there:
            return None
        try:
            socket.send_fds(self._socket, [FORK], [descriptor])
            answer = self._answers.get(timeout=_FORKING)
        except (OSError, queue.Empty) as error:
            log.warning("the process that children are forked from does not answer: %r", error)
            self._is_there = False
            os.kill(self._pid, signal.SIGKILL)
            return None
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _close(self) -> None:
        """End it, with what children it has left."""
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _ENDING
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.005)
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        with suppress(OSError):
            while (received := socket.recv_fds(self._socket, ANSWER.size, 1))[0]:
                kind, first, second = ANSWER.unpack(received[0])
                self._take_in(Answer(kind), first, second, received[1])
        if self._children:
            log.warning("the process that children are forked from has died, and they with it")
        self._is_there = False
        for child in self._children.values():
            child.kill()
            child.end(-signal.SIGKILL)
        self._children.clear()
        self._answers.put(None)

    def _take_in(self, answer: Answer, first: int, second: int, descriptors: Sequence[int]) -> None:
        match answer:
            case Answer.STARTED if not descriptors:  # this process has too many files open
                os.kill(first, signal.SIGKILL)
                self._answers.put(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            case Answer.STARTED:
                os.set_inheritable(descriptors[0], False)
                child = self._children[first] = Forked(first, descriptors[0])
                self._answers.put(child)
            case Answer.FAILED:
                self._answers.put(OSError(first, os.strerror(first)))
            case Answer.ENDED:
                child = self._children.pop(first, None)
                if child is not None:
                    child.end(second)


def can_fork() -> bool:
    """Tell whether the system has what forks need: descriptors of processes, as Linux from 5.3."""
    if sys.platform != "linux" or not os.path.isdir("/proc/self/fd"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # also in a container that forbids it
        return False
    return True
