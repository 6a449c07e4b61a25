"""Azure Table storage's own answers: errors, lost requests, and what a URL may say."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

import azure.core.exceptions as core
import azure.servicebus.exceptions as bus
import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.data.tables import TableClient
from azure.identity import CredentialUnavailableError

from cloudq.driver import Address, Change, Code, Item, Key
from cloudq.errors import ConfigurationError
from cloudq_azure.errors import AzureError, error_code
from cloudq_azure.tables import Tables, open_backend
from cloudq_azure.tables_keys import partition_key
from localstack.servers import Endpoint
from tests.servers import SOON

ACCOUNT = "devstoreaccount1"
VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"

Answer = tuple[int, str]
OK: Answer = (204, "")


def _address(endpoint: str = "", table: str = "cloudq", account: str = ACCOUNT) -> Address:
    options = {"endpoint": endpoint} if endpoint else {}
    url = f"aztables://{account}/{table}"
    return Address(scheme="aztables", host=account, path=table, options=options, url=url)


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the status and the error code that the test says; 0 hangs up."""

    protocol_version = "HTTP/1.1"
    answer: Callable[[str, str], Answer]

    def handle_any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, code = type(self).answer(self.command, self.path)
        if not status:
            self.close_connection = True
            return
        error = {"code": code, "message": {"value": "no"}}
        keys = dict(re.findall(r"(PartitionKey|RowKey)='([^']*)'", unquote(self.path)))
        text = json.dumps({"odata.etag": "W/1", "odata.error": error} | keys)
        body = b"" if status == 204 else text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


Make = Callable[[Callable[[str, str], Answer]], Tables]


@pytest.fixture
def answering() -> Iterator[Make]:
    """Make a driver whose server gives answers that no emulator gives, by method and path."""
    servers: list[ThreadingHTTPServer] = []
    drivers: list[Tables] = []

    def make(answer: Callable[[str, str], Answer]) -> Tables:
        handler = type("Answering", (Handler,), {"answer": staticmethod(answer)})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        drivers.append(open_backend(_address(f"http://127.0.0.1:{server.server_port}/{ACCOUNT}")))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()
    for server in servers:
        server.shutdown()
        server.server_close()


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "name", "code"),
        [
            (404, "TableNotFound", Code.NOT_FOUND),
            (403, "AuthorizationPermissionMismatch", Code.DENIED),
            (403, "AuthenticationFailed", Code.CREDENTIALS),
            (401, "InvalidAuthenticationInfo", Code.CREDENTIALS),
            (403, "AccountIsDisabled", Code.DENIED),
            (503, "ServerBusy", Code.THROTTLED),
            (429, "TooManyRequests", Code.THROTTLED),
            (500, "OperationTimedOut", Code.UNREACHABLE),
            (500, "InternalError", Code.UNREACHABLE),
            (502, "", Code.UNREACHABLE),
            (400, "InvalidInput", Code.INVALID),
            (418, "SomethingNew", Code.UNKNOWN),
        ],
    )
    def test_answers_have_codes_and_come_soon(
        self,
        answering: Make,
        status: int,
        name: str,
        code: Code,
    ) -> None:
        driver = answering(lambda method, path: (status, name))
        calls: list[Callable[[], object]] = [
            driver.check_store,
            lambda: driver.get([Key("a"), Key("b")], consistent=True),
            lambda: driver.update(Key("a"), Change()),
            lambda: driver.put([Item(key=Key("a"), fields={})]),
            lambda: driver.put([Item(key=Key(f"{number}"), fields={}) for number in range(4)]),
            lambda: driver.query("a", after=None, limit=1),
        ]
        for call in calls:
            start = time.monotonic()
            with pytest.raises(Exception) as caught:
                call()
            assert driver.error_code(caught.value) is code
            assert time.monotonic() - start < SOON  # the SDK's own tries would take minutes

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    def test_what_is_refused_for_one_partition_is_a_failure(
        self, answering: Make, method: str
    ) -> None:
        unlucky = partition_key("1").replace(":", "%3A")
        driver = answering(lambda _, path: (503, "ServerBusy") if unlucky in path else OK)
        keys = [Key(f"{number}") for number in range(3)]
        failures = (
            driver.put([Item(key=key, fields={}) for key in keys])
            if method == "PUT"
            else driver.delete(keys)
        )
        assert [(failure.index, failure.code) for failure in failures] == [(1, Code.THROTTLED)]

    @pytest.mark.parametrize("name", ["AuthorizationFailure", "TableNotFound"])
    def test_a_refused_batch_is_not_tried_one_by_one(self, answering: Make, name: str) -> None:
        sent: list[str] = []

        def refuse(method: str, path: str) -> Answer:
            sent.append(method)
            return 404 if name == "TableNotFound" else 403, name

        driver = answering(refuse)
        items = [Item(key=Key("a", sort), fields={}) for sort in "abc"]
        for call in (lambda: driver.put(items), lambda: driver.delete([i.key for i in items])):
            with pytest.raises(core.HttpResponseError):
                call()
        assert sent == ["POST", "POST"]

    def test_one_refused_batch_is_so_many_failures(self, answering: Make) -> None:
        driver = answering(lambda _, path: (403, "AuthorizationFailure") if "batch" in path else OK)
        items = [Item(key=Key(name, sort), fields={}) for name, sort in ("ax", "b-", "ay")]
        failures = driver.put(items)
        assert [(one.index, one.code) for one in failures] == [(0, Code.DENIED), (2, Code.DENIED)]

    @pytest.mark.parametrize("found", [200, 404])
    def test_a_table_that_vanishes_in_an_update_is_told(self, answering: Make, found: int) -> None:
        driver = answering(
            lambda method, _: (
                (found, "ResourceNotFound") if method == "GET" else (404, "TableNotFound")
            )
        )
        with pytest.raises(core.HttpResponseError) as caught:
            driver.update(K, Change())
        assert driver.error_code(caught.value) is Code.NOT_FOUND

    def test_no_server_is_unreachable_soon(self) -> None:
        driver = open_backend(_address("http://127.0.0.1:9/devstoreaccount1"))
        start = time.monotonic()
        with pytest.raises(Exception) as caught:
            driver.check_store()
        assert driver.error_code(caught.value) is Code.UNREACHABLE
        assert time.monotonic() - start < SOON
        driver.close()

    # Azure's SDK asks an XML element if it is true, of which Python 3.12 and later warn.
    @pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")
    def test_a_wrong_key_is_told(self, tables: Endpoint) -> None:
        wrong = AzureNamedKeyCredential(ACCOUNT, "d3Jvbmc=")
        driver = Tables(TableClient(f"{tables.url}/{ACCOUNT}", "cloudq", credential=wrong))
        for call in (driver.check_store, driver.create_store, lambda: driver.update(K, Change())):
            with pytest.raises(core.HttpResponseError) as caught:
                call()
            assert driver.error_code(caught.value) is Code.CREDENTIALS
        driver.close()

    def test_no_credentials_are_told_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        driver = open_backend(_address("https://127.0.0.1:9", account="myaccount"))
        start = time.monotonic()
        with pytest.raises(core.ClientAuthenticationError) as caught:
            driver.check_store()
        assert driver.error_code(caught.value) is Code.CREDENTIALS
        assert time.monotonic() - start < SOON
        driver.close()

    def test_a_missing_table_is_told_by_every_request(self, tables: Endpoint) -> None:
        driver = open_backend(_address(f"{tables.url}/{ACCOUNT}", "nosuchtable"))
        calls: list[Callable[[], object]] = [
            lambda: driver.get([K], consistent=True),
            lambda: driver.update(K, Change()),
            lambda: driver.put([Item(key=K, fields={})]),
            lambda: driver.put([Item(key=Key("a", sort), fields={}) for sort in "abc"]),
            lambda: driver.put([Item(key=Key(name), fields={}) for name in "abc"]),
            lambda: driver.query("a", after=None, limit=1),
        ]
        for call in calls:
            with pytest.raises(core.HttpResponseError) as caught:
                call()
            assert driver.error_code(caught.value) is Code.NOT_FOUND
        driver.close()

    @pytest.mark.parametrize("found", [200, 404])
    def test_a_lost_answer_to_an_update_is_not_sent_again(
        self, answering: Make, found: int
    ) -> None:
        sent: list[str] = []

        def lose(method: str, path: str) -> Answer:
            sent.append(method)
            return (found, "ResourceNotFound") if method == "GET" else (0, "")

        driver = answering(lose)
        with pytest.raises(Exception) as caught:
            driver.update(Key("a"), Change(increment={"n": 1}))
        assert driver.error_code(caught.value) is Code.UNREACHABLE
        assert sent == ["GET", "PUT" if found == 200 else "POST"]

    @pytest.mark.parametrize(
        ("status", "name"), [(412, "UpdateConditionNotSatisfied"), (404, "ResourceNotFound")]
    )
    def test_an_update_that_is_always_overtaken_is_throttled(
        self,
        answering: Make,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        name: str,
    ) -> None:
        monkeypatch.setattr("cloudq_azure.tables._PAUSE", 0.0)
        monkeypatch.setattr("cloudq_azure.tables._RACES", 5)
        sent: list[str] = []

        def contend(method: str, path: str) -> Answer:
            sent.append(method)
            return (200, "") if method == "GET" else (status, name)

        driver = answering(contend)
        with pytest.raises(AzureError, match="too many writers") as caught:
            driver.update(Key("a"), Change(increment={"n": 1}))
        assert driver.error_code(caught.value) is Code.THROTTLED
        assert sent.count("PUT") == 5


K = Key("task#1")
KEYED = "AccountName=myaccount;AccountKey=a2V5;"


class TestUrls:
    @pytest.mark.parametrize(
        ("address", "message"),
        [
            (_address(table=""), "written aztables://myaccount/cloudq"),
            (_address(table="a/b"), "written aztables://myaccount/cloudq"),
            (_address(table="1st"), "letters and digits, 3 to 63"),
            (_address(account="My_Account"), "written aztables://myaccount/cloudq"),
            (_address("http://127.0.0.1:1", account="myaccount"), "tokens go over https only"),
            (
                Address(scheme="aztables", host="abc", path="abc", options={"region": "eu"}),
                "no option 'region'; it knows endpoint",
            ),
        ],
    )
    def test_a_wrong_url_says_what_is_right(self, address: Address, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            open_backend(address)

    @pytest.mark.parametrize(
        ("text", "endpoint", "url"),
        [
            (KEYED, "", "https://myaccount.table.core.windows.net"),
            (
                KEYED + "EndpointSuffix=core.chinacloudapi.cn;DefaultEndpointsProtocol=https",
                "",
                "https://myaccount.table.core.chinacloudapi.cn",
            ),
            (KEYED, "http://127.0.0.1:1/myaccount", "http://127.0.0.1:1/myaccount"),
            ("", "", "https://myaccount.table.core.windows.net"),
        ],
    )
    def test_the_endpoint_is_the_urls_or_the_connection_strings(
        self, monkeypatch: pytest.MonkeyPatch, text: str, endpoint: str, url: str
    ) -> None:
        monkeypatch.setenv(VARIABLE, text)
        driver = open_backend(_address(endpoint, account="myaccount"))
        assert driver.client.url.rstrip("?") == url
        driver.close()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("nonsense", "is no connection string"),
            ("AccountName=myaccount", "is no connection string"),
            ("AccountName=other;AccountKey=a2V5", "is of the account other"),
        ],
    )
    def test_a_wrong_connection_string_is_told_and_not_shown(
        self, monkeypatch: pytest.MonkeyPatch, text: str, message: str
    ) -> None:
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(ConfigurationError, match=message) as caught:
            open_backend(_address(account="myaccount"))
        assert "a2V5" not in str(caught.value)


def _bus(condition: str, **options: object) -> bus.ServiceBusError:
    return bus.ServiceBusError("no", condition=condition.encode(), **options)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (bus.MessageLockLostError(), Code.LEASE_LOST),
        (bus.SessionLockLostError(), Code.LEASE_LOST),
        (bus.MessageAlreadySettled(action="complete"), Code.LEASE_LOST),
        (bus.MessagingEntityNotFoundError(), Code.NOT_FOUND),
        (bus.MessageNotFoundError(), Code.NOT_FOUND),
        (bus.MessagingEntityDisabledError(), Code.DENIED),
        (bus.MessagingEntityAlreadyExistsError(), Code.EXISTS),
        (bus.MessageSizeExceededError(), Code.TOO_LARGE),
        (bus.ServiceBusServerBusyError(), Code.THROTTLED),
        (bus.ServiceBusQuotaExceededError(), Code.THROTTLED),
        (bus.SessionCannotBeLockedError(), Code.THROTTLED),
        (bus.ServiceBusConnectionError(), Code.UNREACHABLE),
        (bus.ServiceBusCommunicationError(condition=b"amqp:not-found"), Code.UNREACHABLE),
        (bus.OperationTimeoutError(), Code.UNREACHABLE),
        (bus.ServiceBusAuthenticationError(), Code.CREDENTIALS),
        (bus.ServiceBusAuthorizationError(), Code.DENIED),
        (bus.ServiceBusAuthorizationError(condition=b"amqp:unauthorized-access"), Code.DENIED),
        (
            bus.ServiceBusAuthorizationError(
                message="InvalidSignature: The token has an invalid signature.",
                condition=b"com.microsoft:auth-failed",
            ),
            Code.CREDENTIALS,
        ),
        (_bus("amqp:not-allowed"), Code.INVALID),
        (_bus("com.microsoft:argument-out-of-range"), Code.INVALID),
        (_bus("amqp:internal-error"), Code.UNREACHABLE),
        (_bus("com.example:other"), Code.UNKNOWN),
        (bus.ServiceBusError("Handler failed", error=TimeoutError()), Code.UNREACHABLE),
        (
            bus.ServiceBusError("Handler failed", error=CredentialUnavailableError("no")),
            Code.CREDENTIALS,
        ),
        (bus.ServiceBusError("Handler failed", error=ZeroDivisionError()), Code.UNKNOWN),
        (CredentialUnavailableError("no"), Code.CREDENTIALS),
        (core.ServiceRequestTimeoutError("no"), Code.UNREACHABLE),
        (core.ServiceResponseError("no"), Code.UNREACHABLE),
        (core.ResourceNotFoundError("no such queue"), Code.NOT_FOUND),
        (core.ResourceExistsError("there is one"), Code.EXISTS),
        (core.HttpResponseError("no answer to read"), Code.UNKNOWN),
        (ConnectionResetError(), Code.UNREACHABLE),
        (AzureError("no", code=Code.UNSUPPORTED), Code.UNSUPPORTED),
        (ValueError("none of theirs"), Code.UNKNOWN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_of_the_sdks_has_a_code(error: Exception, code: Code) -> None:
    assert error_code(error) is code
