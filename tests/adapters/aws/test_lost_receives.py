"""Receives whose answers are lost: what was in them comes again soon, and under a true lease."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from cloudq import CloudQ
from cloudq.broker.broker import Broker
from cloudq.broker.migration.endpoint import Endpoint
from cloudq.broker.migration.scan import Leases as ScanLeases
from cloudq.driver import Address
from cloudq.testing import Fault, FaultProxy, drain, outgoing
from cloudq.testing.waiting import collect
from cloudq_aws import lost_receives
from cloudq_aws.errors import AwsError
from cloudq_aws.partial import held_back
from cloudq_aws.sqs import SQS, open_broker
from localstack import servers
from tests.servers import unique
from tests.support.serving import serving

LOST = (ClientError, BotoCoreError, AwsError)
NONE = b'{"Messages": []}'


class Service(ThreadingHTTPServer):
    """Notes what receives ask for, and answers as told: None loses the answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[], tuple[int, bytes] | None] = lambda: (200, NONE)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(json.loads(body))
        answer = self.server.answer()
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(Service()) as server:
        yield server


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which drivers forget losses, as a list of one."""
    now = [1000.0]
    inner = lost_receives.LostReceives.__init__

    def init(self: lost_receives.LostReceives) -> None:
        inner(self, now=lambda: now[0])

    monkeypatch.setattr(lost_receives.LostReceives, "__init__", init)
    return now


@pytest.fixture
def sqs(service: Service, now: list[float]) -> Iterator[SQS]:
    address = Address(scheme="sqs", options={"endpoint_url": service.url})
    with closing(open_broker(address)) as driver:
        yield driver


def receive(service: Service, sqs: SQS, suffix: str = "", count: int = 10) -> list[dict[str, Any]]:
    """Receive, whatever comes, and return what the tries have asked for."""
    before = len(service.asked)
    queue = f"{service.url}/000000000000/default{suffix}"
    try:
        assert sqs.receive(queue, count=count, wait=0.0, lease=60.0) == []
    except LOST:
        assert service.answer() != (200, NONE)
    return service.asked[before:]


def leases(asked: list[dict[str, Any]]) -> set[int]:
    return {each["VisibilityTimeout"] for each in asked}


CUT = b'{"Messages": [{"Body": "'


@pytest.mark.parametrize("lost", [None, (200, CUT), (200, b""), (500, b"{}"), (504, b"gone")])
def test_leases_are_short_for_a_minute_after_an_answer_was_lost(
    service: Service, sqs: SQS, now: list[float], lost: tuple[int, bytes] | None
) -> None:
    assert leases(receive(service, sqs)) == {60}
    service.answer = lambda: lost
    receive(service, sqs)
    service.answer = lambda: (200, NONE)
    assert leases(receive(service, sqs)) == {5}
    now[0] += 59
    assert leases(receive(service, sqs)) == {5}
    now[0] += 2
    assert leases(receive(service, sqs)) == {60}


def test_a_try_that_the_sdk_repeats_counts_as_a_loss_too(service: Service, sqs: SQS) -> None:
    answers = iter([None, (200, NONE)])
    service.answer = lambda: next(answers)
    assert len(receive(service, sqs)) == 2
    service.answer = lambda: (200, NONE)
    assert leases(receive(service, sqs)) == {5}


def test_the_lost_answer_of_another_request_is_a_warning(service: Service, sqs: SQS) -> None:
    service.answer = lambda: None
    with pytest.raises(LOST):
        sqs.send(f"{service.url}/000000000000/default", [outgoing()])
    service.answer = lambda: (200, NONE)
    assert leases(receive(service, sqs)) == {5}


def test_a_lease_that_is_shorter_already_stays(service: Service, sqs: SQS) -> None:
    service.answer = lambda: None
    receive(service, sqs)
    service.answer = lambda: (200, NONE)
    queue = f"{service.url}/000000000000/default"
    sqs.receive(queue, count=1, wait=0.0, lease=2.0)
    assert service.asked[-1]["VisibilityTimeout"] == 2


def test_what_leases_nothing_is_no_loss(service: Service, sqs: SQS) -> None:
    refused = b'{"__type": "ThrottlingException", "message": "on purpose"}'
    service.answer = lambda: (400, refused)
    assert leases(receive(service, sqs)) == {60}
    service.answer = lambda: (200, NONE)
    assert leases(receive(service, sqs)) == {60}


def test_without_a_connection_nothing_is_lost(service: Service, now: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    address = Address(scheme="sqs", options={"endpoint_url": f"http://127.0.0.1:{port}"})
    with closing(open_broker(address)) as driver:
        with pytest.raises(BotoCoreError):
            driver.receive(f"http://127.0.0.1:{port}/0/q", count=1, wait=0.0, lease=60.0)
        assert driver._lost.lease(60) == 60  # pyright: ignore[reportPrivateUsage]


def ids(asked: list[dict[str, Any]]) -> set[str]:
    return {each["ReceiveRequestAttemptId"] for each in asked}


def test_a_receive_of_a_fifo_queue_is_repeated_until_it_is_answered(
    service: Service, sqs: SQS
) -> None:
    service.answer = lambda: None
    lost = receive(service, sqs, ".fifo", 4)
    assert len(lost) == 3  # by the SDK
    assert len(ids(lost)) == 1
    assert ids(receive(service, sqs, ".fifo", 10)) == ids(lost)
    service.answer = lambda: (200, NONE)
    (answered,) = receive(service, sqs, ".fifo", 10)
    # The same in all: SQS would not know another.
    assert answered == lost[0]
    assert answered["MaxNumberOfMessages"] == 4
    (fresh,) = receive(service, sqs, ".fifo", 10)
    assert ids([fresh]) != ids(lost)
    assert (fresh["MaxNumberOfMessages"], fresh["VisibilityTimeout"]) == (10, 60)


def test_a_smaller_receive_repeats_no_larger_one(service: Service, sqs: SQS) -> None:
    service.answer = lambda: None
    lost = receive(service, sqs, ".fifo", 4)
    service.answer = lambda: (200, NONE)
    (small,) = receive(service, sqs, ".fifo", 3)
    assert ids([small]) != ids(lost)
    assert small["MaxNumberOfMessages"] == 3
    assert ids(receive(service, sqs, ".fifo", 4)) == ids(lost)


def test_a_receive_is_repeated_on_its_own_queue_only(service: Service, sqs: SQS) -> None:
    service.answer = lambda: None
    lost = receive(service, sqs, ".fifo")
    service.answer = lambda: (200, NONE)
    assert ids(receive(service, sqs, "-2.fifo")) != ids(lost)
    assert "ReceiveRequestAttemptId" not in receive(service, sqs)[0]


def test_a_receive_is_not_repeated_after_its_lease(
    service: Service, sqs: SQS, now: list[float]
) -> None:
    service.answer = lambda: None
    lost = receive(service, sqs, ".fifo")
    now[0] += 60
    service.answer = lambda: (200, NONE)
    assert ids(receive(service, sqs, ".fifo")) != ids(lost)


# ---- before a stand-in for SQS


@pytest.fixture
def proxy(aws: servers.Endpoint) -> Iterator[FaultProxy]:
    with FaultProxy(aws.url, batches=held_back) as proxy:
        yield proxy


@pytest.fixture
def wary(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CloudQ, str]]:
    """An app whose broker has lost an answer just now, and its queue; short is 2 s."""
    monkeypatch.setattr(lost_receives, "_SHORT", 2)
    app = CloudQ("lost", broker=f"sqs://?endpoint_url={proxy.url}", backend="memory://")
    queue = unique("lost")
    app.broker.admin.create(queue, lease=60, max_deliveries=10)
    with closing(app):
        assert app.broker.receive(queue, count=1, wait=0.0, lease=60) == []  # its URL is known now
        lose(proxy, app.broker, queue)
        yield app, queue
        app.broker.admin.delete(queue)


def lose(proxy: FaultProxy, broker: Broker, queue: str) -> None:
    proxy.chances = {Fault.RESET_AFTER: 1.0}
    with pytest.raises(LOST):
        broker.driver.receive(queue, count=10, wait=0.0, lease=60.0)
    proxy.chances = {}


@pytest.mark.slow
def test_what_a_lost_answer_had_in_it_comes_again_soon(
    wary: tuple[CloudQ, str], proxy: FaultProxy
) -> None:
    app, queue = wary
    messages = [outgoing() for _ in range(3)]
    assert app.broker.driver.send(queue, messages) == []
    began = time.monotonic()
    lose(proxy, app.broker, queue)
    found = collect(app.broker.driver, queue, 3, lease=60.0)
    assert sorted(delivery.id for delivery in found) == sorted(message.id for message in messages)
    assert time.monotonic() - began < 30
    assert {delivery.lease for delivery in found} == {2}
    # What is extended is held.
    assert app.broker.driver.extend(found, lease=60.0) == []
    assert app.broker.driver.receive(queue, count=3, wait=3.0, lease=60.0) == []


@pytest.mark.slow
def test_drain_extends_a_short_lease(wary: tuple[CloudQ, str]) -> None:
    app, queue = wary
    others: list[Any] = []

    @app.task(name="long", queue=queue)
    def long() -> None:
        time.sleep(3)
        others.extend(app.broker.receive(queue, count=1, wait=0.0, lease=60.0))

    long.delay()
    assert len(drain(app, [queue])) == 1
    assert others == []


def test_a_scan_extends_by_the_shortest_lease_that_it_was_given(wary: tuple[CloudQ, str]) -> None:
    app, queue = wary

    assert app.broker.driver.send(queue, [outgoing()]) == []
    leases = ScanLeases(Endpoint(broker=app.broker), queue, 60.0, lambda _: None)
    (found,) = leases.receive(1.0, 10)
    assert found.lease == 2
    assert leases._extend_at < time.time() + 1  # pyright: ignore[reportPrivateUsage]
