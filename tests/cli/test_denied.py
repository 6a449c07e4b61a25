"""Messages of commands that AWS refuses, from a server that speaks the services' protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

REFUSALS = {
    "AccessDeniedException": "User: arn:aws:iam::1:user/u is not authorized to perform: {action}",
    "UnrecognizedClientException": "The security token included in the request is invalid",
    "InvalidSignatureException": "The request signature we calculated does not match",
}


class Refusing(BaseHTTPRequestHandler):
    """Answers every call with the refusal that its path names."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        service, _, operation = self.headers["X-Amz-Target"].partition(".")
        action = f"{'sqs' if 'SQS' in service else 'dynamodb'}:{operation}"
        code = self.path.strip("/")
        body = json.dumps(
            {"__type": code, "message": REFUSALS[code].format(action=action)}
        ).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def refusing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("args", "action"),
    [
        (["queues", "stats", "orders"], "sqs:GetQueueUrl"),
        (["queues", "purge", "orders", "--yes"], "sqs:GetQueueUrl"),
        (["call", "any", "--force", "-Q", "orders"], "sqs:GetQueueUrl"),
        (["result", "some-id"], "dynamodb:BatchGetItem"),
    ],
)
def test_access_denied_names_the_permission_in_one_line(command, refusing, args, action):
    url = f"{refusing}/AccessDeniedException"
    where = ["-b", f"sqs://?endpoint_url={url}", "--backend", f"dynamodb://t?endpoint_url={url}"]
    ran = command(*args, *where)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "may not do this" in ran.err
    assert action in ran.err


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "InvalidSignatureException"])
def test_wrong_credentials_are_told_from_missing_rights(command, refusing, code):
    ran = command("queues", "stats", "orders", "-b", f"sqs://?endpoint_url={refusing}/{code}")
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "no usable credentials" in ran.err
