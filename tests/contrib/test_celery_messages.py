"""Celery's messages as kombu writes them: what is read, what is written, what is refused."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from time import tzset
from typing import Any
from uuid import UUID

import pytest

from cloudq import CloudQ, chord, group
from cloudq.driver import Outgoing
from cloudq.errors import DecodeError, EncodeError, InvalidArguments
from cloudq.messages.body import arguments
from cloudq.messages.codec import Codec
from cloudq.messages.message import FIELDS, TaskMessage
from cloudq.messages.values import to_wire
from cloudq.testing import drain
from tests.servers import unique

LIMIT = 1 << 20
CODEC = Codec(formats={"orders": ("celery",)})
HEADERS = {"lang": "py", "task": "t", "id": "a", "root_id": "a", "retries": 0}
TIMES = {"eta": "2026-11-21T09:48:43.680474+00:00", "expires": "2026-11-21T11:50:18.5+02:00"}


def signature(task: str, *args: Any, id: str | None = None, **options: Any) -> dict[str, Any]:
    given = options | ({"task_id": id} if id else {})
    made = {"task": task, "args": args, "kwargs": {}, "options": given}
    return made | {"subtask_type": None, "immutable": False}


def special(kind: str, id: str | None = None, **kwargs: Any) -> dict[str, Any]:
    options = {"task_id": id} if id else {}
    made = {"task": f"celery.{kind}", "args": [], "kwargs": kwargs, "options": options}
    return made | {"subtask_type": kind, "immutable": False}


def celery_body(
    args: Any = (),
    kwargs: Any = None,
    *,
    headers: dict[str, Any] | None = None,
    content: bytes | None = None,
    outer: dict[str, Any] | None = None,
    **embed: Any,
) -> bytes:
    if content is None:
        nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        content = json.dumps([args, kwargs or {}, nothing | embed]).encode()
    made = {
        "body": base64.b64encode(content).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": HEADERS | (headers or {}),
        "properties": {"body_encoding": "base64", "correlation_id": "a"},
    }
    return base64.b64encode(json.dumps(made | (outer or {})).encode())


def read(body: bytes) -> TaskMessage:
    return CODEC.decode(body, queue="orders", limit=LIMIT)


# ---- reading


def test_everything_of_a_call_is_read() -> None:
    more = {"retries": 2, "timelimit": [50, 40], "root_id": "r", "parent_id": "p", "group": "g"}
    given = {**TIMES, **more, "ignore_result": True, "tenant": "blue", "argsrepr": "(1,)"}
    message = read(celery_body([1, "two"], {"key": None}, headers=given))
    assert message == TaskMessage(
        id="a",
        task="t",
        args=[1, "two"],
        kwargs={"key": None},
        queue="orders",
        not_before=datetime(2026, 11, 21, 9, 48, 43, 680474, UTC).timestamp(),
        expires=datetime(2026, 11, 21, 9, 50, 18, 500000, UTC).timestamp(),
        retries=2,
        root="r",
        parent="p",
        group="g",
        headers={"tenant": "blue"},
        time_limit=50,
        soft_time_limit=40,
        ignore_result=True,
        protocol="celery",
    )


def test_a_time_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    body = celery_body(headers={"eta": "2026-11-21T09:48:43"})
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    tzset()
    try:
        assert read(body).not_before == datetime(2026, 11, 21, 9, 48, 43, tzinfo=UTC).timestamp()
    finally:
        monkeypatch.undo()
        tzset()


def test_json_that_is_not_in_base64_is_read_too() -> None:
    assert read(base64.b64decode(celery_body([7]))).args == [7]


def test_a_compressed_body_is_read_up_to_the_cap() -> None:
    plain = json.dumps([[1], {}, {}]).encode()
    headers = {"compression": "application/x-gzip"}
    assert read(celery_body(content=zlib.compress(plain), headers=headers)).args == [1]
    bomb = zlib.compress(b" " * 50_000_000)
    with pytest.raises(DecodeError, match="opens to more than"):
        read(celery_body(content=bomb, headers=headers))


VALUES = [
    datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    date(2026, 1, 2),
    time(3, 4),
    Decimal("1.50"),
    UUID(int=7),
    b"\xff",
    {"$uuid": "just a dict"},
    [{"deep": [None, True, 1.5]}],
]


def test_values_that_json_lacks_go_there_and_back() -> None:
    sent = CODEC.encode(
        TaskMessage(id="a", task="t", args=[to_wire(v) for v in VALUES], protocol="celery")
    )
    inner = json.loads(base64.b64decode(json.loads(base64.b64decode(sent))["body"]))
    assert inner[0][4] == {"__type__": "uuid", "__value__": {"hex": UUID(int=7).hex}}
    assert arguments(read(sent))[0] == VALUES


def test_everything_that_celery_can_say_goes_there_and_back() -> None:
    message = TaskMessage(
        id="a", task="t", args=[1], kwargs={"k": 2}, queue="orders", sent_at=1763700000.0,
        not_before=1763700060.5, expires=1763703600.0, retries=1, root="r", parent="p",
        headers={"tenant": "blue"}, time_limit=30.0, soft_time_limit=25.5, ignore_result=True,
        idempotency_key="once", depth=3, replaced=1, compression="zlib", protocol="celery",
        chain=[{"task": "b", "args": [1], "kwargs": {}, "id": "B"}],
        link=[{"task": "c", "args": [], "kwargs": {}, "immutable": True, "id": "C"}],
        link_error=[{"task": "d", "args": [], "kwargs": {}}],
    )  # fmt: skip
    again = read(CODEC.encode(message))
    dropped = {"chain", "link", "link_error"}
    kept = FIELDS.keys() - dropped
    assert [getattr(again, name) for name in kept] == [getattr(message, name) for name in kept]
    for name in dropped:
        [there], [back] = getattr(message, name), getattr(again, name)
        assert {k: v for k, v in there.items() if v} == {k: v for k, v in back.items() if v}


def test_a_chain_is_read_from_its_end_with_the_chord_in_it() -> None:
    members = [signature("m", 1, id="m1"), signature("m", 2, id="m2")]
    header = special("group", id="g", tasks=members)
    joined = special("chord", id="g", header=header, body=signature("total", id="T"), kwargs={})
    message = read(celery_body(chain=[joined, signature("b", 5, id="B", queue="mail")]))
    assert message.chain == [
        {"task": "b", "args": [5], "id": "B", "options": {"queue": "mail"}},
        {
            "chord": [
                {"task": "m", "args": [1], "id": "m1"},
                {"task": "m", "args": [2], "id": "m2"},
            ],
            "body": {"task": "total", "id": "T"},
            "id": "g",
        },
    ]


def test_callbacks_have_the_same_ids_whenever_the_message_is_read() -> None:
    nested = special("chain", tasks=[signature("c"), special("group", tasks=[signature("d")])])
    linked = signature("b", link=[signature("e")])
    body = celery_body(callbacks=[linked, nested], errbacks=[signature("f")])
    first, again = read(body), read(body)
    assert first == again
    ids = [part for part in json.dumps(first.link).split('"') if len(part) == 36]
    assert len(ids) == len(set(ids)) >= 4
    other = read(celery_body(callbacks=[linked, nested], headers={"id": "z"}))
    assert other.link != first.link


def test_map_and_starmap_become_ours() -> None:
    body = celery_body(
        kwargs={"task": signature("add"), "it": [[1, 2], [3, 4]]},
        headers={"task": "celery.starmap"},
    )
    message = read(body)
    assert (message.task, message.args) == ("cloudq.starmap", ["add", [[1, 2], [3, 4]]])
    assert read(CODEC.encode(message)) == message


def deep(levels: int) -> Any:
    return 1 if not levels else [deep(levels - 1)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (celery_body(chord=signature("total")), "a member of a Celery chord"),
        (celery_body(headers={"task": None}), "without task and id"),
        (celery_body(content=b'{"id": "a", "task": "t"}'), "protocol 1"),
        (celery_body(content=b"?"), "undecodable Celery message"),
        (celery_body(outer={"body": "?"}), "undecodable Celery message"),
        (celery_body(outer={"content-type": "application/x-python-serialize"}), "'pickle' is ref"),
        (celery_body(outer={"content-type": "application/x-yaml"}), "not in this app's accept"),
        (celery_body(outer={"content-type": "text/plain"}), "unknown content type 'text/plain'"),
        (celery_body(headers={"compression": "application/x-lzma"}), "unknown compression"),
        (celery_body(headers={"eta": "soon"}), "'soon' is no time"),
        (celery_body(headers={"eta": 5}), "undecodable Celery message"),
        (celery_body(headers={"timelimit": 7}), "undecodable Celery message"),
        (celery_body(headers={"retries": -1}), "retries"),
        (celery_body([{"__type__": "set", "__value__": [1]}]), "of type 'set'"),
        (celery_body([{"__type__": "uuid", "__value__": "x"}]), "undecodable"),
        (celery_body([deep(150)]), "deeper than"),
        (celery_body(callbacks=[{"no": "task"}]), "is no Celery signature"),
        (celery_body(callbacks=[signature("celery.accumulate")]), "has no like here"),
        (celery_body(callbacks=7), "undecodable Celery message"),
        (celery_body(["x" * 3 * LIMIT]), "oversized"),
        (b"e30=", "undecodable|foreign"),
        (b"not base64", "undecodable"),
    ],
)
def test_what_cannot_be_run_here_has_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read(body)


def test_celery_is_read_only_where_its_queue_says_so() -> None:
    with pytest.raises(DecodeError, match="undecodable"):
        CODEC.decode(celery_body(), queue="other", limit=LIMIT)


# ---- writing


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"args": [{"$set": [1]}]}, "a set cannot be sent to Celery"),
        ({"slot": "1@join"}, "belongs to a chord"),
        ({"gather": "join"}, "belongs to a chord"),
        ({"serializer": "yaml"}, "in json, not yaml"),
        ({"task": "cloudq.collect"}, "which has no such task"),
        ({"chain": [{"task": "cloudq.map"}]}, "which has no such task"),
        ({"task": "cloudq.map", "args": [None, [1]]}, "the name of a task, and a list"),
        ({"task": "cloudq.starmap", "args": ["t", None]}, "the name of a task, and a list"),
        ({"task": "cloudq.map", "args": ["t"]}, "the name of a task, and a list"),
    ],
)
def test_what_celery_has_no_word_for_is_refused(fields: dict[str, Any], reason: str) -> None:
    message = TaskMessage(**({"id": "a", "task": "t", "protocol": "celery"} | fields))
    with pytest.raises(EncodeError, match=reason):
        CODEC.encode(message)


# ---- through an app


@pytest.fixture
def app() -> Iterator[CloudQ]:
    url = f"memory://{unique()}"
    with CloudQ(
        "shop", broker=url, backend=url, queue_accept={"default": ["celery"]}, max_retries=2
    ) as app:
        yield app


def test_a_retry_of_a_celery_message_is_one_again(app: CloudQ) -> None:
    """So that Celery's workers on the same queue can take it."""

    @app.task(name="t", bind=True)
    def run(self: Any, x: int) -> int:
        raise self.retry(countdown=100)

    app.broker.driver.send("default", [Outgoing(id="a", body=celery_body([5]))])
    drain(app)
    [waiting] = app.broker.scheduled("default", count=5)
    again = json.loads(base64.b64decode(waiting.body))
    assert again["headers"]["retries"] == 1
    assert datetime.fromisoformat(again["headers"]["eta"]) > datetime.now(UTC)
    assert app.runtime.codec.decode(waiting.body, queue="default", limit=LIMIT).args == [5]


def test_a_message_of_celery_that_cannot_be_read_fails_under_its_id(app: CloudQ) -> None:
    app.task(name="t")(lambda value: value)
    bodies = [celery_body(headers={"id": "a", "retries": -1}), celery_body(7, headers={"id": "b"})]
    app.broker.driver.send("default", [Outgoing(id="x", body=body) for body in bodies])
    drain(app)
    for id in ("a", "b"):
        with pytest.raises(DecodeError):
            app.AsyncResult(id).get(timeout=0)


def test_protocol_and_queue_produce_say_what_is_written(app: CloudQ) -> None:
    app.conf.queue_produce["legacy"] = "celery"
    app.send_task("t", queue="legacy")
    app.send_task("t", queue="legacy", protocol="cloudq")
    app.send_task("t", protocol="celery")
    app.send_task("t")
    written = {
        queue: [each.body[:7] for each in app.broker.admin.peek(queue, count=5)]
        for queue in ("legacy", "default")
    }
    theirs, ours = b"eyJib2R", b'{"v":1,'
    assert written == {"legacy": [theirs, ours], "default": [theirs, ours]}


def test_a_chord_is_not_sent_in_celerys_protocol(app: CloudQ) -> None:
    app.conf.queue_produce["default"] = "celery"
    work = chord(group(app.signature("t", (1,)), app.signature("t", (2,))), app.signature("t"))
    with pytest.raises(InvalidArguments, match="a chord cannot have tasks in Celery's protocol"):
        app.start(work, (), {})
    assert not app.broker.admin.peek("default", count=5)


# ---- hostile fields


@pytest.mark.parametrize(
    "kept",
    [
        {"v": 5},
        {"slot": "x"},
        {"chain": [{"bogus": 1}], "gather": "j"},
        {"serializer": "pickle", "protocol": "nope", "compression": "rar"},
        {"of_a_newer_release": 1, "unique_key": "u"},
        [1],
        "x",
    ],
)
def test_unknown_keys_of_our_own_header_do_nothing(kept: Any) -> None:
    plain = read(celery_body([1]))
    assert read(celery_body([1], headers={"cloudq": kept})) == plain


@pytest.mark.parametrize(
    "headers",
    [
        {"retries": 10**4000},
        {"retries": "many"},
        {"timelimit": [1e308, None]},
        {"timelimit": [1]},
        {"timelimit": {"a": 1, "b": 2}},
        {"timelimit": 5},
        {"eta": 5},
        {"eta": "0001-01-01T00:00:00+14:00"},
        {"expires": "9999-12-31T23:59:59-14:00"},
        {"id": "a\x1b[31m"},
        {"id": ""},
        {"task": "x" * 300},
        {"root_id": {"a": 1}},
        {"group": "x" * 300},
        {"a\nb": "c"},
        {"compression": ["x"]},
        {"cloudq": {"depth": -1}},
        {"cloudq": {"group_key": 5}},
    ],
)
def test_a_header_beyond_its_bound_is_refused(headers: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        read(celery_body([1], headers=headers))


@pytest.mark.parametrize(
    "value",
    [
        {"__type__": "decimal", "__value__": "1e10000000"},
        {"__type__": "decimal", "__value__": 5},
        {"__type__": ["decimal"], "__value__": "1"},
        {"__type__": "uuid", "__value__": {"a": 1}},
        {"__type__": "uuid", "__value__": []},
    ],
)
def test_a_value_beyond_any_use_is_refused(value: Any) -> None:
    with pytest.raises(DecodeError, match="undecodable Celery value"):
        read(celery_body([value]))


@pytest.mark.parametrize("place", ["chain", "callbacks", "errbacks"])
def test_more_signatures_than_can_be_read_soon_are_refused(place: str) -> None:
    many = [special("group", tasks=[{"task": "t"}] * 5_000)] * 2
    with pytest.raises(DecodeError, match="more than 10,000 signatures"):
        read(celery_body([1], headers={}, content=None, **{place: many}))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/x-yaml", b"[[" + b":".join([b"1"] * 100_000) + b"],{},{}]"),
        ("application/json", b"[[" + b"{}," * 300_000 + b"{}],{},{}]"),
    ],
)
def test_a_body_that_takes_long_to_read_is_refused(kind: str, content: bytes) -> None:
    codec = Codec(accept=frozenset({"json", "yaml"}), formats={"orders": ("celery",)})
    body = celery_body(content=content, outer={"content-type": kind})
    with pytest.raises(DecodeError, match=r"oversized|too long"):
        codec.decode(body, queue="orders", limit=LIMIT)
