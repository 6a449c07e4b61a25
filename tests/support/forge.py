"""Runs `cloudq ...` in forks of one process that has imported all of it: real, but soon there.

A command that is forked is a process of its own, with its folder, environment, standard streams
and exit code. It is spared the imports alone, which are most of what a short command does. What an
interpreter reads before it imports (`PYTHONPATH`, the locale) needs a process from scratch.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread

from cloudq.testing.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
_CODE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.support.forge import serve; serve()"
)
# What the interpreter, or the C library, reads at its start.
_EARLY = ("PYTHON", "LC_", "LANG", "TZ")


class Forge:
    """The process that forks, from the first command on; the caller's side. Close it."""

    def __init__(self) -> None:
        self._early = _early(os.environ)
        with ExitStack() as stack:
            mine, theirs = (stack.enter_context(end) for end in socket.socketpair())
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            self._channel = mine.dup()
        self._channel.settimeout(PATIENCE)

    def run(
        self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, as `subprocess.run` would with `capture_output`."""
        command = [sys.executable, "-m", "cloudq", *words]
        if _early(env) != self._early:
            return subprocess.run(
                command,
                cwd=cwd,
                env=env,
                input=stdin,
                timeout=PATIENCE,
                capture_output=True,
                text=True,
                check=False,
            )
        with ExitStack() as stack:
            request, given = (stack.enter_context(TemporaryFile("w+")) for _ in range(2))
            json.dump({"words": words, "cwd": str(cwd), "env": dict(env)}, request)
            given.write(stdin)
            for file in (request, given):
                file.seek(0)
            out, err = _Reader(), _Reader()
            ends = [request.fileno(), given.fileno(), out.end, err.end]
            try:
                socket.send_fds(self._channel, [b"!"], ends)
            finally:
                out.start()
                err.start()
            code = int.from_bytes(self._answer(), "big", signed=True)
            return subprocess.CompletedProcess(command, code, out.text(), err.text())

    def _answer(self) -> bytes:
        try:
            answer = self._channel.recv(4)
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)  # the command as well
            raise
        assert answer, f"the process that forks has ended: {self._process.wait(PATIENCE)}"
        return answer

    def close(self) -> None:
        self._channel.close()
        self._process.wait(PATIENCE)


class _Reader(Thread):
    """Reads a pipe to its end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._mine, self.end = os.pipe()
        self._bytes = b""

    def start(self) -> None:
        os.close(self.end)  # the command has it now
        super().start()

    def run(self) -> None:
        with open(self._mine, "rb") as pipe:
            self._bytes = pipe.read()

    def text(self) -> str:
        self.join(PATIENCE)
        assert not self.is_alive(), "something that the command has started holds its output open"
        return self._bytes.decode()


def _early(environment: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_EARLY)}


def serve() -> None:
    """Fork for each request, until the caller hangs up."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    from cloudq.cli.program import COMMANDS

    for module in set(COMMANDS.values()):
        import_module(module)
    gc.freeze()
    sys.path.remove(str(ROOT))
    while fds := socket.recv_fds(channel, 1, 4)[1]:
        with open(fds[0]) as file:
            request = json.load(file)
        _import_drivers([*request["words"], *request["env"].values()])
        pid = os.fork()
        if pid == 0:
            channel.close()
            _become(request, fds[1:])
            return
        for fd in fds[1:]:
            os.close(fd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        channel.send(code.to_bytes(4, "big", signed=True))


def _import_drivers(words: Sequence[str]) -> None:
    """Import the SDKs of the URLs that are given."""
    from cloudq.driver.loader import installed

    for entry in (*installed("broker"), *installed("backend")):
        if any(word.startswith(f"{entry.name}:") for word in words):
            import_module(entry.module)


def _become(request: Mapping[str, object], streams: Sequence[int]) -> None:
    """Be the process of this command."""
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    words, env = request["words"], request["env"]
    assert isinstance(words, list)
    assert isinstance(env, dict)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = str(request["cwd"])
    sys.argv = ["cloudq", *words]
    runpy.run_module("cloudq", run_name="__main__", alter_sys=True)
