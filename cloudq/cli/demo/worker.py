"""A worker in its own process, stopped at the end of a `with` block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from cloudq.errors import CloudQError

_TAIL = 12


class LocalWorker:
    """A `cloudq worker` process with these options, logging to a file."""

    def __init__(self, options: Sequence[str], *, log: Path, grace: float = 3.0) -> None:
        self.log = log
        self._command = [sys.executable, "-m", "cloudq", "worker", *options]
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            # Its own session: Ctrl-C reaches only the program at the terminal, which then stops it.
            self._process = subprocess.Popen(
                self._command,
                env=os.environ | {"CLOUDQ_WORKER_POLL_WAIT": "1"},  # so that it stops soon
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        if process is None:
            return
        try:
            process.terminate()
            process.wait(self._grace)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
        finally:
            # Kill any children that are left.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def check(self) -> None:
        """Raise `CloudQError` if the worker has ended by itself."""
        if self._process is None or self._process.poll() is None:
            return
        raise CloudQError(
            f"the worker stopped by itself with exit code {self._process.returncode}: "
            f"{self.last_line() or 'it logged nothing'} (log: {self.log})"
        )

    def tail(self) -> list[str]:
        """Return the last lines of the log."""
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        return text.splitlines()[-_TAIL:]

    def last_line(self) -> str:
        return next((line for line in reversed(self.tail()) if line.strip()), "")
