"""The meters of SQS and DynamoDB count what their clients send, as it is billed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import orjson
import pytest
from botocore.exceptions import ConnectionClosedError

from cloudq.driver import Address, Change, Check, ConditionFailed, Item, Key, OneTimeEntry, Op
from cloudq.driver.billing import DELETE, GET, LOOK, PUT, QUERY, SCHEDULE, UPDATE
from cloudq.testing import outgoing
from cloudq.testing.waiting import HELD
from cloudq_aws.dynamodb import DynamoDB, open_backend
from cloudq_aws.eventbridge import open_scheduler
from cloudq_aws.sqs import SQS, open_broker
from localstack.servers import Endpoint
from tests.servers import unique


@pytest.fixture(params=["lean", "boto3"])
def sqs(aws: Endpoint, request: pytest.FixtureRequest) -> Iterator[SQS]:
    options = {"endpoint_url": aws.url, "client": request.param, "prefix": "shop-"}
    driver = open_broker(Address(scheme="sqs", options=options))
    yield driver
    driver.close()


@pytest.fixture(params=["lean", "boto3"])
def dynamodb(aws: Endpoint, request: pytest.FixtureRequest) -> Iterator[DynamoDB]:
    options = {"endpoint_url": aws.url, "client": request.param}
    driver = open_backend(Address(scheme="dynamodb", host=unique("table"), options=options))
    driver.create_store()
    yield driver
    driver.close()


@pytest.fixture(params=["", ".fifo"])
def queue(sqs: SQS, request: pytest.FixtureRequest) -> Iterator[str]:
    name = unique() + request.param
    sqs.create(name, lease=30, max_deliveries=5)
    yield name
    sqs.delete(name)


def sent(driver: SQS | DynamoDB) -> list[str]:
    """The requests that go to the service from now on, each try of its own."""
    seen: list[str] = []
    driver.client.meta.events.register(
        "before-send", lambda request, **_: seen.append(request.headers["X-Amz-Target"].decode())
    )
    return seen


def counted(driver: SQS | DynamoDB, place: str) -> dict[str, tuple[float, float, float]]:
    rows = driver.meter.rows()
    return {
        spot.call: (row.requests, row.items, row.units)
        for spot, row in rows.items()
        if spot.place == place
    }


def test_a_request_of_sqs_counts_its_messages_and_its_price(sqs: SQS, queue: str) -> None:
    sqs.send(queue, [outgoing() for _ in range(10)])
    got = sqs.receive(queue, count=10, wait=1, lease=HELD)
    sqs.extend(got, lease=HELD)
    sqs.ack(got)
    assert not sqs.receive(queue, count=10, wait=0, lease=HELD)
    assert counted(sqs, queue) | {"other": None} == {
        "other": None,
        "send": (1, 10, 1),
        "receive": (1, 10, 1),
        "extend": (1, 10, 1),
        "ack": (1, 10, 1),
        "poll": (1, 0, 1),
    }
    price = "sqs_fifo_request" if queue.endswith(".fifo") else "sqs_request"
    assert {spot.price for spot in sqs.meter.rows() if spot.place == queue} == {price}


@pytest.mark.parametrize(("size", "units"), [(65_000, 1), (65_536, 2), (200_000, 4)])
def test_each_started_64_kb_of_a_payload_is_a_unit(
    sqs: SQS, queue: str, size: int, units: int
) -> None:
    sqs.send(queue, [replace(outgoing(), body=b"x" * size)])
    sqs.receive(queue, count=1, wait=1, lease=HELD)
    found = counted(sqs, queue)
    assert found["send"] == found["receive"] == (1, 1, units)


def test_every_request_is_counted_that_reaches_sqs(sqs: SQS, queue: str) -> None:
    before = sum(row.requests for row in sqs.meter.rows().values())
    seen = sent(sqs)
    sqs.send(queue, [outgoing() for _ in range(3)])
    got = sqs.receive(queue, count=10, wait=1, lease=HELD)
    sqs.dead_letter(got, reason="no")
    sqs.stats(queue)
    assert sum(row.requests for row in sqs.meter.rows().values()) - before == len(seen) >= 6


def test_a_try_of_the_sdk_is_counted_too(sqs: SQS, queue: str) -> None:
    sqs.send(queue, [outgoing()])
    seen = sent(sqs)

    def fail(request, **_):
        if len(seen) == 1:
            raise ConnectionClosedError(endpoint_url=request.url)

    sqs.client.meta.events.register_last("before-send", fail)
    sqs.send(queue, [outgoing()])
    assert len(seen) == 2
    assert counted(sqs, queue)["send"] == (3, 2, 3)


def test_dynamodb_counts_by_kind_of_item_what_it_says(dynamodb: DynamoDB) -> None:
    seen = sent(dynamodb)
    keys = [Key(f"task#{number}") for number in range(3)]
    dynamodb.put([Item(key=key, fields={"a": 1}, expires=time.time() + 60) for key in keys])
    dynamodb.get(keys, consistent=True)
    dynamodb.get(keys, consistent=False)
    dynamodb.update(keys[0], Change(set={"b": "x"}))
    dynamodb.query("workers", after=None, limit=10)
    dynamodb.delete(keys)
    with pytest.raises(ConditionFailed):
        dynamodb.update(Key("join#1"), Change(set={"a": 1}, when=(Check(field="a", op=Op.EXISTS),)))
    rows = dynamodb.meter.rows()
    assert {
        (spot.call, spot.place, spot.price): (row.requests, row.items, row.units)
        for spot, row in rows.items()
    } == {
        (PUT, "task", "dynamodb_write"): (1, 3, 3),
        # This server does not say what a read took, so it goes by the rule.
        (GET, "task", "dynamodb_read"): (1, 3, 3),
        (LOOK, "task", "dynamodb_read"): (1, 3, 1.5),
        (UPDATE, "task", "dynamodb_write"): (1, 1, 1),
        (QUERY, "workers", "dynamodb_read"): (1, 1, 1),
        (DELETE, "task", "dynamodb_write"): (1, 3, 3),
        (UPDATE, "join", "dynamodb_write"): (1, 1, 1),
    }
    assert len(seen) == 7


def test_the_units_are_those_that_dynamodb_says(dynamodb: DynamoDB) -> None:
    said = {"ConsumedCapacity": [{"TableName": "table", "CapacityUnits": 7.0}]}

    def say(parsed, **_):
        parsed.update(said)

    dynamodb.client.meta.events.register_first("after-call.dynamodb", say)
    dynamodb.put([Item(key=Key("task#1"), fields={"a": "x" * 6500})])
    (row,) = dynamodb.meter.rows().values()
    assert row.units == 7


def test_a_metered_driver_asks_for_what_each_request_took(dynamodb: DynamoDB) -> None:
    asked: list[object] = []
    dynamodb.client.meta.events.register(
        "before-call.dynamodb",
        lambda params, **_: asked.append(orjson.loads(params["body"])["ReturnConsumedCapacity"]),
    )
    dynamodb.put([Item(key=Key("task#1"), fields={})])
    dynamodb.get([Key("task#1")], consistent=True)
    assert asked == ["TOTAL", "TOTAL"]


def test_a_call_that_waits_in_a_scheduler_is_an_invocation(aws: Endpoint, sqs: SQS) -> None:
    name = unique()
    sqs.create(name, lease=30, max_deliveries=5)
    role = "arn:aws:iam::000000000000:role/scheduler"
    options = {"endpoint_url": aws.url, "role": role, "prefix": "shop-"}
    with closing(
        open_scheduler(Address(scheme="eventbridge", host="us-east-1", options=options))
    ) as driver:
        entry = OneTimeEntry(
            name=f"late-{name}",
            owner="shop",
            queue=name,
            body="{}",
            description="late",
            time=float(int(time.time()) + 86_400),
        )
        driver.once("cloudq-shop", entry)
        driver.once("cloudq-shop", entry)
        (spot,) = driver.meter.rows()
        assert spot == (SCHEDULE, name, "eventbridge_invocation")
        assert driver.meter.rows()[spot].units == 1
    sqs.delete(name)
