"""Encrypted messages in a Lambda: they run, and what cannot be opened is not lost."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from cloudq import CloudQ
from cloudq.testing import EncryptionContract
from cloudq.testing.waiting import PATIENCE
from cloudq_aws import lambda_handler
from localstack.servers import Endpoint
from tests.functions.aws.events import Context, EventSource

KEYS = {"k1": base64.b64encode(b"k" * 32).decode()}
MARK = "the-card-4111"


def test_calls_and_bundles_run_and_come_back_encrypted(
    make_app: Callable[..., CloudQ], queue: str
) -> None:
    app = make_app(encryption_keys=KEYS)
    app.broker.admin.create(queue, lease=30, max_deliveries=5)
    source = EventSource(app, queue)

    @app.task
    def echo(value: str) -> str:
        return value

    alone = echo.delay(MARK)
    together = app.publish([echo.prepare(f"{MARK} {n}") for n in range(5)], bundle=5)
    event = source.take(2)
    assert MARK not in repr(event)
    assert source.settle(lambda_handler(app)(event, Context())) == []
    assert alone.get(timeout=PATIENCE) == MARK
    assert [each.get(timeout=PATIENCE) for each in together] == [f"{MARK} {n}" for n in range(5)]
    assert source.count() == (0, 0, 0)


def test_while_the_key_service_is_down_every_record_stays(
    make_app: Callable[..., CloudQ], queue: str
) -> None:
    """The message is one that the app's other process has sent, with a key of the service."""
    app = make_app(encryption_keys=KEYS)
    app.broker.admin.create(queue, lease=30, max_deliveries=5)
    source = EventSource(app, queue)
    ran: list[str] = []
    app.task(name="echo")(ran.append)
    app.send_task("echo", args=[MARK])
    event = source.take(1)
    down = make_app(
        encryption_keys={"k1": "awskms://k?region=us-east-1&endpoint_url=http://127.0.0.1:9"}
    )
    down.task(name="echo")(ran.append)
    answer = lambda_handler(down)(event, Context())
    assert len(answer["batchItemFailures"]) == 1
    assert ran == []


class TestLambda(EncryptionContract):
    @pytest.fixture
    def broker(self, aws: Endpoint) -> str:
        return f"sqs://?endpoint_url={aws.url}"

    @pytest.fixture
    def backend(self, aws: Endpoint, table: str) -> str:
        return f"dynamodb://{table}?endpoint_url={aws.url}"

    def run(self, app: CloudQ, queue: str, count: int) -> None:
        source, handler = EventSource(app, queue), lambda_handler(app)
        while count > 0:
            event = source.take(1)
            assert source.settle(handler(event, Context())) == []
            count -= len(event["Records"])
