"""Wakes a thread that sleeps, from signal handlers and other threads: the self-pipe trick."""

from __future__ import annotations

import os
import select


class SelfPipe:
    """A pipe to oneself. One thread sleeps, any may wake it."""

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
        """Sleep until woken, or for so many seconds."""
        if select.select([self._reader], [], [], longest)[0]:
            os.read(self._reader, 4096)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
