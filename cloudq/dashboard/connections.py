"""Connections of browsers: so many at most, and each sends its request in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol as HttpConnection

# Who does not even read the end of an answer is not waited for.
_LAST = 30.0


class Connection(HttpConnection):
    """A connection that is closed when its request takes long to come.

    When there are too many, the one goes that has waited longest for its request. So whoever
    opens thousands and says nothing keeps nobody out. `patience` are the seconds in which a
    request has come whole, with its form; `most` stays below the 1,024 files that a process may
    often have open.
    """

    patience: float = 20.0
    most: int = 800
    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    @property
    def is_waiting(self) -> bool:
        """Tell whether it waits for a request, or for the rest of one."""
        cycle: Any = self.cycle  # None before the first request
        return bool(cycle is None or cycle.response_complete or cycle.more_body)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection, in place of another if there are too many."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.most:
            # A server has connections of one class.
            others = cast("Iterable[Connection]", self.connections)
            waiting = [one for one in others if one.is_waiting and one is not self]
            min(waiting, key=_since, default=self).drop()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close it at once."""
        self.connections.discard(self)
        self._stop()
        self.transport.abort()

    def _watch(self) -> None:
        if not self.is_waiting or self.transport.is_closing():
            self._stop()
        elif self._timer is None:
            self._since = self.loop.time()
            self._timer = self.loop.call_later(self.patience, self._too_slow)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self.transport.close()
        self._timer = self.loop.call_later(_LAST, self.transport.abort)


def _since(connection: Connection) -> float:
    return connection._since  # pyright: ignore[reportPrivateUsage]
