"""One request over a connection that botocore keeps, and its hand-over in the middle of it."""

from __future__ import annotations

import io
import socket
from copy import copy
from typing import Any

from botocore.awsrequest import AWSHTTPConnection, AWSHTTPSConnection
from urllib3.exceptions import ClosedPoolError

from cloudq_aws.lean.exchange import Exchange

_KINDS = (AWSHTTPConnection, AWSHTTPSConnection)


class Kept:
    """A kept connection, taken out of its pool for one request."""

    __slots__ = ("_connection", "_is_over", "_pool", "exchange")

    def __init__(self, pool: Any, connection: Any, exchange: Exchange) -> None:
        self._pool = pool
        self._connection = connection
        self._is_over = False
        self.exchange = exchange

    @classmethod
    def take(cls, pool: Any) -> Kept | None:
        """Take an open connection out of a pool of botocore; None if it has none."""
        try:
            connection = pool._get_conn()
        except ClosedPoolError:
            return None
        if type(connection) in _KINDS and isinstance(connection.sock, socket.socket):
            return cls(pool, connection, Exchange(connection.sock))
        pool._put_conn(connection)
        return None

    @classmethod
    def begun(cls, pool: Any, exchange: Exchange) -> Kept:
        """Make a connection of a pool of an exchange that began before there was one."""
        connection = pool._new_conn()
        connection.sock = exchange.socket
        connection.is_verified = True
        return cls(pool, connection, exchange)

    def give_back(self) -> None:
        """Put the connection back into its pool, for the next request."""
        self._is_over = True
        self._pool._put_conn(self._connection)

    def drop(self) -> None:
        """Close the connection, of which nobody knows what comes next, unless that is settled."""
        if not self._is_over:
            self._is_over = True
            self._connection.close()
            self._pool._put_conn(None)

    def resume(self, session: Any, request: Any) -> Any:
        """Have botocore finish the exchange, as if it had sent this request over the connection.

        Returns its answer, and raises what it raises.
        """
        connection = self._connection
        connection.sock = _Begun(self.exchange)
        pool = copy(self._pool)
        pool._get_conn, pool._put_conn = self._taken, self._given_back
        own = copy(session)
        own._get_connection_manager = _One(pool).manager
        return own.send(request)

    def _taken(self, timeout: float | None = None) -> Any:
        self._is_over = True
        return self._connection

    def _given_back(self, connection: Any) -> None:
        if connection is not None and connection.sock is not None:
            connection.sock = self.exchange.socket
        self._pool._put_conn(connection)


class _One:
    """A manager of one pool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def manager(self, *_: object) -> _One:
        return self

    def connection_from_url(self, url: str) -> Any:
        return self._pool


class _Begun:
    """A socket over which a request was sent, and some of the answer came, which is read again."""

    def __init__(self, exchange: Exchange) -> None:
        self._sock: Any = exchange.socket
        self._got = exchange.got
        self._unsent = exchange.unsent
        self._unread = exchange.unread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: object) -> None:
        """Raise what sending raised; it is sent else."""
        if self._unsent is not None:
            raise self._unsent

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        """Return a file of the whole answer."""
        rest = self._sock.makefile("rb", buffering=0)
        return io.BufferedReader(_Again(self._got, rest, self._unread))


class _Again(io.RawIOBase):
    """The bytes that were read from a socket, then what follows, or the error that followed."""

    def __init__(self, got: bytes, rest: io.RawIOBase, unread: OSError | None) -> None:
        self._got = memoryview(got)
        self._rest = rest
        self._unread = unread

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._got:
            count = min(len(buffer), len(self._got))
            buffer[:count] = self._got[:count]
            self._got = self._got[count:]
            return count
        if self._unread is not None:
            raise self._unread
        return self._rest.readinto(buffer)

    def close(self) -> None:
        self._rest.close()
        super().close()
