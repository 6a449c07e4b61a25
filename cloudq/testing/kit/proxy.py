"""A proxy before a service that speaks HTTP, which fails requests by chance, as networks do."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

from cloudq.testing.kit.dice import REFUSED, RESET, Fault, Proxy, Quiet

_TIMEOUT = 60.0
_HOP_BY_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})
# Checksums of an answer, which may be changed here.
_CHECKSUMS = frozenset({"x-amz-crc32"})
_TARGET = "X-Amz-Target"

Part = tuple[bytes | None, Callable[[Any], Any]]
Batches = Callable[[Mapping[str, str], bytes, Callable[[int], int]], Part | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of a service over HTTP, which a proxy gives in its place."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class FaultProxy(Proxy):
    """Passes requests on to `upstream`, and lets each fail with the chances in `chances`.

    Give its `url` as the service's endpoint, within a `with` block. The dice are thrown with
    `seed`, in the order in which requests come. `chances` may be changed at any time; a request
    has one fault at most. `counts` has how often each came, and `requests` the number of all.

    `refusals` are the service's own words for `Fault.ERROR` and `Fault.THROTTLED`, where they are
    not those of AWS. `cloudq_azure.faults` and `cloudq_gcp.faults` have those of theirs.

    Only what `batches` knows can fail in parts: it is given the headers and the body of a request
    and a function that chooses one of so many elements, and returns the body without one of them
    (None if it had no other) with what adds to the answer that this one has failed, or makes a
    whole `Answer` of it; None for a request that is no batch. `cloudq_aws.partial.held_back` knows
    those of SQS and DynamoDB.
    """

    def __init__(
        self,
        upstream: str,
        *,
        seed: int = 0,
        chances: Mapping[Fault, float] | None = None,
        slow: float = 1.0,
        batches: Batches | None = None,
        refusals: Mapping[Fault, Answer] | None = None,
    ) -> None:
        super().__init__(seed=seed, chances=chances, slow=slow)
        self.refusals = dict(refusals or {})
        self._batches = batches
        self._server = _Server(self, upstream)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="proxy", daemon=True
        )

    @property
    def url(self) -> str:
        """The proxy's own address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        """Begin to take requests."""
        self._thread.start()

    def stop(self) -> None:
        """End, with all connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def part(self, headers: Mapping[str, str], body: bytes) -> Part | None:
        """Take an element out of a request that is a batch."""
        return self._batches(headers, body, self.choose) if self._batches is not None else None


class _Server(Quiet, HTTPServer):
    def __init__(self, proxy: FaultProxy, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy
        self.place = urlsplit(upstream)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    _upstream: http.client.HTTPConnection | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy = self._server.proxy
        part = proxy.part(dict(self.headers.items()), body)
        fault = proxy.fault(in_parts=part is not None)
        if fault is not None and fault in REFUSED:
            self._refuse(fault)
            return
        if fault is Fault.SLOW:
            time.sleep(proxy.slow)
        if fault is Fault.PARTIAL and part is not None:
            self._in_part(part)
            return
        status, headers, answer = self._passed_on(body)
        if fault is Fault.RESET_AFTER:
            self._reset()
        elif fault is Fault.CUT:
            self._answer(status, headers, answer, length=len(answer) // 2)
            self.close_connection = True
        else:
            self._answer(status, headers, answer)

    do_GET = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_POST  # noqa: N815

    @property
    def _server(self) -> _Server:
        server = self.server
        assert isinstance(server, _Server)
        return server

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _refuse(self, fault: Fault) -> None:
        own = self._server.proxy.refusals.get(fault)
        if fault is Fault.RESET_BEFORE:
            self._reset()
        elif own is not None:
            self._answer(own.status, own.headers, own.body)
        elif fault is Fault.ERROR:
            self._answer(500, {}, b'{"__type": "InternalServerError", "message": "as planned"}')
        elif fault is Fault.EMPTY:
            self._answer(200, {}, b"")
        else:
            status = 400 if _TARGET in self.headers else 429
            self._answer(status, {}, b'{"__type": "ThrottlingException", "message": "as planned"}')

    def _in_part(self, part: Part) -> None:
        rest, told = part
        status, headers, answer = 200, {"Content-Type": "application/x-amz-json-1.0"}, b"{}"
        if rest is not None:
            status, headers, answer = self._passed_on(rest)
        if status == 200:
            found = told(json.loads(answer))
            if isinstance(found, Answer):
                status, headers, answer = found.status, found.headers, found.body
            else:
                answer = json.dumps(found).encode()
        self._answer(status, headers, answer)

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Send the request to the service; return its status, headers and body."""
        if self._upstream is None:
            place = self._server.place
            self._upstream = http.client.HTTPConnection(
                place.hostname or "", place.port, timeout=_TIMEOUT
            )
        headers = {n: v for n, v in self.headers.items() if n.lower() not in _HOP_BY_HOP}
        self._upstream.request(self.command, self.path, body, headers)
        with self._upstream.getresponse() as reply:
            return reply.status, dict(reply.getheaders()), reply.read()

    def _answer(
        self, status: int, headers: Mapping[str, str], body: bytes, length: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP | _CHECKSUMS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:length])

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        # The connection stays open as long as a file of it does.
        self.rfile.close()
        self.connection.close()
