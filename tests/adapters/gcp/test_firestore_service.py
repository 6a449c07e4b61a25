"""Firestore's own answers: errors, lost requests, refused writes, and what a URL may say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC
from typing import Any

import grpc
import pytest
from google.api_core import exceptions as sdk
from google.api_core.datetime_helpers import DatetimeWithNanoseconds
from google.auth.credentials import Credentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud.firestore_admin_v1.types import UpdateFieldRequest
from google.cloud.firestore_v1.types import (
    BatchGetDocumentsRequest,
    BatchGetDocumentsResponse,
    BatchWriteRequest,
    BatchWriteResponse,
    WriteResult,
)
from google.longrunning.operations_pb2 import Operation
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from cloudq.driver import Address, Change, Code, Item, Key
from cloudq.errors import ConfigurationError
from cloudq_gcp.firestore import _RETRY, Firestore, open_backend
from cloudq_gcp.firestore_client import connect
from cloudq_gcp.firestore_items import document_id
from tests.servers import SOON

Answer = Callable[[str, bytes, grpc.ServicerContext], bytes]
Make = Callable[[Answer], Firestore]


class Answering(grpc.GenericRpcHandler):
    """A server that gives answers no emulator gives: it calls `answer(method, body, context)`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        method = details.method.rpartition("/")[2]
        if method in ("BatchGetDocuments", "RunQuery"):
            return grpc.unary_stream_rpc_method_handler(
                lambda body, context: iter([self._answer(method, body, context)])
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda body, context: self._answer(method, body, context)
        )


@pytest.fixture
def answering() -> Iterator[Make]:
    """Make a driver whose server answers with the given function."""
    servers: list[grpc.Server] = []
    drivers: list[Firestore] = []

    def make(answer: Answer) -> Firestore:
        server = grpc.server(ThreadPoolExecutor(4), handlers=[Answering(answer)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        drivers.append(open_backend(_address(emulator=f"127.0.0.1:{port}")))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()
    for server in servers:
        server.stop(None).wait()


def _address(project: str = "cloudq-tests", **options: str) -> Address:
    return Address(scheme="firestore", host=project, path="cloudq", options=options)


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (grpc.StatusCode.NOT_FOUND, Code.NOT_FOUND),
            (grpc.StatusCode.PERMISSION_DENIED, Code.DENIED),
            (grpc.StatusCode.UNAUTHENTICATED, Code.CREDENTIALS),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, Code.THROTTLED),
            (grpc.StatusCode.UNAVAILABLE, Code.UNREACHABLE),
            (grpc.StatusCode.DEADLINE_EXCEEDED, Code.UNREACHABLE),
            (grpc.StatusCode.INTERNAL, Code.UNREACHABLE),
            (grpc.StatusCode.INVALID_ARGUMENT, Code.INVALID),
        ],
    )
    def test_answers_have_codes(
        self,
        answering: Make,
        monkeypatch: pytest.MonkeyPatch,
        status: grpc.StatusCode,
        code: Code,
    ) -> None:
        monkeypatch.setattr("cloudq_gcp.firestore._RETRY", _RETRY.with_timeout(0.2))

        def refuse(method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(status, "no")

        driver = answering(refuse)
        calls: list[Callable[[], object]] = [
            driver.check_store,
            lambda: driver.update(Key("a"), Change()),
            lambda: driver.put([Item(key=Key("a"), fields={})]),
            lambda: driver.query("a", after=None, limit=1),
        ]
        for call in calls:
            with pytest.raises(Exception) as caught:
                call()
            assert driver.error_code(caught.value) is code

    def test_no_server_is_unreachable_soon(self) -> None:
        driver = open_backend(_address(emulator="127.0.0.1:9"))
        start = time.monotonic()
        with pytest.raises(Exception) as caught:
            driver.check_store()
        assert driver.error_code(caught.value) is Code.UNREACHABLE
        assert time.monotonic() - start < SOON
        driver.close()

    def test_a_login_that_has_run_out_is_told(
        self, answering: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cloudq_gcp.firestore._RETRY", _RETRY.with_timeout(0.2))

        class RunOut(Credentials):
            def refresh(self, request: object) -> None:
                raise RefreshError("Reauthentication is needed")

        host = answering(lambda *_: b"")._place.host
        place = connect(_address(emulator=host))
        place.channel.close()
        plugin = grpc.metadata_call_credentials(AuthMetadataPlugin(RunOut(), Request()))
        trust = grpc.composite_channel_credentials(grpc.local_channel_credentials(), plugin)
        driver = Firestore(replace(place, channel=grpc.secure_channel(host, trust)))
        with pytest.raises(Exception, match="Reauthentication") as caught:
            driver.check_store()
        assert driver.error_code(caught.value) is Code.CREDENTIALS
        driver.close()

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (sdk.InvalidArgument("the value is longer than 1048487 bytes"), Code.TOO_LARGE),
            (sdk.RetryError("timeout", cause=sdk.ResourceExhausted("quota")), Code.THROTTLED),
            (RefreshError("no"), Code.CREDENTIALS),
            (DefaultCredentialsError("no"), Code.CREDENTIALS),
            (ConnectionResetError(), Code.UNREACHABLE),
        ],
    )
    def test_errors_of_the_libraries_have_codes(
        self, answering: Make, error: Exception, code: Code
    ) -> None:
        assert answering(lambda *_: b"").error_code(error) is code

    def test_a_lost_answer_to_an_update_is_not_sent_again(self, answering: Make) -> None:
        sent: list[str] = []

        def lose(method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
            sent.append(method)
            if method == "Commit":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection was cut")
            return nothing_there(body)

        driver = answering(lose)
        with pytest.raises(Exception) as caught:
            driver.update(Key("a"), Change(increment={"n": 1}))
        assert driver.error_code(caught.value) is Code.UNREACHABLE
        assert sent == ["BatchGetDocuments", "Commit"]

    def test_an_update_that_is_always_overtaken_is_throttled(
        self, answering: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cloudq_gcp.firestore._PAUSE", 0.0)
        sent: list[str] = []

        def contend(method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
            sent.append(method)
            if method == "Commit":
                context.abort(grpc.StatusCode.ABORTED, "too much contention")
            return nothing_there(body)

        driver = answering(contend)
        with pytest.raises(Exception) as caught:
            driver.update(Key("a"), Change(increment={"n": 1}))
        assert driver.error_code(caught.value) is Code.THROTTLED
        assert sent.count("Commit") == 20


def nothing_there(request: bytes) -> bytes:
    """Answer a read of one document: it is missing."""
    (name,) = BatchGetDocumentsRequest.deserialize(request).documents
    answer = BatchGetDocumentsResponse(missing=name, read_time=DatetimeWithNanoseconds.now(UTC))
    return BatchGetDocumentsResponse.serialize(answer)


ITEMS = [Item(key=Key("a", str(number)), fields={"n": number}) for number in range(3)]


class TestBatches:
    """One write of a batch is refused, and the others are not."""

    @pytest.fixture
    def refusing(
        self, answering: Make, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[Sequence[int]], tuple[Firestore, list[int]]]:
        """Make a driver whose second write gets the given codes, one a request."""
        monkeypatch.setattr("cloudq_gcp.firestore._PAUSE", 0.0)

        def make(codes: Sequence[int]) -> tuple[Firestore, list[int]]:
            left, sizes = list(codes), list[int]()
            unlucky = document_id(ITEMS[1].key)

            def answer(method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
                writes = BatchWriteRequest.deserialize(body).writes
                sizes.append(len(writes))
                names = [write.update.name or write.delete for write in writes]
                code = left.pop(0)
                status = [Status(code=code if unlucky in name else 0) for name in names]
                results = [WriteResult() for _ in names]
                reply = BatchWriteResponse(write_results=results, status=status)
                return BatchWriteResponse.serialize(reply)

            return answering(answer), sizes

        return make

    def test_what_was_in_the_way_is_sent_again_and_no_others(
        self, refusing: Callable[[Sequence[int]], tuple[Firestore, list[int]]]
    ) -> None:
        driver, sizes = refusing([code_pb2.ABORTED, code_pb2.UNAVAILABLE, 0])
        assert not driver.put(ITEMS)
        assert sizes == [3, 1, 1]

    @pytest.mark.parametrize(
        ("status", "code", "sizes"),
        [
            (code_pb2.ABORTED, Code.THROTTLED, [3, 1, 1, 1, 1, 1]),
            (code_pb2.RESOURCE_EXHAUSTED, Code.THROTTLED, [3, 1, 1, 1, 1, 1]),
            (code_pb2.PERMISSION_DENIED, Code.DENIED, [3]),
        ],
    )
    def test_what_stays_refused_is_a_failure(
        self,
        refusing: Callable[[Sequence[int]], tuple[Firestore, list[int]]],
        status: int,
        code: Code,
        sizes: list[int],
    ) -> None:
        driver, sent = refusing([status] * 12)
        (failure,) = driver.put(ITEMS)
        assert (failure.index, failure.code, sent) == (1, code, sizes)
        (failure,) = driver.delete([item.key for item in ITEMS])
        assert (failure.index, failure.code, sent) == (1, code, sizes * 2)


class TestStore:
    def test_creating_it_sets_the_ttl_and_drops_the_indexes(self, answering: Make) -> None:
        asked: dict[str, UpdateFieldRequest] = {}

        def answer(method: str, body: bytes, context: grpc.ServicerContext) -> bytes:
            request = UpdateFieldRequest.deserialize(body)
            asked[request.field.name] = request
            return Operation(name="operation").SerializeToString()

        answering(answer).create_store()
        base = "projects/cloudq-tests/databases/(default)/collectionGroups/cloudq/fields/"
        fields, expires = asked[base + "fields"].field, asked[base + "expires"].field
        assert ("index_config" in fields, "ttl_config" in fields) == (True, False)
        assert ("index_config" in expires, "ttl_config" in expires) == (True, True)
        assert asked[fields.name].update_mask.paths == ["index_config"]
        assert asked[expires.name].update_mask.paths == ["index_config", "ttl_config"]
        assert not fields.index_config.indexes
        assert not expires.index_config.indexes


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (Address(scheme="firestore", host="project"), "written firestore://my-project/cloudq"),
        (Address(scheme="firestore", host="project", path="a/b"), "written firestore://"),
        (Address(scheme="firestore", host="project", path="__a__"), "written firestore://"),
        (_address("My_Project", emulator="127.0.0.1:1"), "not the id of a Google project"),
        (_address(database="Nope!"), "no name of a Firestore database"),
        (_address(region="eu"), "no option 'region'; it knows database, emulator, endpoint"),
        (_address(), "no Google credentials for firestore://"),
    ],
)
def test_a_wrong_url_says_what_is_right(url: Address, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigurationError, match=message):
        open_backend(url)
    assert time.monotonic() - start < SOON


def test_emulator_and_project_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    place = connect(_address("", database="other"))
    assert (place.host, place.emulated) == ("127.0.0.1:9", True)
    assert place.database == "projects/my-project/databases/other"
    place.channel.close()
    assert connect(_address("its-own")).database == "projects/its-own/databases/(default)"
