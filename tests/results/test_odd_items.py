"""Items of the store that another program wrote: one clear error that names the key, or absent."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudq import CloudQ, CloudQError, State
from cloudq.broker.delayed import DelayedStore
from cloudq.canvas.graph import graph_of
from cloudq.canvas.join_items import members_of
from cloudq.canvas.slots import join_key, shard_key
from cloudq.canvas.tails import Tails
from cloudq.driver import Item, Key, Value
from cloudq.execution.idempotency import Claimant, claim
from cloudq.monitoring.event_log import Reader
from cloudq.monitoring.heartbeats import PARTITION, Heartbeats
from cloudq.results.backend import Backend
from cloudq.results.events import NAMES, event_of, key_of
from cloudq.results.groups import group_outline
from cloudq.results.record import key as record_key
from cloudq.results.stored import OddItem
from cloudq.schedules.state import ScheduleStates
from cloudq.tasks import checkpoints
from cloudq.tasks.limits.concurrency import PermitRequest, acquire, permits_key, release

NESTED: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
TEXTS = st.one_of(
    st.text(max_size=20),
    NESTED.map(json.dumps),
    st.sampled_from(
        [
            "[]",
            "{}",
            "[1]",
            '{"rows": [["a", 0, null]]}',
            '{"rows": [["a", null, [5]]]}',
            '{"rows": []}',
            '[[["a", null], null]]',
            '{"$tuple": 1}',
            '{"node": {"task": "t"}, "rest": 3}',
            '{"node": 1}',
            "1.5 x y z",
            "9e999 1 m o",
        ]
    ),
)
VALUES: st.SearchStrategy[Value] = st.one_of(
    TEXTS,
    st.binary(max_size=10),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.none(),
    st.frozensets(st.text(max_size=3), min_size=1, max_size=3),
)
FIELDS = st.sampled_from(
    [
        "at",
        "queue",
        "worker",
        "took",
        "retries",
        "error_type",
        "error",
        "args",
        "seen",
        "app",
        "pid",
        "version",
        "started",
        "every",
        "processes",
        "threads",
        "queues",
        "running",
        "waiting",
        "done",
        "failed",
        "longest",
        "ids",
        "count",
        "added",
        "follows",
        "parts",
        "last",
        "steps",
        "value",
        "fence",
        "owner",
        "until",
        "h0",
        "h1",
        "id",
        "body",
        "group",
        "state",
        "revoked",
        "scheduled",
        "children",
        "join",
        "parent",
        "started_at",
        "finished_at",
        "meta",
        "custom",
        "beats",
        "spec",
        "paused",
        "runs",
        "entry",
        "reply",
        "delivery",
        "sent",
        "due",
    ]
)
ODD = st.dictionaries(FIELDS, VALUES, max_size=12)
AT = 1_700_000_000.0
SENT = Key("parked#q", "0001700000000#a")


@pytest.fixture(scope="module")
def app() -> CloudQ:
    made = CloudQ("odd", broker="memory://odd", backend="memory://odd")

    @made.task(name="t")
    def t() -> None: ...

    return made


def backend_of(app: CloudQ) -> Backend:
    assert app.backend is not None
    return app.backend


def delayed(app: CloudQ) -> Any:
    backend = backend_of(app)
    return DelayedStore(lambda: backend).delayed("q", count=5)


def event(app: CloudQ) -> Any:
    key = key_of("t", State.SUCCESS, AT, "odd", 0)
    return [event_of(item) for item in backend_of(app).get([key]).values()]


def steps(app: CloudQ) -> object:
    return Tails(app.runtime).whole([{"more": "odd", "at": 0}])


def permit(app: CloudQ) -> object:
    request = PermitRequest(owner="me", fence=1, delivery="m")
    return acquire(backend_of(app), permits_key("t", "k"), 2, request, 10.0, again=True)


def once(app: CloudQ) -> object:
    return claim(backend_of(app), Key("once#odd"), Claimant(owner="me"), 60.0)


Reads = Callable[[CloudQ], object]
READERS: dict[str, tuple[Key, Reads]] = {
    "record": (record_key("odd"), lambda app: app.AsyncResult("odd").state),
    "a record's value": (record_key("odd"), lambda app: app.AsyncResult("odd").get(timeout=0.01)),
    "a record's children": (record_key("odd"), lambda app: app.AsyncResult("odd").children),
    "a record in a graph": (record_key("odd"), lambda app: graph_of("odd", backend_of(app))),
    "revoke": (record_key("odd"), lambda app: app.AsyncResult("odd").revoke()),
    "group": (Key("group#odd"), lambda app: group_outline("odd", backend_of(app))),
    "shard": (shard_key("odd", 0), lambda app: members_of("odd", backend_of(app))),
    "join": (join_key("odd"), lambda app: members_of("odd", backend_of(app))),
    "steps": (Key("steps#odd", "0000000.000"), steps),
    "event": (key_of("t", State.SUCCESS, AT, "odd", 0), event),
    "events": (
        key_of("t", State.SUCCESS, AT, "odd", 0),
        lambda app: Reader(backend_of(app)).newest(names=["t"], states=[State.SUCCESS]),
    ),
    "names of events": (Key(NAMES, "t"), lambda app: Reader(backend_of(app)).names()),
    "heartbeat": (Key(PARTITION, "odd"), lambda app: Heartbeats(backend_of(app)).alive()),
    "inspect": (Key(PARTITION, "odd"), lambda app: app.control.inspect(timeout=0.01).stats()),
    "permit": (permits_key("t", "k"), permit),
    "permits of a killed task": (
        permits_key("t", "k"),
        lambda app: release(backend_of(app), permits_key("t", "k"), "me"),
    ),
    "step": (Key("step#odd", "s"), lambda app: checkpoints.recall(backend_of(app), "odd", "s")),
    "state": (Key("state#odd"), lambda app: checkpoints.load(backend_of(app), "odd", None)),
    "claim": (Key("once#odd"), once),
    "delayed": (SENT, delayed),
    "schedule": (Key("beat#odd", "entry#a"), lambda app: app.schedules.all()),
    "leader": (
        Key("beat#odd", "leader"),
        lambda app: ScheduleStates(backend_of(app), "odd").leader(),
    ),
}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, logger="cloudq"):
        yield


@pytest.mark.usefixtures("quiet")
@settings(max_examples=200)
@given(fields=ODD)
@example(fields={})
def test_an_odd_item_is_one_error_of_ours(app: CloudQ, fields: Any) -> None:
    for name, (key, read) in READERS.items():
        backend_of(app).put([Item(key=key, fields=fields)])
        try:
            with suppress(CloudQError, TimeoutError):
                read(app)
        except Exception as error:
            error.add_note(f"read as {name}")
            raise
        finally:
            backend_of(app).delete([key])


NAMED: dict[str, dict[str, Value]] = {
    "group": {"ids": 5},
    "shard": {"ids": "{"},
    "event": {"at": "yesterday"},
    "step": {"value": 3},
    "state": {},
}


@pytest.mark.parametrize("name", NAMED)
def test_the_error_names_the_key(app: CloudQ, name: str) -> None:
    key, read = READERS[name]
    backend = backend_of(app)
    backend.put([Item(key=join_key("odd"), fields={"count": 1})])
    backend.put([Item(key=key, fields=NAMED[name])])
    with pytest.raises(OddItem, match="in the store cannot be read") as caught:
        read(app)
    assert "/".join(key) in str(caught.value)
    backend.delete([key, join_key("odd")])


def test_a_list_leaves_an_odd_item_out_and_says_so(
    app: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    backend = backend_of(app)
    good = key_of("t", State.SUCCESS, AT, "good", 0)
    odd = key_of("t", State.SUCCESS, AT + 1, "odd", 0)
    backend.put([Item(key=good, fields={"at": AT}), Item(key=odd, fields={"at": None})])
    backend.put([Item(key=Key(PARTITION, "w"), fields={"seen": "now"})])
    backend.put([Item(key=SENT, fields={"id": 1})])
    later = Item(key=Key(SENT.partition, "0001700000001#b"), fields={"id": "b", "body": b"{}"})
    backend.put([later])
    found = Reader(backend).newest(names=["t"], states=[State.SUCCESS])
    assert [event.id for event in found] == ["good"]
    assert Heartbeats(backend).all() == []
    assert [message.id for message in delayed(app)] == ["b"]
    said = [record.getMessage() for record in caplog.records]
    for key in (odd, Key(PARTITION, "w"), SENT):
        assert any("left out" in line and "/".join(key) in line for line in said)
    backend.delete([good, odd, Key(PARTITION, "w"), SENT, later.key])
