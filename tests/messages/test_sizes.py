"""A message has so many values, and so many members of one hash, and no more."""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

import pytest

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.body import arguments, decode, encode
from cloudq.messages.codec import Codec
from cloudq.messages.message import TaskMessage
from cloudq.messages.size import MOST_CONTAINERS, MOST_VALUES, check_tree
from cloudq.messages.values import from_wire, to_wire

LIMIT = 1 << 24
# Python's hash of a number is its remainder by this.
MODULUS = 2**61 - 1
MANY: list[Any] = [[[]] * MOST_CONTAINERS, [{}] * MOST_CONTAINERS, [1] * (MOST_VALUES + 1)]


def plain(*args: Any) -> bytes:
    message = {"v": 1, "id": "a", "task": "t", "args": args}
    return json.dumps(message, separators=(",", ":")).encode()


def sealed(body: bytes) -> bytes:
    return b'{"v":2,"body":%b}' % body


def zipped(body: bytes) -> bytes:
    return b'{"v":2,"zip":"zlib","body":"%b"}' % base64.b64encode(zlib.compress(body))


def celery(body: bytes) -> bytes:
    content = b"[%b,{},{}]" % body[body.index(b"[") : -1]
    return base64.b64encode(
        json.dumps(
            {
                "body": base64.b64encode(zlib.compress(content)).decode(),
                "content-type": "application/json",
                "headers": {"task": "t", "id": "a", "compression": "application/x-gzip"},
                "properties": {"body_encoding": "base64"},
            }
        ).encode()
    )


@pytest.mark.parametrize("form", [plain, sealed, zipped, celery], ids=lambda form: form.__name__)
@pytest.mark.parametrize("many", MANY, ids=["lists", "objects", "numbers"])
def test_more_values_than_can_be_read_soon_are_refused_before(form: Any, many: Any) -> None:
    body = plain(many) if form is plain else form(plain(many))
    codec = Codec(formats={"q": ["celery"]})
    start = time.process_time()
    with pytest.raises(DecodeError, match=r"^oversized: a message of more than"):
        codec.decode(body, queue="q", limit=LIMIT)
    assert time.process_time() - start < 3  # reading them takes ten times as long


def test_as_many_as_there_may_be_are_read() -> None:
    given = [[]] * (MOST_CONTAINERS - 3)
    assert decode(encode(TaskMessage(id="a", task="t", args=[given])), limit=LIMIT).args == [given]


def test_signs_within_text_do_not_count() -> None:
    text = '[{",\\"' * MOST_CONTAINERS
    assert decode(plain(text, "\\"), limit=LIMIT).args == [text, "\\"]


@pytest.mark.parametrize("many", MANY, ids=["lists", "objects", "numbers"])
def test_what_would_be_refused_is_not_sent(many: Any) -> None:
    with pytest.raises(EncodeError, match="a message of more than"):
        encode(TaskMessage(id="a", task="t", args=[many]))


@pytest.mark.parametrize("many", MANY, ids=["lists", "objects", "numbers"])
def test_a_read_tree_has_the_same_bounds(many: Any) -> None:
    with pytest.raises(DecodeError, match=r"^oversized"):
        check_tree({"args": many})
    check_tree({"args": many[: MOST_CONTAINERS // 2]})


def packed(value: Any) -> bytes:
    import msgpack

    return base64.b64encode(msgpack.packb({"v": 1, "id": "a", "task": "t", "args": [value]}))


def test_msgpack_has_the_same_bounds() -> None:
    codec = Codec(accept=frozenset({"json", "msgpack"}))
    body = b'{"v":2,"type":"msgpack","body":"%b"}' % packed([0] * (MOST_VALUES + 1))
    with pytest.raises(DecodeError, match=r"^oversized"):
        codec.decode(body, queue="q", limit=LIMIT)


# ---- hashes


COLLIDING = [
    {"$set": [{"$int": str(MODULUS * n)} for n in range(3000)]},
    {"$frozenset": [{"$uuid": f"{MODULUS * n:032x}"} for n in range(3000)]},
    {"$set": [{"$tuple": [{"$int": str(MODULUS * n)}]} for n in range(3000)]},
    {"$dict": [[{"$decimal": str(MODULUS * n)}, 1] for n in range(3000)]},
]


@pytest.mark.parametrize("value", COLLIDING, ids=["set", "frozenset", "tuples", "dict"])
def test_members_that_share_a_hash_are_refused(value: Any) -> None:
    with pytest.raises(DecodeError, match="3,000 members have only 1 hashes"):
        from_wire(value)


def test_members_of_hashes_of_their_own_come_back() -> None:
    given: Any = [set(range(100_000)), {(n, str(n)): n for n in range(10_000)}]
    given.append({MODULUS * n for n in range(500)})
    message = TaskMessage(id="a", task="t", args=to_wire(given))
    assert arguments(decode(encode(message), limit=LIMIT))[0] == given


# ---- YAML


@pytest.mark.parametrize(
    "text",
    [
        ":".join(["1"] * 100_000),
        f'!!int "{":".join(["1"] * 100_000)}"',
        f'!!float "{":".join(["1"] * 100_000)}"',
        "{" + ",".join(f"{MODULUS * n}: 1" for n in range(5, 3000)) + "}",
        "{" + ",".join(f"{MODULUS * n:#x}: 1" for n in range(16, 3000)) + "}",
        "{" + ",".join(f"{MODULUS * n:#b}: 1" for n in range(16, 3000)) + "}",
    ],
    ids=["base-60", "tagged", "float", "decimal", "hexadecimal", "binary"],
)
def test_numbers_of_yaml_that_cost_the_square_of_their_number_are_refused(text: str) -> None:
    codec = Codec(accept=frozenset({"json", "yaml"}))
    body = json.dumps(f"v: 1\nid: a\ntask: t\nargs: [{text}]").encode()
    with pytest.raises(DecodeError, match=r"malformed yaml: (a number|more than 500)"):
        codec.decode(b'{"v":2,"type":"yaml","body":%b}' % body, queue="q", limit=LIMIT)


def test_text_and_numbers_of_yaml_are_read_as_before() -> None:
    codec = Codec(accept=frozenset({"json", "yaml"}))
    given = ["2001:0db8:85a3:0000:0000:8a2e:0370:7334", "0123456789abcdef" * 20, "1:2" * 60, 10**17]
    given += [f"{n:032d}" for n in range(600)]
    message = TaskMessage(id="a", task="t", args=[given], serializer="yaml")
    assert codec.decode(codec.encode(message), queue="q", limit=LIMIT).args == [given]


def test_yaml_of_more_values_than_can_be_read_soon_is_refused_here_and_there() -> None:
    codec = Codec(accept=frozenset({"json", "yaml"}))
    many: list[Any] = [[]] * 50_000
    body = json.dumps(f"v: 1\nid: a\ntask: t\nargs: [{'[],' * 50_000}]").encode()
    with pytest.raises(DecodeError, match="oversized: YAML of more than 100,000"):
        codec.decode(b'{"v":2,"type":"yaml","body":%b}' % body, queue="q", limit=LIMIT)
    with pytest.raises(EncodeError, match="cannot be sent as YAML: oversized"):
        codec.encode(TaskMessage(id="a", task="t", args=many, serializer="yaml"))
    few = TaskMessage(id="a", task="t", args=many[:40_000], serializer="yaml")
    assert codec.decode(codec.encode(few), queue="q", limit=LIMIT).args == few.args
