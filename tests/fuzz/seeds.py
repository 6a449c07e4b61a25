"""Valid bodies, as recipes: every notation, compression, signature, seal and form that is read."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from cloudq.messages.ids import bundled_id, new_bundle
from cloudq.messages.values import to_wire
from tests.fuzz.recipes import APP, INNER, QUEUE, Recipe, Wire

GOLDEN = Path(__file__).parent.parent / "messages" / "golden"
BLOB = "messages/2026-11-30/" + "0" * 32
HELD = b'[1,{"a":"b"},null]'
"""What lies under `BLOB` in the payload store."""
_STEP = {"task": "echo", "args": [1], "kwargs": {}, "options": {"task_id": "s"}}
_VALUES: Sequence[Any] = (
    datetime(2026, 11, 30, 1, 2, 3, 4, tzinfo=UTC),
    datetime(2026, 11, 30),  # noqa: DTZ001
    date(2026, 11, 30),
    time(1, 2, 3),
    timedelta(1, 2, 3),
    Decimal("1.50"),
    UUID(int=7),
    b"\x00\xff",
    {1, 2},
    frozenset({"a"}),
    {(1, "a"): 2, None: [3]},
    2**70,
    float("inf"),
    [1.5, -0.0, True, None, "naïve 日本語 🦆", {"a": {"b": [[]]}}],
)


def claim(form: str = "json", *, sealed: bool = False) -> Wire:
    """Make a claim to what is in the payload store."""
    said: Wire = {"key": BLOB, "size": len(HELD), "sha256": hashlib.sha256(HELD).hexdigest()}
    return {"$blob": said | {"as": form} | ({"sealed": True} if sealed else {})}


def file() -> Wire:
    """Make a reference to it as a file."""
    content = claim()["$blob"]
    del content["as"]
    return {"$file": content | {"name": "a.png", "type": "image/png"}}


def trees() -> list[Wire]:
    """Make messages of version 1, with all that one may have."""
    everything: Wire = {
        "v": 1,
        "id": "m1",
        "task": "echo",
        "args": [1, "two", 3.5, None, True],
        "kwargs": {"user": {"id": 7}},
        "queue": QUEUE,
        "sent_at": 1763700000.125,
        "expires": 1e11,
        "retries": 1,
        "root": "r",
        "parent": "p",
        "group": "g",
        "headers": {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        "time_limit": 30.0,
        "soft_time_limit": 20.0,
        "ignore_result": False,
        "group_key": "k",
        "dedup_key": "d",
        "idempotency_key": "i",
        "chain": [_STEP, {"group": [_STEP, {"chain": [_STEP, _STEP]}]}],
        "link": [_STEP],
        "link_error": [{**_STEP, "immutable": True}],
        "slot": "3@join",
        "shadow": "s",
        "depth": 2,
        "unique_key": "u",
        "call": "0644f4ba5e8c00a1b2c3d4",
    }
    chord = {"chord": [_STEP, _STEP], "body": _STEP}
    return [
        everything,
        {"v": 1, "id": "m2", "task": "echo"},
        {"v": 1, "id": "m3", "task": "typed", "args": [5], "chain": [chord, _STEP]},
        {"v": 1, "id": "m4", "task": "order", "args": [{"id": 5}]},
        {"v": 1, "id": "m5", "task": "echo", "args": [to_wire(each) for each in _VALUES]},
        {"v": 1, "id": "m6", "task": "boom", "args": [{"$decimal": "1.5"}], "link_error": [_STEP]},
        {"v": 1, "id": "m7", "task": "again", "retries": 1, "waits": 2, "turn": 1.5},
        {"v": 1, "id": "m8", "task": "once", "idempotency_key": "k", "kwargs": {"a": claim()}},
        {"v": 1, "id": "m9", "task": "echo", "args": [claim("text"), claim("bytes"), file()]},
        {"v": 1, "id": "m10", "task": "many", "args": ["x"], "unique_key": "u"},
        {"v": 1, "id": "m11", "task": "cloudq.map", "args": ["echo", [1, 2]]},
        {"v": 1, "id": "m12", "task": "cloudq.starmap", "args": ["echo", [[1], [2]]]},
        {"v": 1, "id": "m13", "task": "echo", "chain": [{"more": "0" * 32, "at": 0, "id": "z"}]},
        {"v": 1, "id": "m14", "task": "limited", "headers": {"cloudq-schedule": "s"}},
    ]


def bundles() -> list[Wire]:
    """Make bundles of version 3."""
    name = new_bundle()
    calls: list[Wire] = [{"n": n, "args": [n], "kwargs": {"a": str(n)}} for n in range(4)]
    shared = {"task": "echo", "queue": QUEUE, "sent_at": 1763700000.0, "headers": {"a": "b"}}
    odd = [
        {"n": 0, "task": "boom", "link": [_STEP]},
        {"n": 1, "task": "echo", "args": [claim()], "slot": "1@join"},
        {"n": 9999, "task": "typed", "args": [1], "expires": 1e11},
    ]
    return [
        {"v": 3, "id": name, "all": shared, "calls": calls},
        {"v": 3, "id": new_bundle(), "all": {}, "calls": odd},
        {"v": 3, "id": new_bundle(), "all": {"task": "again"}, "calls": [{"n": 0}]},
    ]


def _bound(id: str) -> Wire:
    return {"app": APP, "queue": QUEUE, "until": 4e9, "id": id, "task": "echo"}


# The other forms take ten times as long, or say no more.
_QUICK = (("json", None), ("json", "zlib"), ("msgpack", None), ("msgpack", "zstd"))


def _forms(tree: Wire) -> Iterator[Recipe]:
    """Yield a message in all forms of its own."""
    yield Recipe(tree=tree)
    for notation in ("json", "msgpack", "yaml"):
        for zipped in (None, "zlib", "bz2", "zstd"):
            if (notation, zipped) not in _QUICK and tree["id"] != "m1":
                continue
            inner = tree if notation == "json" else {**tree, "serializer": notation}
            fields = _bound(tree["id"])
            fields |= {} if notation == "json" else {"type": notation}
            fields |= {} if zipped is None else {"zip": zipped}
            made = Recipe(tree=inner, notation=notation, zip=zipped, fields=fields)
            for kind in ("enveloped", "signed", "encrypted", "both"):
                yield replace(made, kind=kind)


def messages() -> list[Recipe]:
    """Make messages in all forms, and those that older releases wrote."""
    found = trees()
    made = [recipe for tree in found[:5] for recipe in _forms(tree)]
    made += [Recipe(tree=tree) for tree in found[5:]]
    made += [
        Recipe(tree=tree, kind=kind, fields=_bound(tree["id"]))
        for tree in found[5:]
        for kind in ("signed", "both")
    ]
    pickled = {**found[1], "serializer": "pickle", "args": [{"$pickle": "gASVBAAAAAAAAABLBS4="}]}
    made.append(Recipe(tree=pickled, kind="signed", fields={**_bound("m2"), "type": "pickle"}))
    made += [Recipe(whole=path.read_bytes()) for path in sorted(GOLDEN.glob("*.json"))]
    for path in sorted(GOLDEN.glob("v1*.json")):
        made.append(Recipe(tree=json.loads(path.read_bytes())))
    return made


def bundled() -> list[Recipe]:
    """Make bundles in all forms."""
    made: list[Recipe] = []
    for tree in bundles():
        fields = _bound(tree["id"])
        made.append(Recipe(tree=tree))
        for kind in ("enveloped", "signed", "encrypted", "both"):
            made.append(Recipe(tree=tree, kind=kind, fields=fields))
            made.append(Recipe(tree=tree, kind=kind, zip="zlib", fields=fields | {"zip": "zlib"}))
    return made


# ---- Celery's


def celery() -> list[Recipe]:
    """Make messages as Celery's clients send them, of protocol 2, and of protocol 1."""
    group = {"task": "celery.group", "kwargs": {"tasks": [_STEP, _STEP]}, "options": {}}
    chord = {"task": "celery.chord", "kwargs": {"header": group, "body": _STEP}, "options": {}}
    embed = {"callbacks": [_STEP], "errbacks": [_STEP], "chain": [chord, _STEP], "chord": None}
    tagged = [1, {"__type__": "decimal", "__value__": "1.5"}]
    contents: list[Any] = [
        [[1], {}, {}],
        [tagged, {"a": {"__type__": "uuid", "__value__": "0" * 32}}, embed],
        [[], {"task": {"task": "echo"}, "it": [1, 2]}, {}],
    ]
    headers: Wire = {
        "lang": "py",
        "task": "echo",
        "id": "c1",
        "retries": 0,
        "timelimit": [9, 8],
        "eta": "2026-11-21T09:48:43.680474+00:00",
        "expires": None,
        "root_id": "r",
        "parent_id": "p",
        "group": "g",
        "group_index": 0,
        "shadow": None,
        "argsrepr": "()",
        "ignore_result": False,
        "stamps": {"a": "b"},
        "cloudq": {"depth": 1, "group_key": "a", "sent_at": 1763700000.0},
        "own": "header",
    }
    made: list[Recipe] = []
    kinds = {"json": "json", "msgpack": "x-msgpack", "yaml": "x-yaml"}
    quick = [("json", None), ("json", "zlib"), ("msgpack", None), ("yaml", None)]
    zips = {None: None, "zlib": "application/x-gzip", "bz2": "application/x-bz2"}
    for number, content in enumerate(contents):
        for notation, named in kinds.items():
            for zipped, kind in zips.items():
                if number and (notation, zipped) not in quick:
                    continue
                own = headers | ({} if kind is None else {"compression": kind})
                own |= {"task": "celery.map"} if number == 2 else {}
                outer = {
                    "content-encoding": "utf-8",
                    "content-type": f"application/{named}",
                    "headers": own,
                    "properties": {"body_encoding": "base64", "correlation_id": "a"},
                }
                made.append(
                    Recipe(tree=content, notation=notation, zip=zipped, kind="celery", fields=outer)
                )
    first = {"id": "c2", "task": "echo", "args": [1], "kwargs": {}, "retries": 0, "eta": None}
    made.append(Recipe(tree=first, kind="celery", fields={"headers": {}, "properties": {}}))
    return made


# ---- events of functions


def events() -> list[Recipe]:
    """Make what the platforms of functions call a handler with, with bodies in them."""
    bodies = [Recipe(tree=tree) for tree in trees()[:8]]
    bodies += [Recipe(tree=tree) for tree in bundles()]
    bodies += [r for r in messages() if r.kind in ("signed", "both") and r.zip is None][:6]
    bodies += celery()[:2]
    return [
        replace(shape, inner=inner if INNER in json.dumps(shape.fields) else None)
        for shape in map(_event, _shapes())
        for inner in bodies
    ]


def _event(fields: Wire) -> Recipe:
    return Recipe(kind="event", fields=fields)


def _shapes() -> list[Wire]:
    record = {
        "messageId": "s1",
        "receiptHandle": "receipt",
        "body": INNER,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1763700000000",
            "MessageGroupId": "g",
        },
        "messageAttributes": {"cloudq-id": {"stringValue": "i", "dataType": "String"}},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{QUEUE}",
    }
    other = {**record, "messageId": "s2", "receiptHandle": "other", "body": '{"v":1}'}
    call = {"task": "echo", "args": [1], "kwargs": {"a": 2}}
    detail = {"id": "e1", "source": "shop", "detail-type": "x", "detail": call}
    message = {
        "data": INNER + "64",
        "messageId": "p1",
        "publishTime": "2026-02-26T19:13:55.749Z",
        "attributes": {"cloudq-id": "i"},
        "orderingKey": "",
    }
    push = {
        "message": message,
        "subscription": f"projects/shop/subscriptions/{QUEUE}",
        "deliveryAttempt": 1,
    }
    return [
        {"to": "lambda", "event": {"Records": [record, other]}},
        {"to": "lambda", "event": call},
        {"to": "lambda", "event": call | {"schedule": {"name": "n", "time": "2026-01-01"}}},
        {"to": "lambda", "event": detail},
        {
            "to": "lambda",
            "event": {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": INNER}}]},
        },
        {"to": "lambda", "event": {"Records": [{"eventSource": "aws:s3", "s3": {"object": {}}}]}},
        {"to": "push", "headers": {}, "event": push},
        {"to": "push", "headers": {"x-goog-pubsub-message-id": "1"}, "event": call},
        {"to": "event", "event": push},
        {"to": "servicebus", "body": INNER + "64", "count": 1, "id": "b1", "session": None},
        {"to": "servicebus", "body": INNER + "64", "count": 2, "id": "b1", "session": "s"},
        {"to": "lambda", "event": [{"eventType": "grid", "data": call, "topic": "/x"}]},
    ]


# ---- values and payloads


def values() -> list[Recipe]:
    """Make values as results have them."""
    made = [Recipe(tree=to_wire(value)) for value in _VALUES]
    made += [Recipe(tree=tree) for tree in (claim(), claim("text"), claim("bytes"), file())]
    made.append(Recipe(tree=[claim(), {"a": file()}, to_wire({1, 2.5}), to_wire(2**80)]))
    made.append(Recipe(tree=claim(sealed=True)))
    return made


PART = 1 << 20
SIZES = (0, 1, 30, 5000, PART - 1, PART, PART + 1, 2 * PART + 5)


def numbered(calls: int = 3) -> list[str]:
    """Make ids of one bundle."""
    name = new_bundle()
    return [bundled_id(name, number) for number in range(calls)]


def as_text(data: bytes) -> str:
    """Write bytes for a tree."""
    return base64.b64encode(data).decode()
