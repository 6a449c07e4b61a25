"""A function's calls, which botocore is not loaded for, are those of boto3 and end as they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from botocore.handlers import add_recursion_detection_header

from cloudq.driver import Address
from cloudq_aws.client import Access, access
from cloudq_aws.dynamodb import DynamoDB
from cloudq_aws.lean import early, sockets
from cloudq_aws.lean.reading import Odd, reader
from cloudq_aws.lean.request import pattern_of
from cloudq_aws.lean.services import SERVICES, Shape, endpoint_of
from cloudq_aws.lean.surroundings import Keys
from cloudq_aws.sqs import SQS
from tests.adapters.aws import test_lean
from tests.adapters.aws.scripted import Scripted, answer
from tests.adapters.aws.test_lean import CALLS, FAULTS, NAMED, PARTIAL, STORES, TEXT
from tests.adapters.aws.test_lean_neighbours import Secure
from tests.support.serving import serving

pytestmark = pytest.mark.usefixtures("without_moto", "server", "no_waits", "fixed", "alone")

server, no_waits, fixed = test_lean.server, test_lean.no_waits, test_lean.fixed

KEYS = Keys("test", "test", None)
# A function does not receive.
OWN = [name for name in CALLS if not name.startswith("receive")]
_FIRST = ("none", "a reset", "two, then well")
_COMMON = ("a 500", "a reset", "a lost answer", "a cut answer")
_SOME = ("send", "update")
PAIRS = [
    (name, fault)
    for name in OWN
    for fault in FAULTS
    if name == "get" or fault in (NAMED if name in _SOME else _COMMON)
]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore is loaded here, by the tests."""
    monkeypatch.setattr(early, "is_alone", lambda: True)


def opened(server: Scripted, kind: str, operation: str) -> Any:
    options = {"endpoint_url": server.url, "client": "boto3"}
    scheme = "dynamodb" if operation in STORES else "sqs"
    reach = access(Address(scheme=scheme, options=options), options=("client",))
    if kind == "early":
        reach = Access(region=reach.region, endpoint_url=server.url, keys=KEYS)
    return DynamoDB(reach, table="table") if operation in STORES else SQS(reach)


@pytest.fixture(autouse=True)
def either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_lean, "opened", opened)
    inner = test_lean.shown

    def shown(asked: Any) -> Any:
        """The parts that are the same: all but the name of what sent it."""
        names, kept, *rest = inner(asked)
        kept.pop("user-agent")
        return names, kept, *rest

    monkeypatch.setattr(test_lean, "shown", shown)


@pytest.mark.parametrize(("name", "fault"), PAIRS)
def test_a_call_ends_as_with_boto3(
    server: Scripted, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    if fault.startswith("silence"):
        monkeypatch.setattr("cloudq_aws.sdk._READ_TIMEOUT", 0.2)
        monkeypatch.setattr("cloudq_aws.lean.early._TIMEOUT", 0.2)
    for first in (False, True) if fault in _FIRST else (False,):
        plain, ours = (
            test_lean.told(server, kind, name, FAULTS[fault], first) for kind in ("boto3", "early")
        )
        for mine, theirs in zip(ours, plain, strict=True):
            assert mine == theirs


@pytest.mark.parametrize("name", OWN)
def test_a_part_that_is_not_done_is_told_as_with_boto3(server: Scripted, name: str) -> None:
    script = [answer(200, PARTIAL[CALLS[name][0]])]
    plain, ours = (test_lean.told(server, kind, name, script, False) for kind in ("boto3", "early"))
    assert ours == plain


@pytest.mark.parametrize("name", OWN)
def test_good_calls_need_no_client_and_are_counted_all_the_same(
    server: Scripted, name: str
) -> None:
    operation, call, good = CALLS[name]
    counts: list[Any] = []
    for kind in ("boto3", "early"):
        server.answer = {**good, **CAPACITY.get(operation, {})}
        with closing(opened(server, kind, operation)) as driver:
            server.script = [test_lean.EXPIRED] if name == "replace" else []
            call(driver, driver)
            server.script = []
            counts.append(dict(driver.meter.rows()))
            if kind == "early":
                # A condition that fails is botocore's to tell.
                assert (driver.client._whole is None) == (name != "replace")
    assert counts[0] == counts[1]
    assert counts[0]


CAPACITY: dict[str, Any] = {
    "BatchGetItem": {"ConsumedCapacity": [{"TableName": "table", "CapacityUnits": 3.5}]},
    "BatchWriteItem": {"ConsumedCapacity": [{"TableName": "table", "CapacityUnits": 2.0}]},
    "UpdateItem": {"ConsumedCapacity": {"TableName": "table", "CapacityUnits": 2.0}},
    "Query": {"ConsumedCapacity": {"TableName": "table", "CapacityUnits": 0.5}},
}


def test_connections_are_kept_and_one_that_the_service_closed_is_not_used(
    server: Scripted,
) -> None:
    _, call, good = CALLS["get"]
    server.answer = good
    with closing(opened(server, "early", "BatchGetItem")) as driver:
        call(driver, driver)
        call(driver, driver)
        assert server.connections == 1
        server.script = [answer(200, good, end="close")]
        call(driver, driver)
        server.settle()  # or the next request may be on its way when the service closes
        call(driver, driver)
        assert driver.client._whole is None
    assert [asked.connection for asked in server.asked] == [1, 1, 1, 2]


def test_without_a_service_the_error_is_botocores() -> None:
    reach = Access(region="eu-west-1", endpoint_url="http://127.0.0.1:1", keys=KEYS)
    with closing(DynamoDB(reach, table="table")) as driver:
        with pytest.raises(Exception, match="Could not connect to the endpoint URL") as caught:
            CALLS["get"][1](driver, driver)
        assert driver.error_code(caught.value) == "unreachable"


def test_a_process_that_was_forked_opens_connections_of_its_own(server: Scripted) -> None:
    _, call, good = CALLS["get"]
    server.answer = good
    with closing(opened(server, "early", "BatchGetItem")) as driver:
        call(driver, driver)
        driver.client._sockets._owner = -1  # as of a parent
        call(driver, driver)
    assert [asked.connection for asked in server.asked] == [1, 2]


def test_by_tls_the_service_is_believed_whom_botocores_authorities_vouch_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, call, good = CALLS["get"]
    with serving(Secure(tmp_path, [])) as server:
        server.answer = good
        url = server.url.replace("http:", "https:")
        reach = Access(region="eu-west-1", endpoint_url=url, keys=KEYS)
        with closing(DynamoDB(reach, table="table")) as driver:
            assert driver.client._sockets.take() is None  # it is a stranger
        monkeypatch.setattr(sockets, "_context", _trusting(tmp_path, sockets._context))
        with closing(DynamoDB(reach, table="table")) as driver:
            call(driver, driver)
            call(driver, driver)
            assert driver.client._whole is None
            # botocore finishes what began, over the same connection.
            server.script = [answer(200, TEXT, length="many", end="close")]
            monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
            call(driver, driver)
    assert [asked.connection for asked in server.asked][:3] == [server.asked[0].connection] * 3


def _trusting(folder: Path, inner: Any) -> Any:
    def context() -> Any:
        made = inner()
        made.load_verify_locations(folder / "authority.pem")
        return made

    return context


# ---- what is known of the services


@pytest.mark.parametrize("token", [None, "token"])
@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "ap-southeast-2", "il-central-1"])
@pytest.mark.parametrize("service", SERVICES)
def test_requests_are_written_as_botocore_writes_them(
    monkeypatch: pytest.MonkeyPatch, service: str, region: str, token: str | None
) -> None:
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    reach = access(Address(scheme=service, options={"region": region}))
    client: Any = reach.sdk_client(service)
    seen: list[Any] = []

    def before_send(request: Any, **_: Any) -> None:
        seen.append(request)
        raise InterruptedError

    client.meta.events.register("before-send", before_send)
    url = endpoint_of(service, region, None)
    assert url is not None
    for operation in SERVICES[service].answers:
        with pytest.raises(InterruptedError):
            getattr(client, _method(operation))(**EXAMPLES[operation])
        credentials = client._request_signer._credentials.get_frozen_credentials()
        theirs = pattern_of(seen.pop(), credentials)
        ours = SERVICES[service].pattern(operation, region, url, has_token=token is not None)
        assert theirs is not None
        assert (ours.url, ours.canonical, ours.place, ours.signed, ours.has_token) == (
            theirs.url,
            theirs.canonical,
            theirs.place,
            theirs.signed,
            theirs.has_token,
        )
        assert _lines(ours.head) == _lines(theirs.head)


_KEY: dict[str, Any] = {"pk": {"S": "a"}}
_QUEUE: dict[str, Any] = {"QueueUrl": "https://sqs.eu-west-1.amazonaws.com/1/q"}
_ENTRY = {"Id": "0", "ReceiptHandle": "r"}
EXAMPLES: dict[str, dict[str, Any]] = {
    "GetQueueUrl": {"QueueName": "q"},
    "SendMessageBatch": {**_QUEUE, "Entries": [{"Id": "0", "MessageBody": "a"}]},
    "DeleteMessageBatch": {**_QUEUE, "Entries": [_ENTRY]},
    "ChangeMessageVisibilityBatch": {**_QUEUE, "Entries": [{**_ENTRY, "VisibilityTimeout": 1}]},
    "BatchGetItem": {"RequestItems": {"t": {"Keys": [_KEY]}}},
    "BatchWriteItem": {"RequestItems": {"t": [{"PutRequest": {"Item": _KEY}}]}},
    "UpdateItem": {"TableName": "t", "Key": _KEY},
    "PutItem": {"TableName": "t", "Item": _KEY},
    "Query": {"TableName": "t", "KeyConditionExpression": "pk = :a"},
}


def _method(operation: str) -> str:
    return early._WORD.sub("_", operation).lower()


def _lines(head: str) -> list[str]:
    return [line for line in head.split("\r\n") if not line.startswith("User-Agent")]


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1", "eusc-de-east-1", "local", ""])
def test_other_partitions_are_botocores(region: str) -> None:
    assert endpoint_of("sqs", region, None) is None


@pytest.mark.parametrize("given", ["https://a.example/path", "http://[::1]:80", "https://u:p@b/"])
def test_odd_addresses_are_botocores(given: str) -> None:
    assert endpoint_of("sqs", "eu-west-1", given) is None


@pytest.mark.parametrize("service", SERVICES)
def test_answers_have_the_parts_of_the_services_model(service: str) -> None:
    client: Any = access(Address(scheme=service, options={"region": "eu-west-1"})).sdk_client(
        service
    )
    model = client.meta.service_model
    for operation, shape in SERVICES[service].answers.items():
        _compare(shape, model.operation_model(operation).output_shape, set())


def _compare(ours: Any, theirs: Any, seen: set[str]) -> None:
    if isinstance(ours, Shape) and ours.name == "Nothing":
        return
    known = {"long": "integer", "float": "double"}
    assert ours.type_name == known.get(theirs.type_name, theirs.type_name)
    if ours.type_name == "list":
        _compare(ours.member, theirs.member, seen)
    elif ours.type_name == "map":
        assert theirs.key.type_name == "string"
        _compare(ours.value, theirs.value, seen)
    elif ours.type_name == "structure" and ours.name not in seen:
        seen.add(ours.name)
        for name, part in ours.members.items():
            _compare(part, theirs.members[name], seen)
            assert theirs.members[name].serialization.get("name", name) == name


def test_an_answer_with_a_part_that_is_not_known_is_botocores_to_read() -> None:
    read = reader(SERVICES["dynamodb"].answers["BatchWriteItem"])
    assert read(b'{"UnprocessedItems": {}}') == {"UnprocessedItems": {}}
    for body in (
        b'{"UnprocessedItems": {"t": []}}',
        b'{"Later": 1}',
        b'{"UnprocessedItems": null}',
    ):
        with pytest.raises(Odd):
            read(body)


def test_the_trace_is_written_as_botocore_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "shop")
    assert early._trace() == ""
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-2;Parent=ä b,\r\n3")
    headers: dict[str, str] = {}
    add_recursion_detection_header(params={"headers": headers})
    assert early._trace() == "".join(f"{name}: {value}\r\n" for name, value in headers.items())


# ---- where botocore makes all calls

_ASK = """
import json, sys
{before}
from cloudq_aws.client import access
from cloudq.driver import Address
reach = access(Address(scheme="sqs", options={options}))
print(json.dumps([reach.keys, "botocore" in sys.modules]))
"""


def asked(folder: Path, before: str = "", options: dict[str, str] | None = None, **env: str) -> Any:
    """The keys that a fresh function has of its own, and a word on botocore: is it loaded?"""
    plain = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9",
        "AWS_LAMBDA_FUNCTION_NAME": "shop",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "_X_AMZN_TRACE_ID": "Root=1",
    }
    code = _ASK.format(before=before, options=options or {})
    done = subprocess.run(
        [sys.executable, "-c", code], env=plain | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plain_function_loads_no_botocore(tmp_path: Path) -> None:
    assert asked(tmp_path) == [["key", "secret", "token"], False]
    assert asked(tmp_path, AWS_SECURITY_TOKEN="first")[0][2] == "first"


_FINDER = "class Finder:\n    def find_spec(*_): return None\nsys.meta_path.append(Finder())"
_PATCHED = "import http.client\nhttp.client.HTTPConnection.request = lambda *_: None"
_DEBUG = "import logging\nlogging.getLogger('botocore').setLevel(10)"


@pytest.mark.parametrize(
    "env",
    [
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_CA_BUNDLE": "/ca.pem"},
        {"AWS_ACCOUNT_ID": "123456789012"},
        {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/otel"},
        {"https_proxy": "http://127.0.0.1:1"},
        {"ALL_PROXY": "http://127.0.0.1:1"},
        {"REQUESTS_CA_BUNDLE": "/ca.pem"},
        {"AWS_SESSION_TOKEN": "ü"},
    ],
    ids=str,
)
def test_what_botocore_asks_for_is_left_to_it(tmp_path: Path, env: dict[str, str]) -> None:
    assert asked(tmp_path, **env) == [None, True]


@pytest.mark.parametrize("before", ["import botocore", _FINDER, _PATCHED, _DEBUG])
def test_whoever_looks_at_botocore_sees_the_calls(tmp_path: Path, before: str) -> None:
    assert asked(tmp_path, before) == [None, True]


def test_the_users_files_and_another_client_are_left_to_botocore(tmp_path: Path) -> None:
    assert asked(tmp_path, options={"region": "us-east-1"})[0] is not None
    (tmp_path / ".aws").mkdir()
    assert asked(tmp_path) == [None, True]
