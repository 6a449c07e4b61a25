"""The short way gives way to everything that boto3's own method would have done or asked."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from botocore.client import BaseClient
from botocore.credentials import ReadOnlyCredentials
from botocore.endpoint import Endpoint
from botocore.stub import Stubber
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudq.driver import Address, Outgoing
from cloudq_aws.sqs import SQS, open_broker
from tests.adapters.aws.scripted import Answer, Asked, Scripted, answer
from tests.support.serving import serving

pytestmark = pytest.mark.usefixtures("without_moto")

URL = "http://127.0.0.1/000000000000/default"
DONE: dict[str, Any] = {"Successful": [{"Id": "0"}], "Failed": []}
MESSAGES = [Outgoing(id="a", body=b"x")]


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving(Scripted()) as server:
        server.answer = DONE
        yield server


@pytest.fixture
def sqs(server: Scripted) -> Iterator[SQS]:
    with closing(opened(endpoint_url=server.url)) as driver:
        yield driver


def opened(**options: str) -> SQS:
    return open_broker(Address(scheme="sqs", options=options))


def is_short(sqs: SQS) -> bool:
    """Make a call, and tell whether it went the short way."""
    client: Any = sqs.client
    plain: list[str] = []
    calls = client._make_api_call
    own = calls._plain

    def counted(name: str, *args: Any) -> Any:
        plain.append(name)
        return own(name, *args)

    calls._plain = counted
    try:
        assert sqs.send(URL, MESSAGES) == []
    finally:
        del calls._plain
    return not plain


def warm(sqs: SQS) -> None:
    for _ in range(2):
        sqs.send(URL, MESSAGES)
    assert is_short(sqs)


@pytest.mark.parametrize(
    "event",
    [
        "provide-client-params",
        "before-parameter-build",
        "before-endpoint-resolution",
        "before-call",
        "request-created",
        "choose-signer",
        "before-sign",
        "before-send",
        "before-parse",
        "response-received",
        "needs-retry",
        "after-call",
    ],
)
def test_a_hook_of_a_user_is_asked_and_may_leave_again(sqs: SQS, event: str) -> None:
    warm(sqs)
    told: list[str] = []

    def hook(event_name: str, **_: Any) -> None:
        told.append(event_name)

    sqs.client.meta.events.register(f"{event}.sqs", hook)
    for _ in range(3):
        assert not is_short(sqs)
    assert len(told) >= 3
    sqs.client.meta.events.unregister(f"{event}.sqs", hook)
    sqs.send(URL, MESSAGES)
    assert is_short(sqs)


def test_a_stub_answers_in_place_of_the_service(sqs: SQS, server: Scripted) -> None:
    warm(sqs)
    asked = len(server.asked)
    with Stubber(sqs.client) as stub:
        stub.add_response("send_message_batch", {"Successful": [], "Failed": []})
        assert [failure.index for failure in sqs.send(URL, MESSAGES)] == [0]
    assert len(server.asked) == asked
    assert is_short(sqs) or is_short(sqs)


@pytest.mark.parametrize(
    "seam",
    [
        "botocore.client.BaseClient._make_api_call",
        "botocore.endpoint.Endpoint.make_request",
        "botocore.endpoint.Endpoint.prepare_request",
        "botocore.httpsession.URLLib3Session.send",
        "botocore.auth.SigV4Auth.add_auth",
        "urllib3.connectionpool.HTTPConnectionPool.urlopen",
    ],
)
def test_what_takes_the_place_of_a_method_of_botocore_is_called(sqs: SQS, seam: str) -> None:
    warm(sqs)
    with mock.patch(seam, autospec=True, side_effect=ZeroDivisionError) as other:
        with pytest.raises(Exception):  # noqa: B017 (some are wrapped)
            sqs.send(URL, MESSAGES)
        assert other.called
    assert is_short(sqs) or is_short(sqs)


class Posing:
    """A wrapper that passes for what it wraps, as those of tracers do (wrapt)."""

    def __init__(self, wrapped: Any, told: list[object]) -> None:
        self._wrapped, self._told = wrapped, told

    @property
    def __class__(self) -> Any:
        return type(self._wrapped)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __eq__(self, other: object) -> bool:
        return self._wrapped == other

    def __hash__(self) -> int:
        return hash(self._wrapped)

    def __call__(self, *given: Any, **named: Any) -> Any:
        self._told.append(given[0])
        return self._wrapped(*given, **named)

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        self._told.append(instance)
        return self._wrapped.__get__(instance, owner)


@pytest.mark.parametrize("owner", [BaseClient, Endpoint])
def test_a_tracer_s_wrapper_that_passes_for_the_method_is_called(
    sqs: SQS, monkeypatch: pytest.MonkeyPatch, owner: Any
) -> None:
    name = "_make_api_call" if owner is BaseClient else "prepare_request"
    warm(sqs)
    told: list[object] = []
    monkeypatch.setattr(owner, name, Posing(vars(owner)[name], told))
    for _ in range(3):
        assert not is_short(sqs)
    assert len(told) >= 3
    monkeypatch.undo()
    assert is_short(sqs) or is_short(sqs)


def test_with_the_log_of_botocore_on_boto3_makes_the_calls(
    sqs: SQS, caplog: pytest.LogCaptureFixture
) -> None:
    warm(sqs)
    with caplog.at_level(logging.DEBUG, logger="botocore"):
        assert not is_short(sqs)
    assert "Making request" in caplog.text


def test_credentials_that_change_sign_the_next_request(sqs: SQS, server: Scripted) -> None:
    warm(sqs)
    client: Any = sqs.client
    given = [
        ReadOnlyCredentials("one", "two", None, None),
        ReadOnlyCredentials("three", "four", "token", None),
        ReadOnlyCredentials("three", "four", "another", None),
    ]
    credentials = client._request_signer._credentials = mock.Mock()
    for each in given:
        credentials.get_frozen_credentials.return_value = each
        for _ in range(3):
            sqs.send(URL, MESSAGES)
            headers = server.asked[-1].headers
            assert f"Credential={each.access_key}/" in headers["authorization"]
            assert headers.get("x-amz-security-token") == each.token
        assert is_short(sqs)
    credentials.get_frozen_credentials.return_value = given[1]._replace(token="a\r\nx-evil: 1")
    with pytest.raises(Exception, match="header"):
        sqs.send(URL, MESSAGES)
    assert "x-evil" not in server.asked[-1].headers


def test_no_credentials_is_the_error_of_boto3(sqs: SQS) -> None:
    warm(sqs)
    client: Any = sqs.client
    client._request_signer._credentials = None
    with pytest.raises(Exception, match="Unable to locate credentials"):
        sqs.send(URL, MESSAGES)


def test_the_trace_of_an_invocation_goes_along(
    sqs: SQS, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    for number in range(4):
        monkeypatch.setenv("_X_AMZN_TRACE_ID", f"Root=1-{number};Sampled=1")
        sqs.send(URL, MESSAGES)
        assert server.asked[-1].headers["x-amzn-trace-id"] == f"Root=1-{number};Sampled=1"
    assert is_short(sqs)
    monkeypatch.delenv("_X_AMZN_TRACE_ID")
    assert is_short(sqs)
    assert "x-amzn-trace-id" not in server.asked[-1].headers


def test_a_connection_is_kept_used_and_made_anew(sqs: SQS, server: Scripted) -> None:
    warm(sqs)
    assert len({asked.connection for asked in server.asked}) == 1
    server.script = [answer(200, DONE, end="close")]
    sqs.send(URL, MESSAGES)
    assert not is_short(sqs), "it was closed, so that boto3 opens another"
    assert is_short(sqs)
    sqs.close()
    assert not is_short(sqs)
    assert is_short(sqs) or is_short(sqs)


def test_a_late_answer_is_never_that_of_another_call(sqs: SQS, server: Scripted) -> None:
    """An answer with more than its length leaves bytes behind, which begin no other answer."""
    warm(sqs)
    more = answer(200, {"Successful": [], "Failed": []}).data
    server.script = [Answer(answer(200, DONE).data + more, "keep")]
    assert sqs.send(URL, MESSAGES) == []
    assert sqs.send(URL, MESSAGES) == []


def test_an_interrupted_call_leaves_no_answer_to_the_next_one(
    sqs: SQS, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudq_aws.lean import calls

    warm(sqs)

    class Soft(BaseException):
        pass

    def interrupted(*_: Any) -> Any:
        raise Soft

    with monkeypatch.context() as patch:
        patch.setattr(calls, "answer_of", interrupted)
        with pytest.raises(Soft):
            sqs.send(URL, MESSAGES)
    before = server.asked[-1].connection
    assert not is_short(sqs)
    assert server.asked[-1].connection != before


def test_many_threads_get_their_own_answers(sqs: SQS, server: Scripted) -> None:
    def good(asked: Asked) -> Answer:
        [entry] = __import__("json").loads(asked.body)["Entries"]
        refused = {"Id": "0", "Code": entry["MessageBody"], "SenderFault": True}
        return answer(
            200, {"Successful": [], "Failed": [refused]}, step=int(entry["MessageBody"]) % 50
        )

    server.good = good  # type: ignore[method-assign]

    def send(number: int) -> bool:
        [refused] = sqs.send(URL, [Outgoing(id="a", body=str(number).encode())])
        return refused.reason == str(number)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(send, range(100, 900)))


def test_a_closed_client_ends_no_call_that_is_under_way(sqs: SQS, server: Scripted) -> None:
    warm(sqs)
    going = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(lambda: [sqs.send(URL, MESSAGES) for _ in range(60)]) for _ in range(4)
        ]
        while not all(call.done() for call in calls):
            sqs.close()
            going.wait(0.001)
    assert [call.result() for call in calls] == [[[]] * 60] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_beside_it_has_calls_of_its_own(server: Scripted) -> None:
    from cloudq import CloudQ

    with CloudQ("forks", broker=f"sqs://?endpoint_url={server.url}") as app:

        @app.task(queue=URL)
        def noop() -> None: ...

        for _ in range(3):
            noop.delay()
        used = {asked.connection for asked in server.asked}
        child = os.fork()
        if not child:
            status = 1
            try:
                for _ in range(3):
                    noop.delay()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        asked = len(server.asked)
        noop.delay()
        assert server.asked[-1].connection in used
        assert not {one.connection for one in server.asked[asked - 3 : asked]} & used


def test_through_a_proxy_boto3_makes_the_calls(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    with closing(opened(endpoint_url="http://sqs.example.org")) as sqs:
        for _ in range(3):
            assert not is_short(sqs)
    assert server.asked[-1].lines[0] == "POST http://sqs.example.org/ HTTP/1.1"


class Secure(Scripted):
    """Answers by TLS, with a certificate for these names that its own authority has signed."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        super().__init__()
        self.authority = folder / "authority.pem"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certified(folder, names)
        self._context.load_cert_chain(folder / "server.pem")

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        return self._context.wrap_socket(sock, server_side=True), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def certified(folder: Path, names: list[str]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    root = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    made: list[x509.Certificate] = []
    for key, is_root in zip(keys, (True, False), strict=True):
        subject = root if is_root else x509.Name([])
        builder = x509.CertificateBuilder(root, subject, key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        builder = builder.add_extension(x509.BasicConstraints(is_root, None), critical=True)
        if not is_root:
            others = [x509.DNSName(name) for name in names]
            own = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([own, *others]), True)
        made.append(builder.sign(keys[0], hashes.SHA256()))
    text = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(made[0].public_bytes(text))
    kept = keys[1].private_bytes(
        text, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(kept + made[1].public_bytes(text))


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, "sqs.us-east-1.amazonaws.com"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "sqs-fips.us-east-1.amazonaws.com"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "sqs.us-east-1.api.aws"),
    ],
)
def test_endpoints_of_aws_are_asked_by_tls_with_the_users_own_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], host: str
) -> None:
    with serving(Secure(tmp_path, [host])) as server:
        server.answer = DONE
        for name, value in {**settings, "AWS_CA_BUNDLE": str(server.authority)}.items():
            monkeypatch.setenv(name, value)
        own = socket.getaddrinfo

        def near(name: str, port: int, *args: Any, **kwargs: Any) -> Any:
            assert name == host
            return own("127.0.0.1", server.server_address[1], *args, **kwargs)

        monkeypatch.setattr("socket.getaddrinfo", near)
        with closing(opened(region="us-east-1")) as sqs:
            warm(sqs)
            server.script = [answer(500, {"__type": "InternalFailure"}), Answer(end="close")]
            assert sqs.send(URL, MESSAGES) == []
        assert {asked.headers["host"] for asked in server.asked} == {host}


def test_a_server_of_a_stranger_is_refused(tmp_path: Path) -> None:
    with serving(Secure(tmp_path, [])) as server:
        url = server.url.replace("http:", "https:")
        with closing(opened(endpoint_url=url)) as sqs, pytest.raises(Exception, match="SSL"):
            sqs.send(URL, MESSAGES)
    assert not server.asked
