"""An app on real queues and a real table, and what feeds its Lambda function."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cloudq import CloudQ
from cloudq.driver import StoreAdmin
from localstack.servers import Endpoint
from tests.functions.aws.events import EventSource
from tests.servers import unique


@pytest.fixture(scope="session")
def table(aws: Endpoint) -> str:
    name = unique("lambda")
    with CloudQ(broker="memory://", backend=f"dynamodb://{name}?endpoint_url={aws.url}") as app:
        assert app.backend is not None
        assert isinstance(app.backend.driver, StoreAdmin)
        app.backend.driver.create_store()
    return name


@pytest.fixture
def queue() -> str:
    return unique("lambda")


@pytest.fixture
def make_app(aws: Endpoint, table: str, queue: str) -> Iterator[Callable[..., CloudQ]]:
    """Makes apps that stand on the local AWS, but for the settings given."""
    made: list[CloudQ] = []

    def make(**settings: object) -> CloudQ:
        values = {
            "broker": f"sqs://?endpoint_url={aws.url}",
            "backend": f"dynamodb://{table}?endpoint_url={aws.url}",
            "task_default_queue": queue,
            "default_retry_delay": 0.0,
        }
        app = CloudQ("lambda-test", **(values | settings))
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: Callable[..., CloudQ]) -> CloudQ:
    return make_app()


@pytest.fixture
def source(app: CloudQ, queue: str) -> EventSource:
    app.broker.admin.create(queue, lease=30, max_deliveries=5)
    return EventSource(app, queue)


@pytest.fixture
def fifo(app: CloudQ, queue: str) -> EventSource:
    app.broker.admin.create(f"{queue}.fifo", lease=30, max_deliveries=5)
    return EventSource(app, f"{queue}.fifo")
