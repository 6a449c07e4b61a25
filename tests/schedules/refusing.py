"""A server before the real one that refuses some requests, as EventBridge Scheduler would."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint


class Proxy:
    """Before the server: it passes requests on, but for those of a method that it refuses."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.refused: tuple[str, int, str] | None = None

    def refuse(self, method: str, status: int, error: str) -> None:
        self.refused = method, status, error

    def heal(self) -> None:
        self.refused = None


@contextmanager
def refusing(aws: Endpoint) -> Generator[Proxy]:
    state = Proxy("")

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            refused = state.refused
            if refused and self.command == refused[0] and self.path.startswith("/schedules"):
                _, status, error = refused
                self.reply(
                    status,
                    {"Content-Type": "application/json", "x-amzn-errortype": error},
                    json.dumps({"__type": error, "Message": error}).encode(),
                )
                return
            onward = HTTPConnection("127.0.0.1", aws.port, timeout=PATIENCE)
            onward.request(self.command, self.path, body, dict(self.headers))
            response = onward.getresponse()
            headers = {"Content-Type": "application/json"}
            if error := response.getheader("x-amzn-errortype"):
                headers["x-amzn-errortype"] = error
            self.reply(response.status, headers, response.read())
            onward.close()

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
