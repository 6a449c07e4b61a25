"""The places that worker drills run at: SQLite, and each cloud's queue with its store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.driver import StoreAdmin
from localstack.servers import Endpoint
from tests.servers import unique
from tests.support.forge import Forge
from tests.worker.harness import HERE, Place

sys.path.insert(0, str(HERE))

Cloudq = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cloudq(forge: Forge) -> Cloudq:
    """Run a command on a place's store, as an operator would."""

    def run(place: Place, *args: str) -> subprocess.CompletedProcess[str]:
        at = ["--broker", place.broker, "--backend", place.backend]
        return forge.run([*args, *at], cwd=HERE, env=os.environ)

    return run


def _place(folder: Path, broker: str, backend: str, queue: str) -> Place:
    app = CloudQ("drills", broker=broker, backend=backend, task_default_queue=queue)
    return Place(app=app, broker=broker, backend=backend, queue=queue, folder=folder)


def sqlite_at(folder: Path) -> Place:
    """A new place on SQLite, in this folder."""
    url = f"sqlite:///{folder}/cloudq.db"
    return _place(folder, url, url, "default")


def sqs_at(aws: Endpoint, folder: Path) -> Place:
    """A new place on SQS with DynamoDB; its ledger and logs are in this folder."""
    queue, table = unique("drill"), unique("drill")
    broker = f"sqs://?endpoint_url={aws.url}"
    place = _place(folder, broker, f"dynamodb://{table}?endpoint_url={aws.url}", queue)
    make(place)
    return place


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Iterator[Place]:
    with closing(sqlite_at(tmp_path)) as place:
        yield place


@pytest.fixture
def sqs_place(aws: Endpoint, tmp_path: Path) -> Iterator[Place]:
    with closing(sqs_at(aws, tmp_path)) as place:
        yield place


@pytest.fixture
def pubsub_place(pubsub: Endpoint, firestore: Endpoint, tmp_path: Path) -> Iterator[Place]:
    place = _place(
        tmp_path,
        f"pubsub://cloudq-local?emulator=127.0.0.1:{pubsub.port}",
        f"firestore://cloudq-local/{unique('drill')}?emulator=127.0.0.1:{firestore.port}",
        unique("drill"),
    )
    make(place)
    yield place
    place.close()


@pytest.fixture
def servicebus_place(servicebus: Endpoint, tables: Endpoint, tmp_path: Path) -> Iterator[Place]:
    table = unique("drill").replace("-", "")
    backend = tables.environment["CLOUDQ_BACKEND"].replace("/cloudq?", f"/{table}?")
    place = _place(tmp_path, servicebus.environment["CLOUDQ_BROKER"], backend, unique("drill"))
    make(place)
    yield place
    place.close()


def make(place: Place, lease: float = 5) -> None:
    """Make the queue and the table of a place."""
    place.app.broker.admin.create(place.queue, lease=lease, max_deliveries=30)
    assert place.app.backend is not None
    assert isinstance(place.app.backend.driver, StoreAdmin)
    place.app.backend.driver.create_store()


@pytest.fixture(params=["sqlite", "sqs"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each place in turn."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture(params=["sqlite", "sqs", "pubsub", "servicebus"])
def every_place(request: pytest.FixtureRequest) -> Place:
    """Each place in turn, for what every cloud must stand."""
    return request.getfixturevalue(f"{request.param}_place")
