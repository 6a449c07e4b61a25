"""The envelope on the wire: golden bodies of every release, and what is refused with a reason."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.body import arguments, decode, encode
from cloudq.messages.message import FIELDS, TaskMessage, from_given_fields
from cloudq.messages.model import schema

LIMIT = 1 << 20
GOLDEN = Path(__file__).parent / "golden"
SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "message-v1.schema.json"

# What these files hold has been sent by a release: they are added to and never changed.
MESSAGES = {
    "v1-workflow": TaskMessage(
        id="member",
        task="shop.tasks.add",
        args=[2, 3],
        queue="default",
        sent_at=1763700000.0,
        root="first",
        parent="first",
        group="header",
        chain=[{"task": "shop.tasks.add", "args": [1], "id": "next"}],
        link=[{"task": "shop.tasks.told", "immutable": True, "id": "callback"}],
        link_error=[{"task": "shop.tasks.failed"}],
        slot="7@header",
        gather="before",
        depth=2,
        replaced=1,
    ),
    "v1-limited": TaskMessage(
        id="waiting",
        task="shop.tasks.add",
        queue="default",
        sent_at=1763700000.0,
        not_before=1763700030.6,
        waits=2,
        turn=1763700030.6,
        continued=1,
        unique_key="user:7",
    ),
    "v1-form": TaskMessage(
        id="form", task="t", serializer="pickle", compression="zstd", protocol="celery"
    ),
    "v1-minimal": TaskMessage(id="3f1c", task="shop.tasks.add"),
    "v1-everything": TaskMessage(
        id="8a5be0f4-4a7e-4d0e-9a53-0c2d6f0b7c11",
        task="shop.tasks.charge",
        args=[1, "two", 3.5, None, True],
        kwargs={"user": {"id": 7}},
        queue="mail",
        sent_at=1763700000.125,
        not_before=1763700060.5,
        expires=1763703600.0,
        retries=2,
        root="root-1",
        parent="parent-1",
        group="group-1",
        headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        time_limit=30.0,
        soft_time_limit=25.5,
        ignore_result=True,
        group_key="customer-7",
        dedup_key="order-9",
        idempotency_key="charge-9",
    ),
    "v1-shadow": TaskMessage(id="dark", task="t", shadow="shop.import of May"),
    "v1-given-id": TaskMessage(id="mine", task="t", call="0644f4ba5e8c00a1b2c3d4"),
    "v1-ignored-result-off": TaskMessage(id="off", task="t", ignore_result=False),
    "v1-unicode": TaskMessage(
        id="unicode",
        task="t",
        args=["naïve", "日本語", "🦆", "\ufffe\uffff", "\u0000\u001f\u007f", "\u2028"],
        kwargs={"größe": '\\"/'},
    ),
}
VALUES = [
    datetime(2026, 11, 21, 3, 25, 12, 345678, tzinfo=UTC),
    datetime(2026, 11, 21, 3, 25),  # noqa: DTZ001 (one without a zone has to travel too)
    date(2026, 2, 28),
    time(23, 59, 59, 1),
    timedelta(days=-1, seconds=3, microseconds=7),
    Decimal("1.10"),
    UUID("8a5be0f4-4a7e-4d0e-9a53-0c2d6f0b7c11"),
    b"\x00\xff raw",
    {1, 2},
    frozenset({"a"}),
    {1: "one", 2: [3]},
    {"$uuid": "not one"},
    2**70,
    float("inf"),
    float("-inf"),
    {"nested": [{"deep": {b"k": Decimal(0)}}]},
]


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


def body(**fields: Any) -> bytes:
    return json.dumps({"v": 1, "id": "a", "task": "t"} | fields).encode()


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_envelopes_are_written_byte_for_byte(name: str) -> None:
    assert encode(MESSAGES[name]) == golden(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_envelopes_are_read_as_they_were_meant(name: str) -> None:
    assert decode(golden(name), limit=LIMIT) == MESSAGES[name]


def test_every_field_of_the_message_is_in_a_golden_envelope() -> None:
    whole = ("v1-everything", "v1-workflow", "v1-shadow", "v1-limited", "v1-form", "v1-given-id")
    names = {name for each in whole for name in json.loads(golden(each))}
    assert names == set(FIELDS)


def test_golden_values_come_back_as_they_were() -> None:
    args, _ = arguments(decode(golden("v1-values"), limit=LIMIT))
    assert args == VALUES
    assert [type(value) for value in args] == [type(value) for value in VALUES]


def test_golden_values_are_written_byte_for_byte() -> None:
    message = decode(golden("v1-values"), limit=LIMIT)
    assert encode(message) == golden("v1-values")


def test_defaults_are_not_sent() -> None:
    assert encode(TaskMessage(id="a", task="t")) == b'{"v":1,"id":"a","task":"t"}'


def test_keys_of_a_newer_release_are_passed_over() -> None:
    message = decode(golden("v1-from-a-newer-release"), limit=LIMIT)
    assert message == TaskMessage(id="newer", task="t", args=[1])


def test_any_order_spacing_and_explicit_defaults_are_read() -> None:
    message = decode(golden("v1-from-another-language"), limit=LIMIT)
    assert message == TaskMessage(
        id="other", task="shop.tasks.add", args=[2, 3], sent_at=1763700000.0
    )


# ---- the published schema


def test_the_published_schema_is_that_of_the_message() -> None:
    assert json.loads(SCHEMA.read_text()) == schema()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("v1-*.json")), ids=lambda path: path.stem)
def test_golden_envelopes_fit_the_published_schema(path: Path) -> None:
    jsonschema.validate(json.loads(path.read_bytes()), json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "a", "task": "t"},
        {"v": 2, "id": "a", "task": "t"},
        {"v": 1, "task": "t"},
        {"v": 1, "id": "", "task": "t"},
        {"v": 1, "id": "a", "task": "t", "retries": -1},
        {"v": 1, "id": "a", "task": "t", "headers": {"a": 1}},
        {"v": 1, "id": "a", "task": "t", "time_limit": 0},
        {"v": 1, "id": "a", "task": "t", "expires": 1e300},
    ],
    ids=repr,
)
def test_the_schema_and_the_reader_refuse_the_same(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema())
    with pytest.raises(DecodeError):
        decode(json.dumps(wrong).encode(), limit=LIMIT)


# ---- what is not a message


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "undecodable: Invalid JSON"),
        (b"hello", "undecodable: Invalid JSON"),
        (b"\xff\xfe\x00", "undecodable: "),
        (b'{"v":1,"id":"a","task":"t"', "undecodable: Invalid JSON"),
        (b'{"v":1,"id":"a","task":"\xff"}', "undecodable: "),
        (b'{"v":1,"id":"a","task":"\\ud800"}', "undecodable: "),
        (b"[1, 2]", "foreign message: JSON, but not an object"),
        (b"null", "foreign message: JSON, but not an object"),
        (b'"v"', "foreign message: JSON, but not an object"),
        (b"{}", "foreign message: no cloudq version in it"),
        (b'{"Records": [{"eventName": "ObjectCreated:Put"}]}', "foreign message: no cloudq"),
        # Celery's protocol 1 has an id and a task as well.
        (b'{"id": "a", "task": "t", "args": [], "retries": 0}', "foreign message: no cloudq"),
        (b'{"v":2,"id":"a","task":"t"}', "unknown version 2: this release reads version 1"),
        (b'{"v":2,"messages":[]}', "unknown version 2"),
        (b'{"v":"next","id":"a","task":"t"}', "unknown version next"),
        (b'{"v":0,"id":"a","task":"t"}', "unknown version 0"),
        (b'{"v":1,"task":"t"}', "undecodable: id: Field required"),
        (b'{"v":1,"id":"","task":"t"}', "undecodable: id: "),
        (b'{"v":1,"id":"a"}', "undecodable: task: Field required"),
        (body(args={"a": 1}), "undecodable: args: "),
        (body(kwargs=[1]), "undecodable: kwargs: "),
        (body(retries=-1), "undecodable: retries: "),
        (body(headers={"a": 1}), "undecodable: headers.a: "),
        (body(expires="soon"), "undecodable: expires: "),
        (body(expires=1e18), "undecodable: expires: "),
        (b'{"v":1,"id":"a","task":"t","not_before":1e999}', "undecodable: "),
        (b'{"v":1,"id":"a","task":"t","sent_at":NaN}', "undecodable: "),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(sent: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as error:
        decode(sent, limit=LIMIT)
    assert str(error.value).startswith(reason)


def test_an_oversized_body_is_refused_before_it_is_read() -> None:
    sent = body(args=["x" * 2000])
    assert decode(sent, limit=len(sent)).id == "a"
    with pytest.raises(DecodeError, match=f"^oversized: {len(sent):,} bytes, this app accepts"):
        decode(sent, limit=len(sent) - 1)


@pytest.mark.parametrize("levels", [110, 150, 250, 900, 1500, 10_000, 400_000])
@pytest.mark.parametrize(
    ("key", "left", "middle", "right"),
    [
        ("args", b"[", b"", b"]"),
        ("args", b'[{"a":', b"1", b"}]"),
        ("kwargs", b'{"a":', b"1", b"}"),
        ("headers", b'{"a":', b"1", b"}"),
    ],
)
def test_deep_nesting_is_refused_and_crashes_nothing(
    key: str, left: bytes, middle: bytes, right: bytes, levels: int
) -> None:
    nested = left * levels + middle + right * levels
    sent = b'{"v":1,"id":"a","task":"t","%b":%b}' % (key.encode(), nested)
    with pytest.raises(
        DecodeError, match=r"^(arguments nest deeper than 100|undecodable: |oversized: )"
    ):
        decode(sent, limit=1 << 24)


def test_deep_nesting_under_an_unknown_key_is_refused_or_passed_over() -> None:
    sent = b'{"v":1,"id":"a","task":"t","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    with pytest.raises(DecodeError, match=r"^undecodable: "):
        decode(sent, limit=LIMIT)


def test_arguments_of_a_hundred_levels_pass() -> None:
    nested: object = 1
    for _ in range(100):
        nested = [nested]
    message = decode(body(args=[nested]), limit=LIMIT)
    assert message.args == [nested]


@pytest.mark.parametrize(
    "value",
    [
        {"$datetime": "yesterday"},
        {"$datetime": 5},
        {"$date": "2026-02-31"},
        {"$time": []},
        {"$timedelta": [1e300]},
        {"$timedelta": 3},
        {"$decimal": "ten"},
        {"$uuid": "short"},
        {"$uuid": 5},
        {"$uuid": None},
        {"$bytes": "!"},
        {"$bytes": 1},
        {"$int": "1.5"},
        {"$int": "9" * 10_000},
        {"$float": "x"},
        {"$set": 1},
        {"$set": [[1]]},
        {"$dict": [[1]]},
        {"$dict": [[[1], 2]]},
        {"$dict": 1},
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_malformed_tag_is_refused(value: dict[str, Any]) -> None:
    message = decode(body(args=[1, [value]]), limit=LIMIT)
    with pytest.raises(DecodeError, match=rf"malformed \{next(iter(value))} value"):
        arguments(message)


def test_a_body_has_no_characters_that_sqs_refuses() -> None:
    text = "\ufffe\uffff" + "".join(map(chr, range(32))) + "\ufffd\uffef"
    sent = encode(TaskMessage(id="a", task="t", args=[text]))
    assert decode(sent, limit=LIMIT).args == [text]
    allowed = {*range(0x20, 0xD800), *range(0xE000, 0xFFFE), *range(0x10000, 0x110000)}
    assert {ord(character) for character in sent.decode()} <= allowed


def test_a_lone_surrogate_is_refused_at_the_sender() -> None:
    with pytest.raises(EncodeError, match="cannot be written as JSON"):
        encode(from_given_fields({"id": "a", "task": "t", "args": ["\udce4"]}))
