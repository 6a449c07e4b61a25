"""An app with encryption keys on SQS and DynamoDB: nothing of what it sends is seen there."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from cloudq import CloudQ, chord
from cloudq.testing import drain
from localstack.servers import Endpoint
from tests.servers import unique

K1 = base64.b64encode(b"k" * 32).decode()
MARK = "the-card-4111"


@pytest.fixture(params=["settings", "kms"])
def app(request: pytest.FixtureRequest, aws: Endpoint) -> Iterator[CloudQ]:
    key = K1
    if request.param == "kms":
        client: Any = boto3.client("kms", region_name="us-east-1", endpoint_url=aws.url)
        id = client.create_key()["KeyMetadata"]["KeyId"]
        key = f"awskms://{id}?region=us-east-1&endpoint_url={aws.url}"
    name = unique()
    with CloudQ(
        "shop",
        broker=f"sqs://us-east-1?endpoint_url={aws.url}",
        backend=f"dynamodb://{name}?region=us-east-1&endpoint_url={aws.url}",
        task_default_queue=name,
        task_events="tracked",
        encryption_keys={"k1": key},
    ) as made:
        driver: Any = made.broker.driver
        driver.create(name, lease=30, max_deliveries=10)
        store: Any = made.backend and made.backend.driver
        store.create_store()
        yield made
        driver.delete(name)


def test_nothing_is_seen_and_all_comes_back(app: CloudQ, aws: Endpoint) -> None:
    tries: list[str] = []

    @app.task(name="echo")
    def echo(value: str) -> str:
        return value

    @app.task(name="join")
    def join(values: list[str]) -> str:
        return "+".join(values)

    @app.task(name="fail", dead_letter=True, max_retries=0)
    def fail(value: str) -> None:
        raise ValueError(value)

    @app.task(name="flaky", autoretry_for=(KeyError,), default_retry_delay=0, retry_jitter=False)
    def flaky(value: str) -> str:
        tries.append(value)
        if len(tries) < 2:
            raise KeyError(value)
        return value

    queue = app.conf.task_default_queue
    single = echo.delay(MARK)
    joined = chord([echo.s(f"{MARK} {n}") for n in range(3)], join.s()).delay()
    failed = fail.delay(MARK)
    again = flaky.delay(MARK)
    with app.batch(bundle=10):
        bundle = [echo.delay(f"{MARK} {n}") for n in range(5)]
    driver: Any = app.broker.driver
    waiting = [each.body for each in driver.peek(queue, count=10)]
    assert waiting
    assert all(MARK.encode() not in body for body in waiting)
    drain(app)
    assert single.get(timeout=5) == MARK
    assert joined.get(timeout=5) == "+".join(f"{MARK} {n}" for n in range(3))
    assert again.get(timeout=5) == MARK
    assert [each.get(timeout=5) for each in bundle] == [f"{MARK} {n}" for n in range(5)]
    with pytest.raises(ValueError, match=MARK):
        failed.get(timeout=5)
    (letter,) = driver.peek_dead(queue, count=10)
    assert MARK not in letter.body.decode() + str(letter.reason)
    assert letter.reason == "ValueError: its text is encrypted, in the record of the task"
    table: Any = boto3.client("dynamodb", region_name="us-east-1", endpoint_url=aws.url)
    assert app.conf.backend is not None
    name = app.conf.backend.removeprefix("dynamodb://").partition("?")[0]
    items = table.scan(TableName=name)["Items"]
    assert len(items) > 5
    assert MARK not in repr(items)
