"""Retries with back-off, and equal calls that run once: telling another service of an event.

cloudq worker -A webhooks
python webhooks.py
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from cloudq import CloudQ

app = CloudQ("webhooks")


@dataclass(frozen=True)
class Event:
    """Something that has happened. It travels as a plain object and arrives as an `Event`."""

    id: str
    kind: str


def once(url: str, event: Event) -> str:
    """The key of a call: two calls with the same key are equal."""
    return f"{event.id} {url}"


@app.task(
    autoretry_for=[URLError],  # no answer, or one of 4xx and 5xx
    retry_backoff=0.1,
    max_retries=8,
    soft_time_limit=30,
    idempotent=once,
    dead_letter=True,
)
def tell(url: str, event: Event) -> int:
    """Post an event; returns the status of the answer."""
    body = json.dumps({"id": event.id, "kind": event.kind}).encode()
    request = Request(url, body, {"Content-Type": "application/json", "Idempotency-Key": event.id})
    with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
        return int(answer.status)


class Receiver(BaseHTTPRequestHandler):
    """A service that is down for the first two requests."""

    requests = 0

    def do_POST(self) -> None:
        """Answer 503 twice, then 200."""
        Receiver.requests += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503 if Receiver.requests <= 2 else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def main() -> None:
    """Tell a receiver on this machine of one event, twice."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/events"
        event = Event(id="order-7-paid", kind="order.paid")
        first = tell.delay(url, event)
        print(f"status {first.get(timeout=60)} after {first.retries} retries")
        again = tell.delay(url, event)
        print(f"status {again.get(timeout=60)} again, and {Receiver.requests} requests in all")
        server.shutdown()


if __name__ == "__main__":
    main()
