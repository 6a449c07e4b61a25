"""Serves the administration API over plain HTTP, and control requests of tests (`/_...`)."""

from __future__ import annotations

import asyncio
import json
import re
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

from localstack.servicebus import atom
from localstack.servicebus.namespace import Namespace
from localstack.servicebus.settings import Settings

_XML = "application/atom+xml;type=entry;charset=utf-8"
_JSON = "application/json"
_PATIENCE = 30.0
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.\-/]*[\w])?", re.ASCII)

Reply = tuple[int, str, bytes]


class Admin:
    """Answers one request; called on the event loop, which owns all data."""

    def __init__(self, namespace: Namespace, name: str) -> None:
        self._namespace = namespace
        self._name = name

    def answer(
        self, method: str, target: str, token: str | None, match: bool, body: bytes
    ) -> Reply:
        """Status, kind and body of the reply."""
        parts = urlsplit(target)
        path = unquote(parts.path).strip("/")
        if path.startswith("_"):
            return self._control(method, path, body)
        self._namespace.stats["admin"] += 1
        problem = self._namespace.keys.problem(token)
        if self._namespace.faults.denies():
            problem = "Unauthorized: The token was turned down by a fault that was asked for."
        if problem:
            return _problem(401, problem)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if path.startswith("$") and method == "GET":
            return self._resource(path, query)
        return self._queue(method, path, match, body)

    def _resource(self, path: str, query: dict[str, str]) -> Reply:
        if path.lower() == "$namespaceinfo":
            return 200, _XML, atom.namespace_entry(self._namespace, self._name)
        if path.lower() not in ("$resources/queues", "$resources/topics"):
            return _problem(404, f"There is no resource {path}.")
        skip, top = int(query.get("$skip", 0)), int(query.get("$top", 100))
        everything = sorted(self._namespace.queues) if path.lower().endswith("queues") else []
        names = everything[skip : skip + top]
        base = f"http://{self._name}/{path}"
        more = f"{base}?$skip={skip + top}&$top={top}" if len(everything) > skip + top else None
        queues = [self._namespace.queues[name] for name in names]
        return 200, _XML, atom.feed(queues, base, path.rpartition("/")[2], more)

    def _queue(self, method: str, path: str, match: bool, body: bytes) -> Reply:
        queue = self._namespace.find(path)
        base = f"http://{self._name}"
        if method == "GET" and queue is None:
            # As Azure does: what is not there is an empty feed, not a 404.
            return 200, _XML, atom.feed([], base, "Publicly Listed Services")
        if method == "PUT" and queue is None and not match:
            if not _NAME.fullmatch(path) or len(path) > 260:
                return _problem(400, f"SubCode=40000. '{path}' cannot be a queue's name.")
            try:
                settings = atom.read_settings(body, Settings())
            except atom.BadEntry as error:
                return _problem(400, f"SubCode=40000. {error}")
            created = self._namespace.create(path, settings)
            return 201, _XML, atom.entry(created, base)
        if queue is None:
            return _problem(404, f"SubCode=40400. Not Found. The entity '{path}' does not exist.")
        if method == "GET":
            return 200, _XML, atom.entry(queue, base)
        if method == "DELETE":
            self._namespace.delete(queue)
            return 200, _XML, b""
        if method != "PUT":
            return _problem(405, f"{method} is not allowed.")
        if not match:
            return _problem(
                409,
                f"SubCode=40900. Conflict. The entity '{path}' could not be created because it"
                " already exists.",
            )
        try:
            settings = atom.read_settings(body, queue.settings)
        except atom.BadEntry as error:
            return _problem(400, f"SubCode=40000. {error}")
        fixed = queue.settings.fixed(settings)
        if fixed:
            return _problem(400, f"SubCode=40000. {fixed} of an existing queue cannot be changed.")
        self._namespace.update(queue, settings)
        return 200, _XML, atom.entry(queue, base)

    def _control(self, method: str, path: str, body: bytes) -> Reply:
        if path == "_health":
            return _json(200, {"status": "ok", "queues": len(self._namespace.queues)})
        if path == "_stats":
            if method == "DELETE":
                self._namespace.stats.clear()
            return _json(200, dict(self._namespace.stats))
        if path == "_reset" and method == "POST":
            self._namespace.reset()
            return _json(200, {})
        if path == "_faults":
            return self._faults(method, body)
        return _json(404, {"error": f"no {method} {path} here"})

    def _faults(self, method: str, body: bytes) -> Reply:
        if method == "DELETE":
            self._namespace.faults.clear()
        elif method == "POST":
            try:
                self._namespace.faults.add(json.loads(body))
            except (TypeError, ValueError) as error:
                return _json(400, {"error": str(error)})
        return _json(200, {"faults": self._namespace.faults.shown()})


def _problem(status: int, detail: str) -> Reply:
    return status, "application/xml; charset=utf-8", atom.problem(status, detail)


def _json(status: int, value: dict[str, Any]) -> Reply:
    return status, _JSON, json.dumps(value).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The default of 5 turns away clients that come at once.
    request_queue_size = 128

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks up the machine's name and can hang on that.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = cast("tuple[str, int]", self.server_address[:2])


def serve(namespace: Namespace, host: str, port: int, loop: asyncio.AbstractEventLoop) -> _Server:
    """Answer HTTP on threads of its own, until `shutdown()`. Raises `OSError`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one write
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answered = asyncio.run_coroutine_threadsafe(
                _on_loop(
                    lambda: admin.answer(
                        self.command,
                        self.path,
                        self.headers.get("Authorization"),
                        self.headers.get("If-Match") is not None,
                        body,
                    )
                ),
                loop,
            )
            status, kind, content = answered.result(_PATIENCE)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

    server = _Server((host, port), Handler)
    admin = Admin(namespace, f"{host}:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


async def _on_loop(work: Callable[[], Reply]) -> Reply:
    return work()
