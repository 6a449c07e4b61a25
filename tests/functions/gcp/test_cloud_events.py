"""CloudEvents of a Pub/Sub trigger, as functions-framework makes them of requests."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import functions_framework
import pytest
from cloudevents.http import CloudEvent
from flask.testing import FlaskClient

from cloudq import CloudQ
from cloudq.errors import ConfigurationError
from cloudq.execution.invocation import NotSettled
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq_gcp import cloud_event_handler

SOURCE = "//pubsub.googleapis.com/projects/shop/topics/orders-eu"
TYPE = "google.cloud.pubsub.topic.v1.messagePublished"

MAIN = """
import functions_framework
from cloudq import CloudQ
from cloudq.errors import Reject
from cloudq_gcp import cloud_event_handler

app = CloudQ("function", broker={broker!r})

@app.task(bind=True, name="work")
def work(self, x):
    if x < 0:
        raise Reject("negative", requeue=True)
    return [self.request.queue, 2 * x]

handler = functions_framework.cloud_event(cloud_event_handler(app))
"""


@pytest.fixture
def client(app: CloudQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """The function in functions-framework, called without a network."""
    source = tmp_path / "function_main.py"
    source.write_text(MAIN.format(broker=app.conf.broker))
    # What the framework leaves behind in its process.
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("FUNCTION_TARGET", "FUNCTION_SIGNATURE_TYPE"):
        monkeypatch.setenv(name, "")
    site = functions_framework.create_app("handler", str(source))
    module = sys.modules["function_main"]
    yield site.test_client()
    module.app.close()
    del sys.modules["function_main"]


def message(x: int, id: str) -> dict[str, Any]:
    body = encode(TaskMessage(id=id, task="work", args=[x]))
    return {
        "data": base64.b64encode(body).decode(),
        "messageId": id,
        "publishTime": "2026-02-26T19:13:55.749Z",
        "attributes": {},
    }


def headers(**more: str) -> dict[str, str]:
    event = {"ce-id": "1", "ce-source": SOURCE, "ce-specversion": "1.0", "ce-type": TYPE}
    return {"Content-Type": "application/json"} | event | more


def test_an_event_runs_its_task_on_its_topics_queue(client: FlaskClient, app: CloudQ) -> None:
    data = {"message": message(4, "a"), "subscription": "projects/shop/subscriptions/eventarc-1"}
    reply = client.post("/", data=json.dumps(data), headers=headers())
    assert (reply.status_code, reply.text) == (200, "OK")
    assert app.AsyncResult("a").get(timeout=1) == ["orders-eu", 8]


def test_a_structured_event_too(client: FlaskClient, app: CloudQ) -> None:
    event = {"id": "1", "source": SOURCE, "specversion": "1.0", "type": TYPE}
    body = event | {"data": {"message": message(5, "b")}}
    kind = {"Content-Type": "application/cloudevents+json"}
    assert client.post("/", data=json.dumps(body), headers=kind).status_code == 200
    assert app.AsyncResult("b").get(timeout=1) == ["orders-eu", 10]


# functions-framework 3.10 still calls utcnow, which Python deprecates since 3.12.
@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
@pytest.mark.parametrize(
    ("path", "queue"), [("/projects/shop/topics/orders-eu", "orders-eu"), ("/", "default")]
)
def test_a_raw_push_has_the_queue_of_its_path_or_the_default(
    client: FlaskClient, app: CloudQ, path: str, queue: str
) -> None:
    """The framework makes an event of a raw push, but leaves its subscription out."""
    body = {"message": message(6, "c"), "subscription": "projects/shop/subscriptions/orders-eu"}
    assert client.post(path, json=body).status_code == 200
    assert app.AsyncResult("c").get(timeout=1) == [queue, 12]


def test_what_stays_is_an_error(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    data = {"message": message(-1, "d")}
    reply = client.post("/", data=json.dumps(data), headers=headers())
    assert reply.status_code == 500
    assert "NotSettled: message d comes back: negative" in caplog.text


def event(app: CloudQ, attributes: Mapping[str, str], data: object) -> CloudEvent:
    return CloudEvent({"source": SOURCE, "type": TYPE, **attributes}, data)  # type: ignore[arg-type]


def test_a_queue_may_be_named(app: CloudQ) -> None:
    seen: list[str] = []
    app.task(name="work", bind=True)(lambda self, x: seen.append(self.request.queue))
    cloud_event_handler(app, queue="own")(event(app, {}, {"message": message(1, "e")}))
    assert seen == ["own"]


def test_what_stays_raises_its_reason(make_app: Callable[..., CloudQ]) -> None:
    down = make_app(backend="dynamodb://cloudq?endpoint_url=http://127.0.0.1:1")
    down.task(name="work")(lambda x: x)
    with pytest.raises(NotSettled, match=r"message f comes back: cannot read"):
        cloud_event_handler(down)(event(down, {}, {"message": message(1, "f")}))


@pytest.mark.parametrize("data", [None, {}, {"bucket": "photos"}, b"bytes", {"message": {}}])
def test_a_foreign_event_says_what_is_taken(app: CloudQ, data: object) -> None:
    stored = {"type": "google.cloud.storage.object.v1.finalized"}
    with pytest.raises(ConfigurationError, match=r"no push of Pub/Sub.*messagePublished"):
        cloud_event_handler(app)(event(app, stored, data))


def test_the_options_are_checked(app: CloudQ) -> None:
    for options in ({"timeout": 0}, {"timeout": -1}, {"reserve": -1}):
        with pytest.raises(ConfigurationError, match="over 0, at least 0"):
            cloud_event_handler(app, **options)
