"""Loads the app in a process of one thread, and forks the children of a worker from it.

A fork copies memory and open files, but neither threads nor the other side of a connection. So an
app whose import leaves any of these is not forked: its children are programs that import it anew.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import logging
import os
import pickle
import select
import socket
import sys
from collections.abc import Sequence, Set
from contextlib import suppress
from multiprocessing.connection import Connection

from cloudq.worker.pool import pipe
from cloudq.worker.pool.child_main import leave_signals, load, settle_in, tie_to_parent, work
from cloudq.worker.pool.fork_server import ANSWER, FORK, Answer

log = logging.getLogger("cloudq.worker")

_LONGEST = 1 << 20  # bytes of the set-up


def serve(descriptor: int) -> None:
    """Serve the worker that holds the other end of this file descriptor, until it closes that."""
    control = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    setup: pipe.Setup = pickle.loads(control.recv(_LONGEST))
    leave_signals()
    tie_to_parent(setup.parent)
    before = _open_files()
    try:
        app = load(setup)
    except BaseException:  # a child that is started as a program shows the error
        return
    reason = _unfit(before)
    if reason is not None:
        log.info("importing the app %s: its processes are started anew, not forked", reason)
        return
    gc.freeze()
    server, me = _Server(control), os.getpid()
    given = server.run()
    if given is not None:  # this is a child
        connection = Connection(given)
        options = settle_in(connection, parent=me).options
        work(connection, options, app)


class _Server:
    """Forks children for as long as the supervisor is there, and tells it of their ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._events = select.poll()
        self._events.register(control, select.POLLIN)
        self._children: dict[int, int] = {}  # process ids by their descriptors

    def run(self) -> int | None:
        """Return None at the end of the worker; in a child, the descriptor of its jobs."""
        self._answer(Answer.READY)
        while True:
            for descriptor, _ in self._events.poll():
                if descriptor in self._children:
                    self._reap(descriptor)
                    continue
                request, descriptors, _, _ = socket.recv_fds(self._control, len(FORK), 1)
                if request != FORK:
                    return None
                if self._fork(descriptors[0]):
                    return descriptors[0]

    def _answer(
        self, kind: Answer, first: int = 0, second: int = 0, descriptors: Sequence[int] = ()
    ) -> None:
        answer = ANSWER.pack(kind.value, first, second)
        with suppress(OSError):  # the worker is gone, which the next look shows
            socket.send_fds(self._control, [answer], descriptors)

    def _fork(self, given: int) -> bool:
        """Fork a child; True in the child."""
        try:
            pid = os.fork()
        except OSError as error:
            self._answer(Answer.FAILED, error.errno or 0)
            pid = -1
        if pid == 0:
            self._become_child()
            return True
        os.close(given)
        if pid > 0:
            child = os.pidfd_open(pid)
            self._children[child] = pid
            self._events.register(child, select.POLLIN)
            self._answer(Answer.STARTED, pid, descriptors=[child])
        return False

    def _become_child(self) -> None:
        """Give up what is the server's."""
        self._control.close()
        for descriptor in self._children:
            os.close(descriptor)
        # What the import wanted done at exit is done once, by the server: as multiprocessing has
        # it. A child would delete what others use.
        atexit._clear()  # pyright: ignore[reportPrivateUsage]
        # As Python's own `random` does: else all children draw the same numbers.
        numbers = sys.modules.get("numpy.random")
        if numbers is not None:
            numbers.seed()

    def _reap(self, descriptor: int) -> None:
        pid = self._children.pop(descriptor)
        self._events.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._answer(Answer.ENDED, pid, os.waitstatus_to_exitcode(status))


def _unfit(before: Set[int]) -> str | None:
    """Return the reason why no child may be forked from this process."""
    threads = len(os.listdir("/proc/self/task")) - 1
    if threads:
        return f"starts {threads} thread{'s' if threads > 1 else ''}"
    for descriptor in sorted(_open_files() - before):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        reads = flags & os.O_ACCMODE == os.O_RDONLY
        if not (reads or flags & os.O_APPEND or path == os.devnull):
            return f"leaves {path} open"
    if "grpc" in sys.modules:
        return "imports gRPC, which does not work in a fork"
    return None


def _open_files() -> Set[int]:
    names = os.listdir("/proc/self/fd")
    # Without that of the list itself, which is closed by now.
    return {int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")}
