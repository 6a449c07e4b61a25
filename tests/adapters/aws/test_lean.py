"""The short way of frequent calls does on the wire, and after every fault, what boto3 does.

Each call is made by both ways: after some good ones, over a kept connection, and as the first.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from zlib import crc32

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cloudq.driver import Address, Change, Delivery, Item, Key, Outgoing
from cloudq.errors import ConfigurationError
from cloudq_aws.dynamodb import DynamoDB, open_backend
from cloudq_aws.sqs import SQS, open_broker
from tests.adapters.aws.scripted import Answer, Asked, Scripted, answer
from tests.support.serving import serving

pytestmark = pytest.mark.usefixtures("without_moto")

URL = "http://127.0.0.1/000000000000/default"
TEXTS = "ü\u2028".encode()
KEY = Key("task#1", "-")
ROW = {"pk": {"S": "task#1"}, "sk": {"S": "-"}, "a": {"N": "1"}, "t": {"S": "ü\u2028"}}
BYTES = {**ROW, "b": {"B": "AAEC"}}
MESSAGE: dict[str, Any] = {
    "MessageId": "1",
    "Body": "x",
    "ReceiptHandle": "r",
    "MD5OfBody": "9dd4e461268c8034f5c8564e155c67a6",
    "Attributes": {"ApproximateReceiveCount": "2", "SentTimestamp": "1000"},
    "MessageAttributes": {"cloudq-id": {"StringValue": "a", "DataType": "String"}},
    "New": {"of": ["a", "later", "release"]},
}


def delivered(receipt: str = "r") -> Delivery:
    return Delivery(queue=URL, id="a", body=b"x", receipt=receipt, attempts=1, lease=60)


Call = Callable[[SQS, DynamoDB], object]

CALLS: dict[str, tuple[str, Call, Any]] = {
    "send": (
        "SendMessageBatch",
        lambda sqs, _: sqs.send(
            URL, [Outgoing(id="a", body=TEXTS), Outgoing(id="b", body=b"", delay=3.0)]
        ),
        {
            "Successful": [{"Id": "0", "MessageId": "1", "MD5OfMessageBody": "x"}],
            "Failed": [{"Id": "1", "Code": "InternalError", "SenderFault": False}],
        },
    ),
    "receive": (
        "ReceiveMessage",
        lambda sqs, _: sqs.receive(URL, count=10, wait=1, lease=60),
        {"Messages": [MESSAGE]},
    ),
    "receive nothing": (
        "ReceiveMessage",
        lambda sqs, _: sqs.receive(URL, count=1, wait=0, lease=1),
        {},
    ),
    "receive null": (
        "ReceiveMessage",
        lambda sqs, _: sqs.receive(URL, count=1, wait=0, lease=1),
        {"Messages": None},
    ),
    "ack": (
        "DeleteMessageBatch",
        lambda sqs, _: sqs.ack([delivered(), delivered("s")]),
        {
            "Successful": [{"Id": "0"}],
            "Failed": [{"Id": "1", "Code": "ReceiptHandleIsInvalid", "SenderFault": True}],
        },
    ),
    "extend": (
        "ChangeMessageVisibilityBatch",
        lambda sqs, _: sqs.extend([delivered()], lease=30),
        {"Successful": [{"Id": "0"}], "Failed": []},
    ),
    "put": (
        "BatchWriteItem",
        lambda _, store: store.put([Item(key=KEY, fields={"a": 1, "b": b"\x00\xff", "c": 2.0})]),
        {"UnprocessedItems": {}},
    ),
    "get": (
        "BatchGetItem",
        lambda _, store: store.get([KEY], consistent=False),
        {"Responses": {"table": [ROW]}, "UnprocessedKeys": {}},
    ),
    "get bytes": (
        "BatchGetItem",
        lambda _, store: store.get([KEY], consistent=True),
        {"Responses": {"table": [BYTES]}, "UnprocessedKeys": {}},
    ),
    "update": (
        "UpdateItem",
        lambda _, store: store.update(KEY, Change(set={"a": 1, "b": b"\x01"})),
        {"Attributes": ROW},
    ),
    "replace": (  # of an item that has expired, on which the condition of an update fails
        "PutItem",
        lambda _, store: store.update(KEY, Change(set={"a": 1, "b": b"\x01"})),
        {},
    ),
    "query": (
        "Query",
        lambda _, store: store.query("task#1", after=None, limit=10),
        {"Items": [ROW], "Count": 1, "ScannedCount": 1},
    ),
}


def refused(status: int, name: str, text: str = "on purpose", **headers: str) -> Answer:
    return answer(status, {"__type": f"com.amazonaws#{name}", "message": text}, headers)


CONDITION = {"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"}
EXPIRED = answer(400, {**CONDITION, "Item": {**ROW, "expires": {"N": "1"}}})
# Answers that are right, or nearly, for every call.
BODY = {"Messages": [], "Successful": [], "Responses": {"table": []}, "Attributes": ROW}
BODY |= {"UnprocessedItems": {}, "UnprocessedKeys": {}, "Items": [], "Count": 0}
TEXT = json.dumps(BODY).encode()


def chunked(text: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text) + end


CHUNKS = {"Transfer-Encoding": "chunked"}
NAMED: dict[str, list[Answer]] = {
    "none": [],
    "throttled": [refused(400, "ThrottlingException")],
    "throttled for ever": [refused(400, "RequestThrottled")] * 9,
    "a 500": [refused(500, "InternalFailure")],
    "500s for ever": [refused(500, "InternalFailure")] * 9,
    "a reset": [Answer(end="reset")],
    "a lost answer": [Answer(end="close")],
    "a cut answer": [answer(200, BODY, part=0.5)],
    "the clock": [
        refused(
            400, "InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier"
        ),
        refused(403, "RequestTimeTooSkewed", Date="Thu, 01 Jan 2026 00:00:00 GMT"),
    ],
    "expired credentials": [refused(400, "ExpiredTokenException")],
    "a redirect": [answer(307, b"", {"Location": "http://127.0.0.1:1/"})],
    "two, then well": [refused(500, "InternalFailure"), refused(400, "ThrottlingException")],
}
MORE: dict[str, list[Answer]] = {
    "throttled with advice": [
        answer(503, {"__type": "SlowDown"}, {"x-amz-retry-after": "1500", "Retry-After": "3"})
    ],
    "a 429 of a proxy": [answer(429, b"too many")],
    "a 503 of a proxy": [answer(503, b"<html><body>Service Unavailable</body></html>")],
    "an empty 500": [answer(500, b"")],
    "resets for ever": [Answer(end="reset")] * 9,
    "half a head": [Answer(b"HTTP/1.1 200 OK\r\nContent-Len")],
    "half a head, and a reset": [Answer(b"HTTP/1.1 200 OK\r\nContent-Len", "reset")],
    "half a body, and a reset": [answer(200, BODY, part=0.5, end="reset")],
    "no body": [answer(200, BODY, part=0.0)],
    "silence": [Answer(end="stall")],
    "silence in the head": [Answer(b"HTTP/1.1 200 OK\r\n", "stall")],
    "silence in the body": [answer(200, BODY, part=0.5, end="stall")],
    "bytes of nobody": [Answer(b"\x00\xff\r\n\r\n\r\n")],
    "another protocol": [Answer(b"SSH-2.0-OpenSSH_9.6\r\n")],
    "a page": [answer(200, b"<html>please log in</html>")],
    "a list": [answer(200, [1, 2])],
    "a text": [answer(200, "text")],
    "null": [answer(200, None)],
    "nothing": [answer(200, b"")],
    "no UTF-8": [answer(200, b'{"a": "\xff\xfe"}')],
    "a lone surrogate": [answer(200, rb'{"a": "\ud800"}')],
    "deep": [answer(200, b'{"a": ' * 5000 + b"1" + b"}" * 5000)],
    "odd numbers": [answer(200, b'{"a": NaN, "b": 123456789012345678901234567890}')],
    "other types": [answer(200, dict.fromkeys(BODY, 5))],
    "nulls": [answer(200, dict.fromkeys(BODY))],
    "nulls in lists": [answer(200, {**BODY, "Messages": [None], "Successful": [None]})],
    "one name twice": [answer(200, TEXT[:-1] + b', "Items": [], "Count": 0}')],
    "a permanent redirect": [answer(301, b"moved", {"Location": "https://example.org/"})],
    "another good status": [answer(202, BODY)],
    "no content": [answer(204, b"")],
    "no rights": [refused(400, "AccessDeniedException")],
    "a 403 of a proxy": [answer(403, b"<html>who are you</html>")],
    "no queue": [
        refused(
            400,
            "QueueDoesNotExist",
            **{"x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender"},
        )
    ],
    "a condition": [answer(400, {**CONDITION, "Item": BYTES})],
    "an error of no name": [answer(400, {"message": "bad"})],
    "an unknown signature": [refused(403, "SignatureDoesNotMatch")],
    "an unknown token": [refused(403, "UnrecognizedClientException")],
    "a cut error": [answer(500, {"__type": "InternalFailure"}, part=0.5)],
}
# Answers as servers and proxies may write them.
FORMS: dict[str, list[Answer]] = {
    "in chunks": [answer(200, chunked(TEXT), CHUNKS, length=None)],
    "cut chunks": [answer(200, chunked(TEXT)[:40], CHUNKS, length=None, end="close")],
    "wrong chunks": [answer(200, b"zz\r\n" + TEXT, CHUNKS, length=None, end="close")],
    "chunks and a length": [answer(200, chunked(TEXT), CHUNKS)],
    "an error in chunks": [answer(500, chunked(b'{"__type": "Oh"}'), CHUNKS, length=None)],
    "zipped": [answer(200, gzip.compress(TEXT), {"Content-Encoding": "gzip"})],
    "named as it is": [answer(200, TEXT, {"Content-Encoding": "identity"})],
    "until the end": [answer(200, TEXT, length=None, end="close")],
    "of HTTP/1.0": [answer(200, TEXT, version="1.0", end="close")],
    "of HTTP/1.0, kept": [answer(200, TEXT, {"Connection": "keep-alive"}, version="1.0")],
    "the last one": [answer(200, TEXT, {"Connection": "close"}, end="close")],
    "kept in capitals": [answer(200, TEXT, {"CONNECTION": "Keep-Alive"})],
    "go on, then well": [Answer(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(200, TEXT).data, "keep")],
    "byte by byte": [answer(200, TEXT, step=1)],
    "in packets": [answer(200, TEXT, step=97)],
    "two lengths": [answer(200, TEXT, {"content-length": "3"})],
    "a length that is none": [answer(200, TEXT, length="many", end="close")],
    "a negative length": [answer(200, TEXT, length="-1", end="close")],
    "a length in other digits": [answer(200, TEXT, length="\u00b2", end="close")],
    "too long a length": [answer(200, TEXT, length="99999", end="close")],
    "too short a length": [answer(200, TEXT, length="20", end="close")],
    "a folded header": [answer(200, TEXT, {"x-note": "one\r\n two"})],
    "a line without a colon": [answer(200, TEXT, {"x-note": "one\r\nnothing"}, end="close")],
    "a header twice": [answer(200, TEXT, {"x-note": "one", "X-Note": "two"})],
    "a large header": [answer(200, TEXT, {"x-note": "a" * 70_000})],
    "many headers": [answer(200, TEXT, {f"x-{n}": "a" for n in range(150)})],
    "newlines alone": [Answer(answer(200, TEXT).data.replace(b"\r\n", b"\n"), "close")],
    "a right sum": [answer(200, TEXT, {"x-amz-crc32": str(crc32(TEXT))})],
    "a wrong sum": [answer(200, TEXT, {"x-amz-crc32": "1"})],
    "no sum": [answer(200, TEXT, {"x-amz-crc32": "many"})] * 3,
    "large": [answer(200, {**BODY, "ConsumedCapacity": None, "note": "a" * 3_000_000})],
}
FAULTS = NAMED | MORE | FORMS
# What a service does not do of one request, or sends of it only in part.
PARTIAL: dict[str, Any] = {
    "SendMessageBatch": CALLS["send"][2],
    "DeleteMessageBatch": CALLS["ack"][2],
    "ChangeMessageVisibilityBatch": {
        "Successful": [],
        "Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}],
    },
    "ReceiveMessage": {"Messages": [{**MESSAGE, "Body": ""}, MESSAGE]},
    "BatchWriteItem": {
        "UnprocessedItems": {
            "table": [{"PutRequest": {"Item": {"pk": ROW["pk"], "sk": ROW["sk"]}}}]
        }
    },
    "BatchGetItem": {"Responses": {"table": []}, "UnprocessedKeys": {"table": {"Keys": [ROW]}}},
    "UpdateItem": {"Attributes": {**ROW, "pk": {"S": "another"}}},
    "PutItem": {"Attributes": ROW},
    "Query": {
        "Items": [ROW],
        "Count": 1,
        "LastEvaluatedKey": {"pk": ROW["pk"], "sk": ROW["sk"]},
    },
}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving(Scripted()) as server:
        yield server


@pytest.fixture(autouse=True)
def no_waits(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait up to seconds, by chance: here until the server has closed what it will close.

    Whether a client notices that a connection was closed before it sends, or after, would else
    depend on which is faster.
    """
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: server.settle())
    monkeypatch.setattr("cloudq_aws.dynamodb.time.sleep", lambda _: server.settle())


# What differs from one request to the next.
_OWN = frozenset({"authorization", "x-amz-date", "content-length", "host"})
# The end of the retries, and which features of the SDK were used, which AWS counts.
_STATISTICS = re.compile("ttl=[^;]*; | m/[^ ]*")
_SIGNED = re.compile("Credential=([^,]*), SignedHeaders=([^,]*), Signature=[0-9a-f]{64}")


def signature_of(asked: Asked) -> str:
    """The header with which botocore signs a request that came, at its own time."""
    headers = {name: asked.headers[name] for name in asked.headers if name != "authorization"}
    signed = re.search("SignedHeaders=([^,]*)", asked.headers["authorization"])
    assert signed is not None
    names = signed[1].split(";")
    request = AWSRequest(
        "POST",
        f"http://{headers['host']}/",
        {name: value for name, value in headers.items() if name in names},
        asked.body,
    )
    request.context["timestamp"] = headers["x-amz-date"]
    _, region, service = asked.headers["authorization"].split("/")[1:4]
    signer = SigV4Auth(Credentials("test", "test"), service, region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return f"Signature={signer.signature(text, request)}"


def shown(asked: Asked) -> tuple[Any, ...]:
    """The parts of a request that are the same by either way, its lines in their order."""
    assert asked.headers["authorization"].endswith(signature_of(asked))
    signed = _SIGNED.search(asked.headers["authorization"])
    assert signed is not None
    names = [line.partition(":")[0] for line in asked.lines]
    kept = {n: _STATISTICS.sub("", v) for n, v in asked.headers.items() if n not in _OWN}
    kept.pop("amz-sdk-invocation-id")
    return names, kept, signed.groups(), json.loads(asked.body)


def told(server: Scripted, kind: str, name: str, script: list[Answer], first: bool) -> list[Any]:
    """Make a call by a kind of client; return its outcome, all requests, and one more call."""
    operation, call, good = CALLS[name]
    before = [EXPIRED] if name == "replace" else []
    server.answer = good
    driver = opened(server, kind, operation)
    with closing(driver):
        for _ in range(0 if first else 2):
            server.script = [*before]
            call(driver, driver)
        if kind == "lean" and not first:
            assert operation in driver.client._make_api_call._ways
        server.asked.clear()
        server.script = [*before, *script]
        outcome = [outcome_of(call, driver)]
        tries = [shown(asked) for asked in server.asked]
        ids = [asked.headers["amz-sdk-invocation-id"] for asked in server.asked]
        used = [ids.index(id) for id in ids]
        server.settle()
        server.script = [*before]
        server.asked.clear()
        outcome.append(outcome_of(call, driver))
        return [*outcome, tries, used, [shown(asked) for asked in server.asked]]


def opened(server: Scripted, kind: str, operation: str) -> Any:
    options = {"endpoint_url": server.url, "client": kind}
    if operation in STORES:
        return open_backend(Address(scheme="dynamodb", host="table", options=options))
    return open_broker(Address(scheme="sqs", options=options))


def outcome_of(call: Call, driver: Any) -> object:
    try:
        return call(driver, driver)
    except Exception as error:
        text = re.sub(r"reached max retries: \d|127\.0\.0\.1:\d+|0x[0-9a-f]+", "", str(error))
        made = type(error).__name__, driver.error_code(error), text
        return *made, getattr(error, "current", None), driver.advice(error), cause_of(error)


def cause_of(error: BaseException) -> str:
    """The text of what botocore itself met."""
    return re.sub(r"127\.0\.0\.1:\d+|0x[0-9a-f]+|port=\d+", "", repr(getattr(error, "kwargs", "")))


STORES = frozenset({"BatchWriteItem", "BatchGetItem", "UpdateItem", "PutItem", "Query"})
# Each call meets each fault that has a name among AWS's own. How answers are written is the same
# for all calls, so that some meet the rest.
_WHOLE = ("send", "receive", "get", "update")
_FIRST = ("none", "a reset", "two, then well")
PAIRS = [(name, fault) for name in CALLS for fault in FAULTS if name in _WHOLE or fault in NAMED]


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times in conditions are the same by either way."""
    monkeypatch.setattr("cloudq_aws.dynamodb.time.time", lambda: 1e9)


@pytest.mark.parametrize(("name", "fault"), PAIRS)
def test_a_call_ends_as_with_boto3(
    server: Scripted, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    if fault.startswith("silence"):
        monkeypatch.setattr("cloudq_aws.sdk._READ_TIMEOUT", 0.2)
    for first in (False, True) if fault in _FIRST else (False,):
        plain, lean = (told(server, kind, name, FAULTS[fault], first) for kind in ("boto3", "lean"))
        for ours, theirs in zip(lean, plain, strict=True):
            assert ours == theirs
        assert plain[2]


@pytest.mark.parametrize("name", CALLS)
def test_a_part_that_is_not_done_is_told_as_with_boto3(server: Scripted, name: str) -> None:
    script = [answer(200, PARTIAL[CALLS[name][0]])]
    plain, lean = (told(server, kind, name, script, False) for kind in ("boto3", "lean"))
    assert lean == plain


def test_each_call_of_the_table_is_one_that_is_hastened() -> None:
    from cloudq_aws.lean.calls import _OPERATIONS

    assert {operation for operation, _, _ in CALLS.values()} == set().union(*_OPERATIONS.values())


def test_another_client_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is lean or boto3"):
        open_broker(Address(scheme="sqs", options={"client": "curl", "region": "eu-west-1"}))
