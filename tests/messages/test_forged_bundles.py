"""Bundles that nobody sent: each is refused as a whole with a reason, or call by call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq import CloudQ, State
from cloudq.driver import Outgoing
from cloudq.errors import DecodeError
from cloudq.messages.bundle import Bundle, Unread, read_bundle
from cloudq.messages.codec import Codec
from cloudq.messages.ids import bundled_id, new_bundle
from cloudq.testing import drain

NAME = new_bundle()
ODD: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["v", "id", "n", "task", "args", "kwargs", "queue", "headers", "retries", "chain", "x"]
    ),
    ODD | st.sampled_from(["t", 3, [], {}, [1], {"a": 1}]),
    max_size=6,
)


def body(**fields: Any) -> bytes:
    own = {"v": 3, "id": NAME, "all": {"task": "t"}, "calls": [{"n": 0}]}
    return json.dumps(own | fields).encode()


WHOLE: dict[str, tuple[dict[str, Any], str]] = {
    "no calls": ({"calls": []}, "needs an object in all, and calls"),
    "calls of no list": ({"calls": {"n": 0}}, "needs an object in all, and calls"),
    "all of no object": ({"all": [1]}, "needs an object in all, and calls"),
    "no name": ({"id": None}, "not the name of a bundle"),
    "a stranger's name": ({"id": "0" * 32}, "not the name of a bundle"),
    "an id for a name": ({"id": bundled_id(NAME, 0)}, "not the name of a bundle"),
    "too many": ({"calls": [{"n": 0}] * 10_001}, "oversized"),
    "a newer version": ({"v": 4}, "version 4"),
    "a version that is true": ({"v": True}, "foreign"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_bundle_is_refused_with_its_reason(name: str) -> None:
    fields, why = WHOLE[name]
    with pytest.raises(DecodeError, match=why):
        read_bundle(body(**fields), limit=1 << 20)


ONE: dict[str, Any] = {
    "no object": 5,
    "no place": {},
    "a place twice": {"n": 0},
    "a place too far": {"n": 65_536},
    "a place below": {"n": -1},
    "a place that is true": {"n": True},
    "a place that is text": {"n": "1"},
    "no task": {"n": 1, "task": None},
    "args of no list": {"n": 1, "args": 5},
    "kwargs of no object": {"n": 1, "kwargs": [1]},
    "too deep": {"n": 1, "args": [json.loads("[" * 150 + "]" * 150)]},
    "a bundle": {"n": 1, "v": 3, "calls": [{"n": 0}], "task": 7},
    "an unknown form": {"n": 1, "serializer": "nope"},
}


@pytest.mark.parametrize("name", ONE)
def test_a_call_that_cannot_be_read_harms_no_neighbour(name: str) -> None:
    ran: list[int] = []
    with CloudQ("forged", broker="memory://forged") as app:
        app.task(name="t")(lambda n=0: ran.append(n))
        calls = [{"n": 0, "args": [1]}, ONE[name], {"n": 2, "args": [2]}]
        app.broker.driver.send("default", [Outgoing(id="forged", body=body(calls=calls))])
        drain(app)
        assert ran == [1, 2]
        [dead] = app.broker.admin.peek_dead("default", count=5)
        assert dead.reason
        stats = app.broker.admin.stats("default")
        assert (stats.ready, stats.leased) == (0, 0)
        assert app.AsyncResult(bundled_id(NAME, 2)).state is State.SUCCESS


def test_the_id_of_a_call_is_that_of_its_place_whatever_it_says() -> None:
    calls = [{"n": 0, "id": "another's"}, {"n": 1}]
    read = read_bundle(body(all={"task": "t", "id": "x"}, calls=calls), limit=1 << 20)
    ids = [call.id for call in read.calls if not isinstance(call, Unread)]
    assert ids == [bundled_id(NAME, 0), bundled_id(NAME, 1)]


def test_a_sealed_bundle_in_a_sealed_bundle_is_refused() -> None:
    inner = b'{"v":2,"body":%b}' % body()
    with pytest.raises(DecodeError):
        Codec().read(b'{"v":2,"body":%b}' % inner, queue="q", limit=1 << 20)


@settings(max_examples=300, deadline=None)
@given(shared=FIELDS | ODD, calls=st.lists(FIELDS | ODD, max_size=4) | ODD, name=st.just(NAME))
def test_whatever_is_in_a_bundle_is_read_or_refused(shared: Any, calls: Any, name: str) -> None:
    text = json.dumps({"v": 3, "id": name, "all": shared, "calls": calls}).encode()
    codec = Codec()
    try:
        read = codec.read(text, queue="q", limit=1 << 20)
    except DecodeError:
        return
    assert isinstance(read, Bundle)
    for call in read.calls:
        if isinstance(call, Unread):
            assert call.reason
            assert isinstance(call.body, bytes)
        else:
            again = codec.read(codec.encode(call), queue="q", limit=1 << 20)
            assert again == call
