"""The process that the children of a worker are forked from: it has loaded the app, in one thread.

A fork copies memory and open files, but neither threads nor the other side of a connection. So an
app whose import leaves any of these is not forked: its children are programs that import it anew.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import gc
import logging
import os
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from enum import Enum
from multiprocessing import process, util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cloudq.app import CloudQ
from cloudq.driver.log import Log
from cloudq.worker.pool.child_main import SIGNALS, leave_signals, settle_in, tie_to_parent, work

log = Log("cloudq.worker")


# Seconds that a thread which was joined may take to be gone.
_ENDING = 0.1
# Libraries whose threads or event loops start with their first use, and cannot start anew.
_BROKEN = ("grpc", "gevent", "eventlet")


class Answer(Enum):
    """Messages of this process, each with two numbers.

    A child was started: its process id, with a descriptor of its process; none could be: the error
    number; a child has ended: its process id and its exit code.
    """

    STARTED = b"s"
    FAILED = b"f"
    ENDED = b"e"


ANSWER = struct.Struct("=cii")
FORK = b"f"
"""The one request, sent with the descriptor by which the child gets its jobs."""


def open_files() -> Set[int]:
    """Return the descriptors of all open files."""
    names = os.listdir("/proc/self/fd")
    # Without that of the list itself, which is closed by now.
    return {int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")}


def unfit(before: Set[int]) -> str | None:
    """Return the reason why this process may not be forked. Files open `before` do not count."""
    ended = time.monotonic() + _ENDING
    while (threads := _threads() - 1) and time.monotonic() < ended:
        time.sleep(0.001)
    if threads:
        return f"starts {threads} thread{'s' if threads > 1 else ''}"
    for descriptor in sorted(open_files() - before):
        if not _may_be_shared(descriptor):
            return f"leaves {os.readlink(f'/proc/self/fd/{descriptor}')} open"
    if " rw-s " in Path("/proc/self/maps").read_text():
        return "shares memory with other processes"
    broken = next((name for name in _BROKEN if name in sys.modules), None)
    return broken and f"imports {broken}, which a fork would break"


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _may_be_shared(descriptor: int) -> bool:
    """Tell whether processes may have one open file: neither a connection, nor a place in it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if flags & os.O_ACCMODE == os.O_RDONLY:
        mode = os.fstat(descriptor).st_mode
        return stat.S_ISCHR(mode) or stat.S_ISDIR(mode)
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    return bool(flags & os.O_APPEND) or path == os.devnull


def serve(app: CloudQ, control: socket.socket, parent: int) -> None:
    """Fork children for as long as the parent holds the other end of `control`; never return."""
    _to_its_end(_serve, app, control, parent)


def _serve(app: CloudQ, control: socket.socket, parent: int) -> None:
    leave_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    tie_to_parent(parent)
    reaping = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _forget_exits()
    nothing = os.open(os.devnull, os.O_RDONLY)
    if nothing:  # else it was closed
        os.dup2(nothing, 0)
        os.close(nothing)
    any(task.arguments.prepare() for task in app.tasks.values())
    gc.freeze()
    if _threads() == 1:  # a hook of the app may have started one in this process
        _Server(app, control, reaping).run()


def _forget_exits() -> None:
    """Forget what the import wanted done at exit: the supervisor does it, once.

    `multiprocessing` has it so too. A child would delete what others use. What a task wants done
    at the exit of its process is done.
    """
    exits: Any = atexit
    finalize: Any = weakref.finalize
    processes: Any = util
    exits._clear()
    finalize._registry.clear()
    finalize._registered_with_atexit = False
    processes._finalizer_registry.clear()
    started: Any = process
    started._children.clear()
    atexit.register(logging.shutdown)
    atexit.register(processes._exit_function)


def _to_its_end(run: Callable[..., None], *given: object) -> None:
    """Run something and end this process, as Python would: the stack below is not ours."""
    code = 1
    try:
        run(*given)
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        log.exception("process %d cannot go on, and ends", os.getpid())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # closed, or a pipe that nobody reads
                stream.flush()
        os._exit(code)


class _Server:
    def __init__(self, app: CloudQ, control: socket.socket, reaping: Any) -> None:
        self._app = app
        self._control = control
        self._events = select.poll()
        self._events.register(control, select.POLLIN)
        self._children: dict[int, int] = {}  # process ids by their descriptors
        self._pid = os.getpid()
        self._reaping = reaping  # how the app handles SIGCHLD

    def run(self) -> None:
        """Serve until the worker is gone."""
        while True:
            for descriptor, _ in self._events.poll():
                if descriptor in self._children:
                    self._reap(descriptor)
                elif not self._do_as_asked():
                    return

    def _do_as_asked(self) -> bool:
        """Do what was asked for; False when the other side has hung up."""
        request, descriptors, _, _ = socket.recv_fds(self._control, len(FORK), 1)
        if request != FORK:
            return False
        try:
            if not descriptors:  # this process may have no more files open
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._fork(descriptors[0])
        except OSError as error:
            self._answer(Answer.FAILED, error.errno or 0)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _fork(self, given: int) -> None:
        """Fork a child, and tell of it. Raises `OSError`, and then there is none."""
        pid = os.fork()
        if pid == 0:
            _to_its_end(self._be_child, given)
        try:
            child = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._children[child] = pid
        self._events.register(child, select.POLLIN)
        self._answer(Answer.STARTED, pid, descriptors=[child])

    def _be_child(self, given: int) -> None:
        if self._reaping is not None:
            signal.signal(signal.SIGCHLD, self._reaping)
        self._control.close()
        for descriptor in self._children:
            os.close(descriptor)
        # As Python's own `random` does: else all children draw the same numbers.
        numbers = sys.modules.get("numpy.random")
        if numbers is not None:
            numbers.seed()
        connection = Connection(given)
        setup = settle_in(connection, parent=self._pid)
        work(connection, setup.options, self._app)

    def _answer(
        self, kind: Answer, first: int = 0, second: int = 0, descriptors: Sequence[int] = ()
    ) -> None:
        answer = ANSWER.pack(kind.value, first, second)
        with suppress(OSError):  # the worker is gone, which the next look shows
            socket.send_fds(self._control, [answer], descriptors)

    def _reap(self, descriptor: int) -> None:
        pid = self._children.pop(descriptor)
        self._events.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._answer(Answer.ENDED, pid, os.waitstatus_to_exitcode(status))
