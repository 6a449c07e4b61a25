"""Starts children as forks of a process that has loaded the app: the supervisor's side."""

from __future__ import annotations

import errno
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence, Set
from contextlib import suppress

from cloudq.app import CloudQ
from cloudq.driver.log import Log
from cloudq.execution import django
from cloudq.worker.options import WorkerOptions
from cloudq.worker.pool.child_main import SIGNALS
from cloudq.worker.pool.fork_main import ANSWER, FORK, Answer, serve, unfit
from cloudq.worker.pool_kinds import PoolKind

log = Log("cloudq.worker")

# Seconds that a fork may take: one that takes longer never ends.
_FORKING = 30.0
# Seconds after which a child is looked at whose end the server should tell.
_STUCK = 5.0
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
        while not self._ended.wait(_STUCK if timeout is None else timeout):
            if self._is_dead():
                self.end(-signal.SIGKILL)  # the server, which would tell how it ended, is stuck
            elif timeout is not None:
                raise subprocess.TimeoutExpired(f"child {self.pid}", timeout)
        return self.returncode or 0

    def _is_dead(self) -> bool:
        """Look at the process itself."""
        with self._lock:
            if self.returncode is not None:
                return True
            look = select.poll()
            look.register(self._descriptor, select.POLLIN)
            return bool(look.poll(0))

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        with self._lock, suppress(ProcessLookupError):
            if self.returncode is None:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def end(self, returncode: int) -> None:
        """Note that it has ended."""
        with self._lock:
            if self.returncode is None:
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
        django.before_fork()
        reason = unfit(before)
        if reason is not None:
            log.info("importing the app %s: its processes are started anew, not forked", reason)
            return
        try:
            self._fork(app)
        except OSError as error:  # a child says more of it, if that cannot be started either
            log.warning("no process to fork children from can be made: %s", error)
            return
        self._is_there = True
        self._reader = threading.Thread(target=self._read, name="fork-server", daemon=True)
        self._reader.start()

    def _fork(self, app: CloudQ) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.settimeout(None)  # an app may have set another default
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
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

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

    def close(self) -> None:
        """End it, with what children it has left."""
        if not self._pid:
            return
        with suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _ENDING
        with suppress(ChildProcessError):  # the app has its own way of reaping
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(self._pid, signal.SIGKILL)
                time.sleep(0.005)
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        try:
            with suppress(OSError):
                while (received := socket.recv_fds(self._socket, ANSWER.size, 1))[0]:
                    kind, first, second = ANSWER.unpack(received[0])
                    self._take_in(Answer(kind), first, second, received[1])
        finally:
            self._lose()

    def _lose(self) -> None:
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
                with suppress(ProcessLookupError):
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
        descriptor = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(descriptor, 0)
        finally:
            os.close(descriptor)
    except (OSError, AttributeError):  # a container forbids it, or Python was built without it
        return False
    return True
