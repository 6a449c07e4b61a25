"""Wakes and stops the main thread of a worker, from signal handlers and other threads."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType

from cloudq.errors import CloudQError


class SelfPipe:
    """A pipe from a process to itself. One thread sleeps on it, any may wake that one."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def wake(self) -> None:
        """End the sleep under way, or the next one at once."""
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:
            return  # it is being woken already

    def sleep(self, longest: float) -> None:
        """Sleep until woken, or for this many seconds."""
        if select.select([self._reader], [], [], longest)[0]:
            os.read(self._reader, 4096)

    def close(self) -> None:
        """Close both ends. Nobody may wake or sleep any more."""
        os.close(self._reader)
        os.close(self._writer)


class Shutdown:
    """Requests that a worker stops: by a signal, by a command, or by an error that stays.

    Each request wakes the main thread. `requests` counts the signals, the second of which asks for
    a cold stop; `error` is what ended the worker.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.signal_name = ""
        self.error: CloudQError | None = None
        self._pipe = SelfPipe()

    @property
    def requested(self) -> bool:
        """True from the first request on."""
        return bool(self.requests) or self.error is not None

    def wake(self) -> None:
        """Have the main thread look at what there is to do."""
        self._pipe.wake()

    def sleep(self, longest: float) -> None:
        """Let the main thread sleep until woken, or for this many seconds."""
        self._pipe.sleep(longest)

    def close(self) -> None:
        """Close the pipe, once the main thread sleeps no more."""
        self._pipe.close()

    def request(self) -> None:
        """Ask for a warm stop, as the first SIGTERM does."""
        self.requests = max(self.requests, 1)
        self.wake()

    def fail(self, error: CloudQError) -> None:
        """Stop the worker because of an error that waiting does not mend."""
        self.error = error
        self.wake()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or SIGINT."""
        self.requests += 1
        self.signal_name = signal.Signals(number).name
        self.wake()
