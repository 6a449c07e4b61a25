"""One request over an open socket: what is a whole and good answer, and how far it came."""

from __future__ import annotations

import re
import socket

_READ = 65_536
# No head of an answer of AWS is as long, or has as many lines.
_LONGEST_HEAD = 65_536
_MOST_LINES = 90
# Of answers with one of these botocore and its libraries know more.
_ODD = frozenset({"transfer-encoding", "content-encoding"})
_END = b"\r\n\r\n"
_GOOD = b"HTTP/1.1 200 "
_NAME = re.compile("[a-z0-9-]+").fullmatch


class Exchange:
    """A request and its answer, of which `head` are the headers.

    Of one that failed, `got` are the bytes that came, and `unsent` or `unread` is the error.
    """

    __slots__ = ("got", "head", "socket", "unread", "unsent")

    def __init__(self, open_socket: socket.socket) -> None:
        self.socket = open_socket
        self.got = b""
        self.unsent: OSError | None = None
        self.unread: OSError | None = None
        self.head: dict[str, str] = {}

    def ask(self, request: bytes, timeout: float | None) -> bytes | None:
        """Send a request, and return the body of a whole and good answer; its headers are `head`.

        With anything else, an error too, it returns None, and the exchange is to be resumed.
        """
        sock = self.socket
        try:
            sock.settimeout(timeout)
            sock.sendall(request)
        except OSError as error:
            self.unsent = error
            return None
        try:
            return self._answer()
        except OSError as error:
            self.unread = error
            return None

    def _answer(self) -> bytes | None:
        receive = self.socket.recv
        self.got = got = receive(_READ)
        while (end := got.find(_END)) < 0:
            more = receive(_READ) if got and len(got) < _LONGEST_HEAD else b""
            if not more:
                return None
            self.got = got = got + more
        length = self._read_head(got[:end])
        if length is None:
            return None
        start = end + len(_END)
        if len(got) - start < length:
            got = self._rest(start + length)
        return got[start:] if len(got) - start == length else None

    def _rest(self, total: int) -> bytes:
        """Read until there are so many bytes in all, or the answer ends."""
        parts, count = [self.got], len(self.got)
        try:
            while count < total and (more := self.socket.recv(_READ)):
                parts.append(more)
                count += len(more)
        finally:
            self.got = b"".join(parts)
        return self.got

    def _read_head(self, head: bytes) -> int | None:
        """Read the headers of a good answer; return the length of its body, None if it is odd."""
        if not head.startswith(_GOOD):
            return None
        lines = head.decode("latin-1").split("\r\n")
        if len(lines) > _MOST_LINES:
            return None
        found: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            name = name.lower()
            if not colon or name in found or not _NAME(name):
                return None
            found[name] = value.strip(" \t")
        length = found.get("content-length", "")
        is_kept = found.get("connection", "keep-alive").lower() == "keep-alive"
        if not is_kept or found.keys() & _ODD or not (length.isascii() and length.isdigit()):
            return None
        self.head = found
        return int(length)
