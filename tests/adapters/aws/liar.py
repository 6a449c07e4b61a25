"""A server of AWS's kind whose answers are not the service's."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Liar(ThreadingHTTPServer):
    """Answers each operation with the body that is set for it, and keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: dict[str, bytes] = {}
        self.status = 200
        self.asked: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def operations(self) -> list[str]:
        return [name for name, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: Liar

    def answer(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = unquote(urlsplit(self.path).path)
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        # Other protocols of AWS name it in a form, or by the path alone.
        if not operation:
            operation = parse_qs(text).get("Action", [path])[0]
        self.server.asked.append((operation, text))
        body = self.server.bodies.get(operation, b"")
        self.send_response(self.server.status if operation in self.server.bodies else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass
