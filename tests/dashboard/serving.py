"""Serves a dashboard on a real port, in a thread of the test."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from cloudq.dashboard.connections import Connection
from cloudq.dashboard.render import prepare
from cloudq.dashboard.server import config
from cloudq.testing import eventually


@contextmanager
def served(
    asgi: ASGIApp, root_path: str = "", connection: type[Connection] = Connection
) -> Generator[int]:
    """Serve an ASGI app as the command does, on a free port; at the end wait for its thread."""
    prepare()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config(asgi, root_path, connection))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class Stream:
    """An open page: the events that its stream sends."""

    def __init__(self, port: int, view: str, cookie: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"cookie": cookie} if cookie else {}
        self._connection.request("GET", f"/live?view={view}", headers=headers)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status

    def events(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the data of each event."""
        name = ""
        while line := self._answer.readline().decode():
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                yield name, line[6:].strip()

    def next(self) -> tuple[str, str]:
        """Return the next event."""
        return next(self.events())

    def close(self) -> None:
        """Leave the page."""
        self._answer.close()
        self._connection.close()
