"""Large payloads in a Lambda: they are fetched, and go with their messages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from cloudq import CloudQ, PayloadGone
from cloudq.driver.blobs import BlobAdmin, Blobs
from cloudq.driver.loader import open_blobs
from cloudq.testing.waiting import PATIENCE
from cloudq_aws import lambda_handler
from localstack.servers import Endpoint
from tests.functions.aws.events import Context, EventSource
from tests.servers import unique


def keys(blobs: Blobs) -> list[str]:
    return [blob.key.partition("/")[0] for blob in blobs.list(after=None, limit=100).blobs]


def test_they_come_and_go_with_their_messages(
    make_app: Callable[..., CloudQ], queue: str, aws: Endpoint
) -> None:
    store = f"s3://{unique('payloads')}/shop?endpoint_url={aws.url}"
    app = make_app(payload_store=store)
    app.broker.admin.create(queue, lease=30, max_deliveries=5)
    source = EventSource(app, queue)

    @app.task
    def same(value: bytes) -> bytes:
        return value

    @app.task
    def once_more(value: bytes) -> int:
        raise TimeoutError("try again")

    @app.task(ignore_result=True)
    def ignored(value: bytes) -> None: ...

    with closing(open_blobs(store)) as blobs:
        assert isinstance(blobs, BlobAdmin)
        blobs.create_place(expires=86_400.0)
        data = bytes(1_500_000)
        done = same.delay(data)
        gone = same.delay(data + b"x")
        assert keys(blobs) == ["messages", "messages"]
        assert source.settle(lambda_handler(app)(source.take(1), Context())) == []
        assert done.get(timeout=PATIENCE) == data
        assert sorted(keys(blobs)) == ["messages", "results"]
        blobs.delete([blob.key for blob in blobs.list(after=None, limit=100).blobs])
        assert source.settle(lambda_handler(app)(source.take(1), Context())) == []
        with pytest.raises(PayloadGone):
            gone.get(timeout=PATIENCE)
        assert source.count() == (0, 0, 0)
        failed = once_more.delay(data)
        assert source.settle(lambda_handler(app)(source.take(1), Context())) == []
        with pytest.raises(TimeoutError):
            failed.get(timeout=PATIENCE)
        assert not keys(blobs)
        ignored.delay(data)
        assert source.settle(lambda_handler(app)(source.take(1), Context())) == []
        assert keys(blobs) == ["messages"], "Lambda acks later, and it might come again"
