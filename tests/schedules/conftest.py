"""The places that beats are drilled at: SQLite, and SQS with DynamoDB."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.driver import StoreAdmin
from localstack.servers import Endpoint
from tests.servers import unique
from tests.worker.harness import Place

HERE = Path(__file__).parent


def place_of(folder: Path, broker: str, backend: str, queue: str) -> Place:
    """A place for the app of `beat_tasks`."""
    app = CloudQ("beats", broker=broker, backend=backend, task_default_queue=queue)
    place = Place(
        app=app, broker=broker, backend=backend, queue=queue, folder=folder, tasks="beat_tasks:app"
    )
    place.environment |= {"CLOUDQ_TASK_DEFAULT_QUEUE": queue, "PYTHONPATH": path()}
    return place


def path() -> str:
    """The import path for subprocesses: the folder of the tasks first, then the usual path."""
    return os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Iterator[Place]:
    url = f"sqlite:///{tmp_path}/cloudq.db"
    place = place_of(tmp_path, url, url, "default")
    yield place
    place.close()


@pytest.fixture
def sqs_place(aws: Endpoint, tmp_path: Path) -> Iterator[Place]:
    queue, table = unique("beat"), unique("beat")
    place = place_of(
        tmp_path,
        f"sqs://?endpoint_url={aws.url}",
        f"dynamodb://{table}?endpoint_url={aws.url}",
        queue,
    )
    place.app.broker.admin.create(queue, lease=30, max_deliveries=30)
    assert place.app.backend is not None
    assert isinstance(place.app.backend.driver, StoreAdmin)
    place.app.backend.driver.create_store()
    yield place
    place.close()


@pytest.fixture(params=["sqlite", "sqs"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each place in turn."""
    return request.getfixturevalue(f"{request.param}_place")
