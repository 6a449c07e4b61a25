"""Open connections to one address, which are kept for the next requests."""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

# As botocore's clients here have it, in seconds.
_CONNECT_TIMEOUT = 3.0


class Sockets:
    """Connections to the host of a URL. Safe to use from many threads."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._is_secret = address.scheme == "https"
        self._host = address.hostname or ""
        self._port = address.port or (443 if self._is_secret else 80)
        self._context: ssl.SSLContext | None = None
        self._kept: deque[socket.socket] = deque()
        self._owner = os.getpid()

    def take(self) -> socket.socket | None:
        """Take a connection that is open, or open one; None if that fails."""
        if (
            self._owner != os.getpid()
        ):  # of the process that this one was forked from: it keeps them
            self._owner = os.getpid()
            self.close()
        while (kept := self._popped()) is not None:
            if _is_quiet(kept):
                return kept
            kept.close()
        return self._opened()

    def _popped(self) -> socket.socket | None:
        try:
            return self._kept.pop()
        except IndexError:
            return None

    def keep(self, connection: socket.socket) -> None:
        """Keep a connection, whose last answer was read whole."""
        self._kept.append(connection)

    def close(self) -> None:
        """Close the connections that are kept."""
        while (kept := self._popped()) is not None:
            kept.close()

    def _opened(self) -> socket.socket | None:
        try:
            made = socket.create_connection((self._host, self._port), _CONNECT_TIMEOUT)
        except OSError:
            return None
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._wrapped(made) if self._is_secret else made
        except OSError:
            made.close()
            return None

    def _wrapped(self, plain: socket.socket) -> socket.socket:
        context = self._context or _context()
        self._context = context
        return context.wrap_socket(plain, server_hostname=self._host)


def _context() -> ssl.SSLContext:
    """Make a context as botocore does, with the authorities that it trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.post_handshake_auth = True
    context.set_alpn_protocols(["http/1.1"])
    found = find_spec("certifi") or find_spec("botocore")
    if found is None or found.origin is None:
        raise OSError("no certificates of authorities")
    context.load_verify_locations(Path(found.origin).parent / "cacert.pem")
    return context


def _is_quiet(connection: socket.socket) -> bool:
    """Tell whether a connection is open and nothing came over it since its last answer."""
    poll = select.poll()
    try:
        poll.register(connection, select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):
        return False
