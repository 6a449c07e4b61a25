"""Lambda's Runtime API for one function: invocations come in by HTTP POST, runtimes fetch them.

See https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html. Whoever invokes posts the
event to `/` and waits for the function's response; headers carry the request id and deadline.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any


@dataclass(kw_only=True)
class Invocation:
    """One event on its way through the function."""

    id: str
    event: bytes
    deadline_ms: int
    started: float = 0.0
    seconds: float = 0.0
    response: Any = None
    error: str = ""
    done: Event = field(default_factory=Event)


class RuntimeHost:
    """Hands invocations to runtimes and keeps all of them. `on_timeout` is for killing those."""

    def __init__(self) -> None:
        self.invocations: dict[str, Invocation] = {}
        self.on_timeout: Callable[[], None] = lambda: None
        self.ready: list[float] = []  # when runtimes asked for work, by time.monotonic()
        self.init_error = ""
        self._waiting: Queue[Invocation] = Queue()
        self._closed = False
        host = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                host.next(self)

            def do_POST(self) -> None:
                host.post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def invoke(self, invocation: Invocation) -> Invocation:
        """Have a runtime run it, until its deadline."""
        self.invocations[invocation.id] = invocation
        self._waiting.put(invocation)
        if not invocation.done.wait(max(0.0, invocation.deadline_ms / 1000 - time.time())):
            invocation.error = "timed out"
            if invocation.started:
                self.on_timeout()
        return invocation

    def next(self, request: _Handler) -> None:
        self.ready.append(time.monotonic())
        while not self._closed:
            try:
                invocation = self._waiting.get(timeout=0.1)
            except Empty:
                continue
            if invocation.error:  # nobody waits for it any more
                continue
            invocation.started = time.monotonic()
            return request.answer(
                200,
                invocation.event,
                {
                    "Lambda-Runtime-Aws-Request-Id": invocation.id,
                    "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:0:function:f",
                },
            )
        request.close_connection = True
        return None

    def post(self, request: _Handler) -> None:
        body = request.body()
        *_, id, verb = ("", *request.path.strip("/").split("/"))
        if request.path.endswith("/init/error"):
            self.init_error = body.decode()
            return request.answer(202, b"{}")
        invocation = self.invocations.get(id)
        if invocation is None:
            return self._invoked(request, body)
        invocation.seconds = time.monotonic() - invocation.started
        if verb == "response":
            invocation.response = json.loads(body)
        else:
            invocation.error = body.decode()
        invocation.done.set()
        return request.answer(202, b'{"status":"OK"}')

    def _invoked(self, request: _Handler, body: bytes) -> None:
        deadline = request.headers.get("X-Amzn-Lambda-Deadline-Ms")
        invocation = self.invoke(
            Invocation(
                id=request.headers.get("X-Amzn-Lambda-Request-Id") or str(uuid.uuid4()),
                event=body,
                deadline_ms=int(deadline or (time.time() + 30) * 1000),
            )
        )
        if invocation.error:
            return request.answer(502, invocation.error.encode())
        return request.answer(200, json.dumps(invocation.response).encode())


class _Handler(BaseHTTPRequestHandler):
    # Headers and body leave in one packet; else each call waits 40 ms for an acknowledgement.
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        more = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (more | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the test prints its own figures."""
