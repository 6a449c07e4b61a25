"""Sealed and Celery-form messages through every broker, to a real executor and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, State, Task
from cloudq.driver import StoreAdmin
from cloudq.execution.commit import commit, dispose
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.servers import unique

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way of writing a call, and the mark by which its body is known on the wire."""

    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    call: dict[str, Any]
    shows: set[str]


FORMS = {
    "signed msgpack zstd": Form(
        settings={"signing_keys": {"k": "x" * 32}, "accept_content": ["json", "msgpack"]},
        call={"serializer": "msgpack", "compression": "zstd"},
        shows={"sig", "type", "zip"},
    ),
    "signed pickle": Form(
        settings={"signing_keys": {"k": "x" * 32}, "accept_content": ["json", "pickle"]},
        call={"serializer": "pickle"},
        shows={"sig", "type"},
    ),
    "yaml": Form(
        settings={"accept_content": ["json", "yaml"]}, call={"serializer": "yaml"}, shows={"type"}
    ),
    "celery": Form(call={"protocol": "celery"}, shows={"celery"}),
}


@pytest.fixture
def sqlite_urls(tmp_path: Path) -> tuple[str, str]:
    return (f"sqlite:///{tmp_path}/q.db",) * 2


@pytest.fixture
def sqs_urls(aws: Endpoint) -> tuple[str, str]:
    return (
        f"sqs://?endpoint_url={aws.url}",
        f"dynamodb://{unique('forms')}?endpoint_url={aws.url}",
    )


@pytest.fixture
def pubsub_urls(pubsub: Endpoint, firestore: Endpoint) -> tuple[str, str]:
    return (
        f"pubsub://cloudq-local?emulator=127.0.0.1:{pubsub.port}",
        f"firestore://cloudq-local/{unique('forms')}?emulator=127.0.0.1:{firestore.port}",
    )


@pytest.fixture
def servicebus_urls(servicebus: Endpoint, tables: Endpoint) -> tuple[str, str]:
    table = unique("forms").replace("-", "")
    backend = tables.environment["CLOUDQ_BACKEND"].replace("/cloudq?", f"/{table}?")
    return servicebus.environment["CLOUDQ_BROKER"], backend


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


@pytest.fixture(params=["sqlite", "sqs", "pubsub", "servicebus"])
def app(request: pytest.FixtureRequest, form: Form) -> Iterator[CloudQ]:
    """An app whose default queue is new on a real server, and is ready."""
    broker, backend = request.getfixturevalue(f"{request.param}_urls")
    queue = unique("forms")
    settings = {**form.settings, "default_retry_delay": 0.0, "task_default_queue": queue}
    settings["queue_accept"] = {queue: ["celery", "cloudq"]}
    with CloudQ("forms", broker=broker, backend=backend, **settings) as made:
        made.broker.admin.create(queue, lease=10, max_deliveries=30)
        assert made.backend is not None
        if isinstance(made.backend.driver, StoreAdmin):
            made.backend.driver.create_store()
        yield made


def shown(body: bytes) -> set[str]:
    """Name the kind of a body by its outermost keys; Celery's is base64."""
    if not body.startswith(b"{"):
        return {"celery"}
    return {"sig", "type", "zip"} & json.loads(body).keys()


def test_a_call_comes_back_as_it_was_given_and_is_retried(app: CloudQ, form: Form) -> None:
    seen: list[Any] = []
    bodies: list[bytes] = []

    def pack(self: Task[..., Any], text: str, *, at: datetime, price: Decimal) -> str:
        seen.append((text, at, price, self.request.headers.get("h")))
        if self.request.retries == 0:
            raise ValueError("again")
        return text[:4]

    options: dict[str, Any] = {"autoretry_for": [ValueError], "max_retries": 1, "name": "pack"}
    task: Any = app.task(bind=True, **options)(pack)
    kwargs = {"at": AT, "price": Decimal("1.50")}
    sent = task.apply_async(("wide " * 300,), kwargs, headers={"h": "1"}, **form.call)
    queue = app.conf.task_default_queue
    # As a worker does: first the call, then its retry, which has the same form.
    executor = app.executor(hostname="forms")
    for state in (State.RETRY, State.SUCCESS):
        [delivery] = eventually(lambda: app.broker.receive(queue, count=1, wait=1.0, lease=10))
        bodies.append(delivery.body)
        [job], _ = executor.open([delivery])
        settlement = executor.run(job)
        assert settlement.state is state, settlement.error
        done = commit([(delivery, settlement)], app.broker, app.backend, app.workflows.joins)
        assert done.error is None
        assert dispose(done.ready, app.broker) == []
    assert sent.get(timeout=PATIENCE) == "wide"
    assert seen == [("wide " * 300, AT, Decimal("1.50"), "1")] * 2
    assert [shown(body) for body in bodies] == [form.shows] * 2
