"""Every field of a message has a bound, and numbers have one wherever they are read."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.body import arguments, decode, encode
from cloudq.messages.codec import Codec
from cloudq.messages.fields import LONGEST_LIMIT, MOST
from cloudq.messages.message import TaskMessage
from cloudq.messages.signing import Keyring
from cloudq.messages.values import from_wire, load_value, to_wire

LIMIT = 1 << 20


def body(**fields: Any) -> bytes:
    return json.dumps({"v": 1, "id": "a", "task": "t"} | fields).encode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, MOST + 1) for name in ("retries", "depth", "replaced", "waits", "continued")),
        ("retries", 10**4200),
        *((name, 1e308) for name in ("time_limit", "soft_time_limit", "turn", "sent_at")),
        ("time_limit", LONGEST_LIMIT + 1),
        ("soft_time_limit", float("inf")),
        ("v", 10**4000),
        *((name, "x" * 256) for name in ("id", "task", "root", "parent", "group", "gather")),
        *((name, "a\x1b[31m") for name in ("id", "task", "root", "queue", "shadow")),
        ("shadow", "x" * 2000),
        ("id", "two\nlines"),
        ("id", "line\u2028separator"),
        ("slot", "x"),
        ("slot", "-1@join"),
        ("slot", "²@join"),
        ("slot", "1@"),
        ("slot", "1000000000@join"),
        ("slot", "1@" + "x" * 256),
        *((f"{name}_key", "x" * 2049) for name in ("group", "dedup", "idempotency", "unique")),
        ("headers", {"x" * 256: ""}),
        ("headers", {"a\nb": ""}),
        ("headers", {"a": "x" * 16_385}),
        ("headers", {str(n): "" for n in range(257)}),
        ("chain", [1]),
        ("link", {"task": "t"}),
        ("serializer", "x" * 33),
    ],
)
def test_a_field_beyond_its_bound_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(DecodeError, match=rf"^(undecodable: {field}|unknown version)") as refused:
        decode(body(**{field: value}), limit=LIMIT)
    assert len(str(refused.value)) < 1000


def test_what_is_within_the_bounds_is_read() -> None:
    fields: dict[str, Any] = {
        "retries": MOST,
        "time_limit": LONGEST_LIMIT,
        "slot": "999999999@" + "j" * 255,
        "headers": {"baggage": "b" * 8192},
        "queue": "https://sqs.eu-central-1.example.org/1/q",
        "id": "größe 7/日本",
        "group_key": "two\nlines",
    }
    message = decode(body(**fields), limit=LIMIT)
    assert {name: getattr(message, name) for name in fields} == fields


@pytest.mark.parametrize("name", ["serializer", "compression", "protocol"])
def test_a_form_that_no_copy_can_be_written_in_is_refused(name: str) -> None:
    with pytest.raises(DecodeError, match=f"undecodable: there is no {name} 'nope'"):
        Codec().decode(body(**{name: "nope"}), queue="q", limit=LIMIT)


def test_a_plain_body_cannot_ask_for_a_serializer_that_is_not_accepted() -> None:
    with pytest.raises(DecodeError, match="'yaml' is not in this app's accept_content"):
        Codec().decode(body(serializer="yaml"), queue="q", limit=LIMIT)


# ---- numbers

UNUSUAL = b'{"v":1,"id":"a","task":"t","args":[18446744073709551616,-1e400,NaN,{"a":[1e999]}]}'


def test_numbers_that_json_cannot_write_again_come_back_as_they_were() -> None:
    message = decode(UNUSUAL, limit=LIMIT)
    for each in (message, decode(encode(message), limit=LIMIT)):  # as a retry sends it
        args, _ = arguments(each)
        assert args[0] == 2**64
        assert args[1] == float("-inf")
        assert args[2] != args[2]
        assert args[3] == {"a": [float("inf")]}


def test_large_numbers_stay_whole_in_a_signed_body() -> None:
    codec = Codec(keyring=Keyring(keys={"k": b"k" * 32}, signs="k"), apps=frozenset({"cloudq"}))
    rest = b'"app":"cloudq","queue":"q","body":{"v":1,"id":"a","task":"t","args":[%d]}}' % 2**70
    message = codec.decode(codec.keyring.signed(rest), queue="q", limit=LIMIT)
    assert arguments(message)[0] == [2**70]


@pytest.mark.parametrize(
    "value",
    [
        {"$decimal": "1e10000000"},
        {"$decimal": "1e-10000000"},
        {"$decimal": "0e999999"},
        {"$decimal": "9" * 5000},
        {"$decimal": 1},
        {"$int": "9" * 4301},
        {"$int": "1_0"},
        {"$int": "\u0661"},
        {"$int": 1.5},
        {"$float": "1e5"},
        {"$float": 1},
        {"$timedelta": [1e308, 0, 0]},
        {"$timedelta": [1, 2, 3, 4]},
        {"$timedelta": "abc"},
        {"$set": [{"$decimal": "sNaN"}]},
        {"$dict": [1]},
    ],
)
def test_a_number_beyond_any_use_is_malformed(value: object) -> None:
    for read in (from_wire, lambda given: load_value(json.dumps(given))):
        with pytest.raises(DecodeError, match="malformed"):
            read([value])


@pytest.mark.parametrize(
    "value",
    [Decimal("1e6145"), Decimal("1e-6145"), Decimal("9" * 4301), 10**4300, -(10**4300)],
    ids=["large", "small", "digits", "integer", "negative"],
)
def test_what_no_reader_takes_is_refused_at_the_call(value: object) -> None:
    with pytest.raises(EncodeError, match="cannot be sent"):
        to_wire([value])


@pytest.mark.parametrize(
    "value",
    [
        *map(Decimal, ("1.10", "-0", "1e6144", "1e-6144", "NaN", "-Infinity", "9" * 4300)),
        10**4300 - 1,
        -(10**4300) + 1,
        float("inf"),
    ],
    ids=range(10),
)
def test_a_number_at_its_bound_comes_back(value: Any) -> None:
    back = from_wire(json.loads(json.dumps(to_wire(value))))
    assert type(back) is type(value)
    assert repr(back) == repr(value) if isinstance(value, Decimal) else back == value


def test_values_nested_too_deep_reach_no_writer() -> None:
    codec = Codec(accept=frozenset({"json", "yaml", "msgpack"}))
    deep = b'{"v":2,"body":' + b"[" * 240 + b"]" * 240 + b"}"
    with pytest.raises(DecodeError, match="undecodable: the values nest deeper"):
        codec.decode(deep, queue="q", limit=LIMIT)


def test_counts_end_at_their_bound() -> None:
    assert TaskMessage(id="a", task="t", retries=MOST).retries == MOST
