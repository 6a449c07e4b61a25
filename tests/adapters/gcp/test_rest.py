"""Google's answers by HTTP/1.1 mean what those of gRPC mean."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cloudq.driver import Address, Code, Delivery, Key
from cloudq.testing import outgoing
from cloudq.testing.waiting import PATIENCE
from cloudq_gcp.client import GRPC
from cloudq_gcp.firestore import _RETRY, open_backend
from cloudq_gcp.pubsub import PubSub, PubSubWithTasks, open_broker
from tests.servers import SOON

_LOST: dict[str, Any] = {
    "error": {
        "code": 400,
        "message": "Some leases failed",
        "status": "INVALID_ARGUMENT",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "EXACTLY_ONCE_ACKID_FAILURE",
                "domain": "pubsub.googleapis.com",
                "metadata": {"b": "PERMANENT_FAILURE_INVALID_ACK_ID"},
            }
        ],
    }
}


class Service:
    """Answers each request with `status` and `body`, and keeps what was asked."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.silent = threading.Event()
        self.over = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                told = json.loads(self.rfile.read(length) or b"{}")
                service.asked.append((self.command, self.path.partition("?")[0], told))
                service.headers.append(dict(self.headers))
                if service.silent.is_set():
                    service.over.wait(PATIENCE)
                    return
                self.send_response(service.status)
                self.send_header("Content-Length", str(len(service.body)))
                self.end_headers()
                self.wfile.write(service.body)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def refuse(self, status: int, body: object) -> None:
        self.status = status
        self.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    with closing(Service()) as service:
        yield service


@pytest.fixture(autouse=True)
def grpc_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GRPC, "is_lost", True)


def _address(host: str, **options: str) -> Address:
    return Address(scheme="pubsub", host="cloudq-tests", options={"emulator": host, **options})


@pytest.fixture
def driver(service: Service) -> Iterator[PubSub]:
    with closing(open_broker(_address(service.host))) as driver:
        yield driver


def _code(driver: PubSub) -> Code:
    with pytest.raises(Exception) as caught:
        driver.send("q", [outgoing()])
    return driver.error_code(caught.value)


def test_a_lost_lease_is_told_from_the_others_of_its_batch(
    driver: PubSub, service: Service
) -> None:
    service.refuse(400, _LOST)
    deliveries = [
        Delivery(queue="q", id=id, body=b"", receipt=id, attempts=1, lease=1) for id in "abc"
    ]
    assert [(f.index, f.code) for f in driver.ack(deliveries)] == [(1, Code.LEASE_LOST)]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (404, {"error": {"status": "NOT_FOUND", "message": "Topic not found"}}, Code.NOT_FOUND),
        (404, [{"error": {"status": "NOT_FOUND", "message": "none"}}], Code.NOT_FOUND),
        (409, {"error": {"status": "ALREADY_EXISTS", "message": "there"}}, Code.EXISTS),
        (409, {"error": {"status": "ABORTED", "message": "others"}}, Code.THROTTLED),
        (403, {"error": {"status": "PERMISSION_DENIED", "message": "no"}}, Code.DENIED),
        (429, {"error": {"status": "RESOURCE_EXHAUSTED", "message": "slow"}}, Code.THROTTLED),
        (401, {"error": {"status": "UNAUTHENTICATED", "message": "who?"}}, Code.CREDENTIALS),
        (503, {"error": {"status": "UNAVAILABLE", "message": "later"}}, Code.UNREACHABLE),
        (502, "<html>a proxy says no</html>", Code.UNREACHABLE),
        (404, "<html>no such page</html>", Code.UNSUPPORTED),
        (500, '"text"', Code.UNREACHABLE),
        (400, {"error": {"status": "NEW_WORD", "message": "?"}}, Code.INVALID),
    ],
)
def test_a_refusal_has_the_code_that_grpc_would_have_given(
    driver: PubSub, service: Service, status: int, body: object, code: Code
) -> None:
    service.refuse(status, body)
    assert _code(driver) is code


@pytest.mark.parametrize(
    "body",
    [
        *("", "<html>please log in</html>", "[]", "null", "{}", '{"messageIds": ["1"'),
        *('{"messageIds": {}}', '{"messageIds": "1"}', '{"messageIds": [1]}'),
        '{"messageIds": [null]}',
    ],
)
def test_what_is_no_answer_of_the_service_has_published_nothing(
    driver: PubSub, service: Service, body: str
) -> None:
    service.refuse(200, body)
    assert _code(driver) is Code.UNREACHABLE


@pytest.mark.parametrize("body", ["", "<html>please log in</html>", "[]", '"x"'])
def test_what_is_no_answer_of_the_service_has_deleted_nothing(
    driver: PubSub, service: Service, body: str
) -> None:
    service.refuse(200, body)
    delivery = Delivery(queue="q", id="a", body=b"", receipt="a", attempts=1, lease=1)
    with pytest.raises(Exception, match="not the service's") as caught:
        driver.ack([delivery])
    assert driver.error_code(caught.value) is Code.UNREACHABLE


@pytest.mark.parametrize("details", [{}, "x", ["x"], [{"@type": 1}], [None]])
@pytest.mark.parametrize("metadata", [[], "a", None])
def test_details_of_another_shape_are_none(
    driver: PubSub, service: Service, details: Any, metadata: Any
) -> None:
    told = {**_LOST["error"], "details": details}
    if details == [{"@type": 1}]:
        told["details"] = [{**_LOST["error"]["details"][0], "metadata": metadata}]
    service.refuse(400, {"error": told})
    delivery = Delivery(queue="q", id="a", body=b"", receipt="a", attempts=1, lease=1)
    with pytest.raises(Exception, match="Some leases failed") as caught:
        driver.ack([delivery])
    assert driver.error_code(caught.value) is Code.INVALID


@pytest.mark.parametrize("body", ["", "<html>please log in</html>", "{}", "[", "[[]]", '[{"a"'])
def test_what_is_no_answer_of_firestore_does_not_say_that_nothing_is_there(
    service: Service, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr("cloudq_gcp.firestore._RETRY", _RETRY.with_timeout(0.1))
    service.refuse(200, body)
    options = {"emulator": service.host}
    address = Address(scheme="firestore", host="cloudq-tests", path="x", options=options)
    with closing(open_backend(address)) as driver, pytest.raises(Exception) as caught:
        driver.get([Key("a", "b")], consistent=True)
    assert driver.error_code(caught.value) is Code.UNREACHABLE


def test_the_reason_of_a_refusal_is_shown(driver: PubSub, service: Service) -> None:
    service.refuse(404, {"error": {"status": "NOT_FOUND", "message": "no topic of this name"}})
    with pytest.raises(Exception, match="no topic of this name"):
        driver.send("q", [outgoing()])


def test_a_host_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as none:
        none.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{none.getsockname()[1]}"
        with closing(open_broker(_address(host))) as driver:
            start = time.monotonic()
            assert _code(driver) is Code.UNREACHABLE
    assert time.monotonic() - start < SOON


def test_an_answer_that_does_not_come_is_not_waited_for(service: Service) -> None:
    service.silent.set()
    address = Address(
        scheme="firestore", host="cloudq-tests", path="x", options={"emulator": service.host}
    )
    with closing(open_backend(address)) as driver:
        start = time.monotonic()
        with pytest.raises(Exception) as caught:
            driver.get([Key("a", "b")], consistent=True)
        assert driver.error_code(caught.value) is Code.UNREACHABLE
    assert time.monotonic() - start < SOON


def test_the_server_is_told_how_long_it_has(driver: PubSub, service: Service) -> None:
    service.refuse(200, {"messageIds": ["1"]})
    driver.send("q", [outgoing()])
    assert float(service.headers[0]["X-Server-Timeout"]) > 0


def test_delayed_messages_become_tasks(service: Service) -> None:
    options = {"tasks": "europe-west1/cloudq", "tasks_endpoint": service.host}
    due = "2031-01-01T00:00:00Z"
    service.refuse(200, {"name": "projects/p/locations/l/queues/q/tasks/t1", "scheduleTime": due})
    with closing(open_broker(_address(service.host, **options))) as driver:
        assert isinstance(driver, PubSubWithTasks)
        handles = driver.schedule("q", [outgoing(delay=60), outgoing(delay=90)])
        assert {str(handle).partition("/")[2] for handle in handles} == {"t1"}
        assert not driver.unschedule("q", [str(handles[0])])
    path = "/v2/projects/cloudq-tests/locations/europe-west1/queues/cloudq/tasks"
    made, gone = ("POST", path), ("DELETE", f"{path}/t1")
    assert [(method, where) for method, where, _ in service.asked if method != "GET"] == [
        made,
        made,
        gone,
    ]
