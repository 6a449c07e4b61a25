"""Apps on memory, on SQLite, and on SQS with DynamoDB, with a worker's steps in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudq import CloudQ, Reject
from cloudq.driver import StoreAdmin
from cloudq.operations.audit import Actor
from tests.servers import unique

ANA = Actor(who="ana", via="test")


@pytest.fixture
def by() -> Actor:
    """The actor of tests."""
    return ANA


@pytest.fixture(params=["memory", "sqlite", "aws"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudQ]:
    """A small app on each kind of service."""
    if request.param == "memory":
        made = CloudQ("shop", broker=f"memory://{unique()}", default_retry_delay=0.0)
    elif request.param == "sqlite":
        made = CloudQ("shop", broker=f"sqlite:///{tmp_path}/shop.db", default_retry_delay=0.0)
    else:
        url = request.getfixturevalue("aws").url
        made = CloudQ(
            "shop",
            broker=f"sqs://?endpoint_url={url}&prefix={unique()}-",
            backend=f"dynamodb://{unique()}?endpoint_url={url}",
            default_retry_delay=0.0,
        )
    with made as app:
        define(app)
        prepare(app)
        yield app


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[CloudQ]:
    """The small app on SQLite, for what does not depend on a service."""
    with CloudQ("shop", broker=f"sqlite:///{tmp_path}/quick.db", default_retry_delay=0.0) as app:
        define(app)
        yield app


def define(app: CloudQ) -> None:
    """Add the tasks of the shop."""

    @app.task(name="shop.add")
    def add(a: int, b: int) -> int:
        return a + b

    @app.task(name="shop.charge", queue="mail", dead_letter=True, max_retries=0)
    def charge(sku: str, count: int = 1) -> str:
        if count < 0:
            raise KeyError(sku)
        if sku == "gone":
            raise ValueError(f"no stock of {sku}")
        return sku

    @app.task(name="shop.refuse", queue="mail")
    def refuse(why: str) -> None:
        raise Reject(why, requeue=False)

    @app.task(name="shop.fail", max_retries=0)
    def fail(what: str) -> None:
        raise RuntimeError(what)


def prepare(app: CloudQ) -> None:
    """Make the queues and the table where they are not made by themselves."""
    if not app.broker.limits("default").billed:
        return
    assert app.backend is not None
    driver = app.backend.driver
    assert isinstance(driver, StoreAdmin)
    driver.create_store()
    for name in app.queues():
        with app.broker.asking("create", name) as admin:
            admin.create(name, lease=30, max_deliveries=10)
