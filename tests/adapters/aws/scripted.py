"""A server that answers requests as a script says, to the byte, and remembers them."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Answer:
    """The bytes that are sent for one request, and the end of the connection then.

    `end` is one of keep, close, reset (no more packets), stall (nothing more, for as long as the
    client waits). `step` sends so many bytes at a time.
    """

    data: bytes = b""
    end: str = "close"
    step: int = 0


def answer(
    status: int,
    body: Any,
    headers: Mapping[str, str] | None = None,
    *,
    end: str = "keep",
    part: float = 1.0,
    length: str | None = "",
    version: str = "1.1",
    step: int = 0,
) -> Answer:
    """Make an answer of HTTP; `part` of its body is sent, and `length` is in place of its own."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/{version} {status} Status", "x-amzn-RequestId: 00000000-0000"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if length is not None:
        lines.append(f"Content-Length: {length or len(sent)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    end = "close" if part < 1 and end == "keep" else end
    return Answer(head + sent[: int(len(sent) * part)], end, step)


@dataclass
class Asked:
    """One request: its head as it came, and its body."""

    lines: list[str]
    body: bytes
    connection: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        pairs = (line.split(": ", 1) for line in self.lines[1:])
        self.headers = {name.lower(): value for name, value in pairs}


class Scripted(ThreadingTCPServer):
    """Does what a script says with each request, then answers well; keeps what was asked."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Answer] = []
        self.answer: Any = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self._closing = 0
        self._closed = threading.Condition()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def closing(self, by: int) -> None:
        """Count the connections that are to be closed after what is being sent."""
        with self._closed:
            self._closing += by
            self._closed.notify_all()

    def settle(self) -> None:
        """Wait until those connections are closed: a client sees that at its next request then."""
        with self._closed:
            assert self._closed.wait_for(lambda: not self._closing, 30)

    def good(self, asked: Asked) -> Answer:
        """The answer to a request for which the script has nothing."""
        return answer(200, self.answer)


class _Handler(BaseRequestHandler):
    request: socket.socket
    server: Scripted

    def handle(self) -> None:
        self.server.connections += 1
        number = self.server.connections
        self.request.settimeout(30)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while (asked := self._read()) is not None:
                asked.connection = number
                self.server.asked.append(asked)
                script = self.server.script
                if not self._send(script.pop(0) if script else self.server.good(asked)):
                    return
        except OSError:
            return

    def _read(self) -> Asked | None:
        got = b""
        while b"\r\n\r\n" not in got:
            more = self.request.recv(65536)
            if not more:
                return None
            got += more
        head, _, body = got.partition(b"\r\n\r\n")
        asked = Asked(head.decode("latin-1").split("\r\n"), body)
        while len(asked.body) < int(asked.headers["content-length"]):
            asked.body += self.request.recv(65536)
        return asked

    def _send(self, answer: Answer) -> bool:
        """Send an answer; tell whether another request may follow."""
        if answer.end == "close":
            self.server.closing(1)
        try:
            step = answer.step or len(answer.data) or 1
            for start in range(0, len(answer.data), step):
                self.request.sendall(answer.data[start : start + step])
            if answer.end == "close":
                self.request.shutdown(socket.SHUT_RDWR)
        finally:
            if answer.end == "close":
                self.server.closing(-1)
        if answer.end == "stall":
            self.request.recv(1)
        if answer.end == "reset":
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.request.close()
        return answer.end == "keep"
