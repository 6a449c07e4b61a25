"""Runs a command again whenever the source changes: `cloudq worker --autoreload`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from cloudq.cli.output import complain
from cloudq.errors import ConfigurationError, install_hint


def run_reloading(arguments: Sequence[str], folder: Path) -> int:
    """Run `cloudq` with these arguments, and restart it when a Python file below changes.

    The old process is stopped with SIGTERM first. One that ends by itself, say with a syntax
    error, is restarted at the next change. Returns the exit code of the last process.
    """
    try:
        watchfiles: Any = import_module("watchfiles")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--autoreload needs watchfiles: {install_hint('reload')}"
        ) from error
    ended = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        ended.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    command = [sys.executable, "-m", "cloudq", *arguments]
    process = _start(command)
    try:
        changes = watchfiles.watch(
            folder,
            watch_filter=watchfiles.PythonFilter(),
            stop_event=ended,
            raise_interrupt=False,
        )
        for changed in changes:
            files = sorted({str(Path(path).name) for _, path in changed})
            complain(f"{', '.join(files)} changed: restarting the worker", kind="reload")
            _stop(process)
            process = _start(command)
        return _stop(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # In its own group: Ctrl-C reaches only this process, which then stops the worker.
    return subprocess.Popen(command, env=os.environ, start_new_session=True)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask the process to finish its tasks, and wait for its end."""
    if process.poll() is None:
        process.terminate()
    return process.wait()
