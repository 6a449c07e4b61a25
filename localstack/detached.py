"""Records servers that outlive the program that started them, and finds and stops them later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from localstack.servers import Server, state, taken


def _folder() -> Path:
    folder = state() / "detached"
    folder.mkdir(exist_ok=True)
    return folder


def _command_line(pid: int) -> str:
    proc = Path(f"/proc/{pid}/cmdline")  # a slim container has no ps
    with suppress(OSError):
        return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_down(server: Server) -> None:
    """Record the server, so that `stop` finds it."""
    name, port, pid = server.spec.name, server.endpoint.port, server.process.pid
    note = {"name": name, "port": port, "pid": pid, "command": _command_line(pid)}
    (_folder() / f"{name}-{port}.json").write_text(json.dumps(note))


def stop(names: Collection[str], port: int | None) -> Iterator[str]:
    """Stop recorded servers of these names, on one port or on all; returns what was stopped."""
    for file in sorted(_folder().glob("*.json")):
        note = json.loads(file.read_text())
        name, pid, its_port = str(note["name"]), int(note["pid"]), int(note["port"])
        if name not in names or port not in (None, its_port):
            continue
        if _command_line(pid) == note["command"]:
            _end(pid, its_port)
            shutil.rmtree(state() / "run" / f"{name}-{its_port}", ignore_errors=True)
            yield f"stopped {name} (pid {pid}) on port {its_port}"
        else:  # the number may belong to somebody else by now
            yield f"{name} (pid {pid}) had ended before"
        file.unlink()


def _end(pid: int, port: int) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while taken(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # what it started
