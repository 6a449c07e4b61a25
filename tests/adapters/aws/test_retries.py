"""Requests that fail alone are tried again, however many; in an outage they are not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudq.driver import Address, Change, ConditionFailed, Key
from cloudq.testing.waiting import PATIENCE
from cloudq_aws.dynamodb import DynamoDB, open_backend
from cloudq_aws.sqs import SQS, open_broker
from tests.support.serving import serving

WHOLE = b'{"Responses": {"table": []}, "UnprocessedKeys": {}, "Messages": []}'
BROKEN = 500, "InternalServerError"
THROTTLED = 400, "ThrottlingException"
REFUSED = 400, "ConditionalCheckFailedException"
KEY = Key("task#1", "-")


class Shaky(ThreadingHTTPServer):
    """A service that answers a request, by its number, or fails it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = 0
        self.answers: Callable[[int], bool] = lambda number: True
        self.failure = BROKEN
        self.cut: Callable[[int], bool] = lambda number: False
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Shaky

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        number = self.server.requests
        self.server.requests += 1
        good = self.server.answers(number)
        status, name = (200, "") if good else self.server.failure
        body = WHOLE if good else b'{"__type": "%s", "message": "on purpose"}' % name.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut(number):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def shaky() -> Iterator[Shaky]:
    with serving(Shaky()) as server:
        yield server


@pytest.fixture
def dynamodb(shaky: Shaky) -> Iterator[DynamoDB]:
    address = Address(scheme="dynamodb", host="table", options={"endpoint_url": shaky.url})
    with closing(open_backend(address)) as driver:
        yield driver


@pytest.fixture
def sqs(shaky: Shaky) -> Iterator[SQS]:
    with closing(open_broker(Address(scheme="sqs", options={"endpoint_url": shaky.url}))) as driver:
        yield driver


def test_each_request_that_fails_alone_is_tried_again_however_many_do(
    shaky: Shaky, dynamodb: DynamoDB
) -> None:
    shaky.answers = lambda number: number % 3 == 2
    for _ in range(80):  # the SDK's own budget is spent after 36
        assert dynamodb.get([KEY], consistent=True) == {}
    assert shaky.requests == 240


def test_a_receive_that_fails_alone_does_not_end_the_retries_of_other_requests(
    shaky: Shaky, sqs: SQS
) -> None:
    queue = f"{shaky.url}/000000000000/default"
    shaky.answers = lambda number: number % 2 == 1
    for _ in range(40):
        assert sqs.receive(queue, count=1, wait=0.0, lease=30.0) == []
    assert shaky.requests == 80


def test_an_error_that_was_cut_is_asked_for_again(shaky: Shaky, dynamodb: DynamoDB) -> None:
    shaky.answers, shaky.failure = (lambda number: False), REFUSED
    shaky.cut = lambda number: number < 2
    with pytest.raises(ConditionFailed):
        dynamodb.update(KEY, Change(set={"a": 1}))
    assert shaky.requests == 3


def test_a_request_that_was_throttled_alone_waits_for_little(
    shaky: Shaky, dynamodb: DynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=pauses.append))
    shaky.answers, shaky.failure = (lambda number: number % 3 == 2), THROTTLED
    for _ in range(30):
        assert dynamodb.get([KEY], consistent=True) == {}
    assert len(pauses) == 60
    assert max(pauses) <= 0.4  # the SDK's own are up to 2


@pytest.mark.slow
def test_in_an_outage_a_request_is_tried_once(shaky: Shaky, dynamodb: DynamoDB) -> None:
    shaky.answers = lambda number: False
    until = time.monotonic() + PATIENCE
    tries = 0
    while tries != 1:
        assert time.monotonic() < until
        before = shaky.requests
        with pytest.raises(ClientError, match="on purpose"):
            dynamodb.get([KEY], consistent=True)
        tries = shaky.requests - before
        assert 1 <= tries <= 3
    # One answer ends it.
    shaky.answers = lambda number: True
    assert dynamodb.get([KEY], consistent=True) == {}
    first = shaky.requests
    shaky.answers = lambda number: number >= first + 2
    assert dynamodb.get([KEY], consistent=True) == {}
