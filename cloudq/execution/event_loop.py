"""Runs the coroutines of a process on one event loop, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Self

from cloudq.driver.log import Log

if TYPE_CHECKING:  # a process without coroutines does not load it
    import asyncio

log = Log("cloudq.execution")

# Seconds that the thread of a loop has to end.
_LAST = 10.0


class Loop:
    """An event loop in a thread, started by the first coroutine. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close(_LAST)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop, and return its value when it has ended."""
        import asyncio

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._turn, args=[self._loop], name="asyncio", daemon=True
                )
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self, timeout: float) -> None:
        """Stop the loop, and wait up to this many seconds for its thread to end."""
        with self._lock:
            self._is_closed = True
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep the loop running, whatever stops it: all coroutines of the process are on it."""
        while not self._is_closed and not loop.is_closed():
            try:
                loop.run_forever()
            except BaseException:  # a task's own SystemExit, which its caller gets too
                log.debug("the event loop was stopped and goes on", exc_info=True)
        loop.close()
