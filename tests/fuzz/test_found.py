"""Bodies that were handled wrongly once, each for the target that found it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from cloudq.messages.ids import new_bundle
from cloudq.messages.redaction import Redaction
from cloudq.text import HIDDEN
from tests.fuzz.app_targets import Functions, Stored
from tests.fuzz.campaign import silent
from tests.fuzz.seeds import as_text
from tests.fuzz.targets import Shown, Target

_JOIN = "join#01a22ea5-0c1b-7bae-a352-ec15e10ad879"
_NODE = {"task": "echo", "id": "n"}
_FOLLOWS = {"node": _NODE, "rest": [], "body": "n"}
_HEART = {"app": "fuzz", "every": 15.0, "queues": "[]", "longest": "[]", "seen": 4e9}
_ENTRY = {"task": "echo", "when": {"every": 60.0}, "args": [], "kwargs": {}, "options": {}}


def _item(partition: str, sort: str = "-", **fields: Any) -> dict[str, Any]:
    return {"p": partition, "s": sort, "f": fields}


STORED = {
    "an end at no time": _item("task#t", state="SUCCESS", task="echo", finished_at=float("nan")),
    "an end at a time too far": _item("task#t", state="FAILURE", error="x", finished_at=1e300),
    "a start that is a text": _item("task#t", state="STARTED", started_at="now"),
    "a join in the list that is none": _item("joins", "celery", at=1.0),
    "a join that is being written": _item(
        _JOIN, shards={"set": ["open", "0", "x", "²"]}, count=2, follows=json.dumps(_FOLLOWS)
    ),
    "a join that names no body": _item(
        _JOIN, shards={"set": []}, seal="k1 fuzz x", follows=json.dumps({"node": _NODE, "rest": []})
    ),
    "a signed text with half of a surrogate pair": _item(
        _JOIN, count=1, follows='{"\ud800":1}', seal="k1 fuzz \ud800"
    ),
    "a worker seen in the year 10000": _item("workers", "w", **_HEART | {"seen": 253402300800.0}),
    "a worker seen beyond all years": _item("workers", "w", **_HEART | {"seen": 4e18}),
    "a long text with half of a surrogate pair": _item(
        "task#t", state="SUCCESS", task="echo", value=f'"{"x" * 2000}\ud800"'
    ),
    "a schedule of deep lists": _item(
        "beat#fuzz", "entry#s", entry=json.dumps(_ENTRY)[:-1] + ',"start":' + "[" * 5000
    ),
}
_BUNDLE = {"v": 3, "id": new_bundle(), "all": {"task": "echo"}, "calls": [{"n": 0}, {"n": 1}]}
EVENTS = {
    "an event whose id has half of a surrogate pair": {
        "to": "lambda",
        "event": {"id": "e\ud800", "detail": {"task": "echo"}},
    },
    "a bundle in a message without an id": {
        "to": "servicebus",
        "body": as_text(json.dumps(_BUNDLE, separators=(",", ":")).encode()),
        "count": 2,
    },
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with silent():
        yield


@pytest.fixture(scope="module")
def stored() -> Iterator[Target]:
    with closing(Stored()) as target:
        yield target


@pytest.fixture(scope="module")
def functions() -> Iterator[Target]:
    with closing(Functions()) as target:
        yield target


@pytest.mark.parametrize("name", STORED)
def test_what_lies_in_a_store_ends_in_words(stored: Target, name: str) -> None:
    assert stored.run(json.dumps(STORED[name]).encode()) not in ("no item", "not stored")


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_ends_in_words(functions: Target, name: str) -> None:
    assert functions.run(json.dumps(EVENTS[name]).encode()) != "no event"


def test_a_body_that_is_too_deep_to_be_written_again_shows_no_secret() -> None:
    """JSON is read to 1,024 levels, and written to 254."""
    deep = "[" * 300 + "]" * 300
    with closing(Shown()) as target:
        for secret in ('{"$secret":"x"}', '{"$int":1}'):
            body = f'{{"v":"none","id":"a","task":"echo","args":[{secret}],"more":{deep}}}'
            assert target.run(body.encode()) == "unreadable"
    redaction = Redaction([], {})
    body = f'{{"task":"echo","args":[{{"$secret":"1234"}}],"more":{deep}}}'
    assert redaction.body(body) == HIDDEN
