"""Answers that are not Azure's, or lack what it always sends, are believed by no driver."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._pyamqp.message import Message
from azure.servicebus.exceptions import ServiceBusError

from cloudq.driver import Address, Change, Code, Item, Key
from cloudq_azure.errors import AzureError, error_code
from cloudq_azure.pulls import whole
from cloudq_azure.servicebus import ServiceBus, open_broker
from cloudq_azure.tables import Tables, open_backend
from cloudq_azure.tables_keys import partition_key
from tests.support.serving import serving

ACCOUNT = "devstoreaccount1"
PAGE = "<html>please log in</html>"


class Liar(ThreadingHTTPServer):
    """Answers each request with the status and the body that are set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body = 200, b""
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        self.cut = ""  # requests for paths with this are not answered
        self.host = f"127.0.0.1:{self.server_port}"

    def give(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Liar

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(self.command)
        if self.server.cut and self.server.cut in unquote(self.path):
            self.close_connection = True
            return
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.body)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    with serving(Liar()) as server:
        yield server


@pytest.fixture
def tables(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    # The tries that the SDK makes of a cut answer, without its pauses.
    monkeypatch.setattr("cloudq_azure.tables_client._RETRIES", 0)
    options = {"endpoint": f"http://{liar.host}/{ACCOUNT}"}
    url = Address(scheme="aztables", host=ACCOUNT, path="cloudq", options=options)
    with closing(open_backend(url)) as driver:
        yield driver


@pytest.fixture
def bus(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceBus]:
    monkeypatch.setattr("cloudq_azure.client._RETRIES", 0)
    options = {"emulator": "true", "admin": liar.host}
    with closing(
        open_broker(Address(scheme="servicebus", host="127.0.0.1:9", options=options))
    ) as driver:
        yield driver


def is_unreachable(call: Callable[[], object]) -> None:
    with pytest.raises(Exception) as error:
        call()
    assert error_code(error.value) is Code.UNREACHABLE, error.value


KEY = Key("a", "-")
ITEM = Item(key=KEY, fields={"n": 1})
ANOTHER = Item(key=Key("a", "b"), fields={"n": 1})
CALLS: dict[str, Callable[[Tables], object]] = {
    "put": lambda driver: driver.put([ITEM]),
    "put two": lambda driver: driver.put([ITEM, ANOTHER]),
    "delete": lambda driver: driver.delete([KEY]),
    "get": lambda driver: driver.get([KEY], consistent=True),
    "update": lambda driver: driver.update(KEY, Change(set={"n": 1})),
    "query": lambda driver: driver.query("a", after=None, limit=2),
    "sweep": lambda driver: driver.sweep(),
}
READS = ("get", "update", "query", "sweep")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("body", ["", PAGE, '{"value": [', "[]", "null", '"x"', "{}"])
def test_what_is_no_answer_of_tables_is_an_error(
    liar: Liar, tables: Tables, call: str, body: str
) -> None:
    liar.give(200, body)
    is_unreachable(lambda: CALLS[call](tables))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [404, 409, 412])
@pytest.mark.parametrize("body", ["", PAGE, "[]", "{}", '{"odata.error": "x"}'])
def test_a_page_does_not_say_what_is_there(
    liar: Liar, tables: Tables, call: str, status: int, body: str
) -> None:
    liar.give(status, body)
    is_unreachable(lambda: CALLS[call](tables))


@pytest.mark.parametrize("body", ["", PAGE, "--x", "{}"])
def test_a_transaction_without_its_parts_has_written_nothing(
    liar: Liar, tables: Tables, body: str
) -> None:
    liar.give(202, body)
    is_unreachable(lambda: tables.put([ITEM, ANOTHER]))


WHOLE: dict[str, Any] = {
    "odata.etag": "W/1",
    "PartitionKey": partition_key("a"),
    "RowKey": "-",
    "f_n": 1,
}
WRONG: dict[str, dict[str, Any]] = {
    "no etag or key": {"PartitionKey": None},
    "a key of another type": {"RowKey": 7},
    "another's key": {"PartitionKey": "b"},
    "a value that is null": {"f_n": None},
    "a list": {"f_n": [1]},
    "a map": {"f_n": {}},
    "no number": {"f_n": "one", "f_n@odata.type": "Edm.Int64"},
    "no bytes": {"f_n": 7, "f_n@odata.type": "Edm.Binary"},
    "an end that is no text": {"expires": 7, "expires@odata.type": "Edm.DateTime"},
}


@pytest.mark.parametrize("case", WRONG)
def test_an_entity_with_parts_of_other_types_is_no_item(
    liar: Liar, tables: Tables, case: str
) -> None:
    entity = WHOLE | WRONG[case]
    liar.give(200, entity)
    is_unreachable(lambda: CALLS["get"](tables))
    is_unreachable(lambda: CALLS["update"](tables))
    liar.give(200, {"value": [entity]})
    is_unreachable(lambda: CALLS["query"](tables))


@pytest.mark.parametrize(
    "odd",
    [
        {"t_m": "x"},
        {"s_m": "{"},
        {"s_m": "[1]"},
        {"s_m": "7"},
        {"n_m": "x"},
        {"expires": "soon"},
    ],
    ids=str,
)
def test_what_another_program_wrote_into_an_entity_is_left_out(
    liar: Liar, tables: Tables, odd: dict[str, Any]
) -> None:
    liar.give(200, WHOLE | odd)
    item = tables.get([KEY], consistent=True)[KEY]
    assert (item.fields, item.expires) == ({"n": 1}, None)


@pytest.mark.parametrize("value", [None, {}, "x", [None], ["x"], [7], [[]]])
def test_a_list_of_other_things_is_no_list_of_entities(
    liar: Liar, tables: Tables, value: Any
) -> None:
    liar.give(200, {"value": value})
    is_unreachable(lambda: CALLS["query"](tables))


@pytest.mark.parametrize("rows", ["aa", "ba", "b0", "0"])
def test_entities_that_are_not_behind_the_last_one_are_no_answer(
    liar: Liar, tables: Tables, rows: str
) -> None:
    liar.give(200, {"value": [WHOLE | {"RowKey": row} for row in rows]})
    is_unreachable(lambda: tables.query("a", after="1", limit=5))


@pytest.mark.parametrize("call", ["query", "sweep"])
def test_a_page_that_is_said_to_follow_itself_is_no_answer(
    liar: Liar, tables: Tables, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query never ended."""
    name = "x-ms-continuation-NextPartitionKey"
    monkeypatch.setattr(liar, "headers", {name: "1!4!YQ--"})
    liar.give(200, {"value": []})
    liar.asked.clear()
    is_unreachable(lambda: CALLS[call](tables))
    assert len(liar.asked) == 2


@pytest.mark.parametrize("call", ["put", "delete"])
def test_a_connection_that_breaks_fails_its_own_items_alone(
    liar: Liar, tables: Tables, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar.give(204, "")
    monkeypatch.setattr(liar, "cut", partition_key("b"))
    keys = [Key("a", "-"), Key("b", "-"), Key("c", "-")]
    if call == "put":
        refused = tables.put([Item(key=key, fields={"n": 1}) for key in keys])
    else:
        refused = tables.delete(keys)
    assert [(failure.index, failure.code) for failure in refused] == [(1, Code.UNREACHABLE)]


def test_the_services_own_answers_are_believed(liar: Liar, tables: Tables) -> None:
    liar.give(200, WHOLE)
    assert tables.get([KEY], consistent=True)[KEY].fields == {"n": 1}
    liar.give(200, {"value": []})
    assert tables.query("a", after=None, limit=2).items == []
    liar.give(404, {"odata.error": {"code": "ResourceNotFound", "message": {"value": "no"}}})
    assert tables.get([KEY], consistent=True) == {}
    assert not tables.delete([KEY])


# ---- Service Bus

ADMIN: dict[str, Callable[[ServiceBus], object]] = {
    "create": lambda driver: driver.create("q", lease=30, max_deliveries=5),
    "list": lambda driver: driver.list(),
    "stats": lambda driver: driver.stats("q"),
}
ENTRY = '<entry xmlns="http://www.w3.org/2005/Atom">{}</entry>'
DESCRIPTION = (
    '<content type="application/xml"><QueueDescription '
    'xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"/></content>'
)


@pytest.mark.parametrize("call", ADMIN)
@pytest.mark.parametrize("body", ["", PAGE, "{}", "<feed", '<?xml version="1.0"?><html></html>'])
def test_what_is_no_answer_about_queues_is_an_error(
    liar: Liar, bus: ServiceBus, call: str, body: str
) -> None:
    liar.give(200, body)
    is_unreachable(lambda: ADMIN[call](bus))


def test_a_queue_without_counts_is_an_error(liar: Liar, bus: ServiceBus) -> None:
    liar.give(200, ENTRY.format(DESCRIPTION))
    is_unreachable(lambda: bus.stats("q"))


def received(tag: bytes | None, number: int | None) -> ServiceBusReceivedMessage:
    annotations = {} if number is None else {b"x-opt-sequence-number": number}
    message = Message(data=[b"x"], message_annotations=annotations)
    frame = [None, None, tag]
    return ServiceBusReceivedMessage(message, receiver=None, frame=frame)


def test_a_message_without_a_lock_or_a_number_is_left_for_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tag = uuid.uuid4().bytes_le
    good = received(tag, 1)
    assert whole([]) == []
    found = whole([good, received(None, 2), received(b"short", 3), received(tag, 1)])
    assert [message.sequence_number for message in found] == [1]
    assert "left for later" in caplog.text
    for cut in (received(None, 1), received(b"short", 1), received(tag, None)):
        with pytest.raises(AzureError, match="a message's lock or number"):
            whole([cut])


@pytest.mark.parametrize("cause", [KeyError(b"expirations"), TypeError("x"), AttributeError("x")])
def test_what_the_sdk_misses_in_an_answer_is_unreachable(cause: Exception) -> None:
    assert error_code(ServiceBusError("Handler failed", error=cause)) is Code.UNREACHABLE
