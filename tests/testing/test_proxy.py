"""The proxy before a service fails requests as it says, and drivers come through them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest

from cloudq.canvas.join_items import count_member
from cloudq.canvas.slots import join_key
from cloudq.driver import Address, Item, Key
from cloudq.errors import BackendError
from cloudq.results.backend import Backend
from cloudq.testing import Fault, FaultProxy, outgoing
from cloudq_aws.dynamodb import DynamoDB, open_backend
from cloudq_aws.partial import held_back
from cloudq_aws.sqs import SQS, open_broker
from localstack.servers import Endpoint
from tests.servers import unique


@pytest.fixture
def proxy(aws: Endpoint) -> Iterator[FaultProxy]:
    with FaultProxy(aws.url, seed=4, slow=0.05, batches=held_back) as proxy:
        yield proxy


@pytest.fixture
def sqs(proxy: FaultProxy) -> Iterator[SQS]:
    with closing(open_broker(Address(scheme="sqs", options={"endpoint_url": proxy.url}))) as driver:
        yield driver


@pytest.fixture
def queue(sqs: SQS) -> Iterator[str]:
    name = unique("proxy")
    sqs.create(name, lease=30.0, max_deliveries=9)
    yield name
    sqs.delete(name)


@pytest.fixture
def table(proxy: FaultProxy) -> Iterator[DynamoDB]:
    address = Address(scheme="dynamodb", host=unique("t"), options={"endpoint_url": proxy.url})
    with closing(open_backend(address)) as driver:
        driver.create_store()
        yield driver
        proxy.chances = {}
        driver.client.delete_table(TableName=address.host)


def ask(proxy: FaultProxy) -> tuple[int, bytes]:
    """Make one request, as no SDK would: without another try."""
    place = urlsplit(proxy.url)
    with closing(http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)) as link:
        headers = {
            "X-Amz-Target": "AmazonSQS.ListQueues",
            "Content-Type": "application/x-amz-json-1.0",
        }
        link.request("POST", "/", b"{}", headers)
        reply = link.getresponse()
        return reply.status, reply.read()


def test_without_chances_it_passes_all_on(proxy: FaultProxy) -> None:
    status, body = ask(proxy)
    assert (status, type(json.loads(body))) == (200, dict)
    assert (proxy.requests, proxy.counts.total()) == (1, 0)


@pytest.mark.parametrize(("fault", "status"), [(Fault.ERROR, 500), (Fault.THROTTLED, 400)])
def test_an_error_is_the_services_own(proxy: FaultProxy, fault: Fault, status: int) -> None:
    proxy.chances = {fault: 1.0}
    answered, body = ask(proxy)
    assert (answered, "__type" in json.loads(body)) == (status, True)
    assert proxy.counts == {fault: 1}


def test_an_empty_answer_is_a_200(proxy: FaultProxy) -> None:
    proxy.chances = {Fault.EMPTY: 1.0}
    assert ask(proxy) == (200, b"")


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER])
def test_a_reset_leaves_no_answer(proxy: FaultProxy, fault: Fault) -> None:
    proxy.chances = {fault: 1.0}
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(proxy)


def test_a_cut_answer_is_shorter_than_it_says(proxy: FaultProxy) -> None:
    proxy.chances = {Fault.CUT: 1.0}
    with pytest.raises(http.client.IncompleteRead):
        ask(proxy)


@pytest.mark.parametrize("size", [1, 5])
def test_a_batch_may_fail_in_one_element(
    proxy: FaultProxy, sqs: SQS, queue: str, size: int
) -> None:
    proxy.chances = {Fault.PARTIAL: 1.0}
    refused = sqs.send(queue, [outgoing(body=f"{n}".encode()) for n in range(size)])
    assert len(refused) == 1
    assert 0 <= refused[0].index < size
    proxy.chances = {}
    assert sqs.stats(queue).ready == size - 1


def test_what_dynamodb_left_undone_is_done_by_the_driver(
    proxy: FaultProxy, table: DynamoDB
) -> None:
    items = [Item(key=Key("p", f"{n:02d}"), fields={"n": n}) for n in range(20)]
    proxy.chances = {Fault.PARTIAL: 0.5}
    assert table.put(items) == []
    found = table.get([item.key for item in items], consistent=True)
    assert sorted(item.fields["n"] for item in found.values()) == list(range(20))  # type: ignore[type-var]
    assert proxy.counts[Fault.PARTIAL] > 0


def test_no_fault_makes_an_item_seem_missing(proxy: FaultProxy, table: DynamoDB) -> None:
    key = Key("p", "there")
    table.put([Item(key=key, fields={"n": 1})])
    proxy.chances = dict.fromkeys(Fault, 0.07)
    backend = Backend(table, url="dynamodb://", expires=60.0)
    for _ in range(40):
        with suppress(BackendError):  # the SDK's tries may all fail
            assert backend.get([key])[key].fields == {"n": 1}
    assert proxy.counts.total() > 5


def test_members_that_are_added_through_lost_answers_are_counted_once(
    proxy: FaultProxy, table: DynamoDB
) -> None:
    backend = Backend(table, url="dynamodb://", expires=60.0)
    table.put([Item(key=join_key("j"), fields={"follows": "{}", "count": 2})])
    proxy.chances = {Fault.RESET_AFTER: 0.1, Fault.CUT: 0.05}
    with ThreadPoolExecutor(4) as threads:
        places = list(threads.map(lambda n: count_member("j", f"late-{n}", backend), range(24)))
    proxy.chances = {}
    fields = table.get([join_key("j")], consistent=True)[join_key("j")].fields
    assert sorted(places) == list(range(1, 25))
    assert (fields["count"], fields["added"]) == (26, 24)
    assert proxy.counts[Fault.RESET_AFTER] + proxy.counts[Fault.CUT] > 0
