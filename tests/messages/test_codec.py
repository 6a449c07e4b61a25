"""Serializers, compression and signatures: what is written, what is read, and what is refused."""

from __future__ import annotations

import base64
import bz2
import json
import pickle
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, Task
from cloudq.driver import Outgoing
from cloudq.errors import ConfigurationError, DecodeError, EncodeError, InvalidArguments
from cloudq.messages.body import arguments, decode, encode
from cloudq.messages.codec import Codec
from cloudq.messages.compression import COMPRESSIONS, compress, expand
from cloudq.messages.message import TaskMessage
from cloudq.messages.optional import library
from cloudq.messages.signing import Keyring
from cloudq.testing import drain
from tests.servers import lacking, unique

LIMIT = 1 << 20
OLD, NEW = "o" * 32, "n" * 32
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def libraries() -> None:
    for module in ("msgpack", "yaml", "zstandard"):
        try:
            library(module, extra="zstd")
        except ConfigurationError:
            lacking(f"{module} is not installed")


def signer(**changes: Any) -> Codec:
    keyring = Keyring(keys={"old": OLD.encode(), "new": NEW.encode()}, signs="new")
    accept = frozenset({"json", "msgpack", "yaml", "pickle"})
    made = Codec(app="shop", apps=frozenset({"shop"}), keyring=keyring, signed_only=True)
    return replace(made, accept=accept, **changes)


OPEN = Codec(accept=frozenset({"json", "msgpack", "yaml"}))
PLAIN = TaskMessage(id="a", task="t", args=["x" * 50, 2, {"$decimal": "1.5"}], queue="orders")


def form(**fields: Any) -> TaskMessage:
    return PLAIN.model_copy(update=fields)


def read(codec: Codec, body: bytes, queue: str = "orders") -> TaskMessage:
    return codec.decode(body, queue=queue, limit=LIMIT)


def sealed(**fields: Any) -> bytes:
    return json.dumps({"v": 2} | fields, separators=(",", ":")).encode()


# ---- what is written comes back


@pytest.mark.parametrize("codec", [OPEN, signer()], ids=["open", "signed"])
@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("serializer", [None, "msgpack", "yaml"])
def test_every_form_comes_back(
    codec: Codec, serializer: str | None, compression: str | None
) -> None:
    text = "naïve 日本語 🦆 \u0000 \ufffe 2026-01-02 yes " * 40
    args = [text, 1, 2.5, None, True, -(2**63), {"$bytes": "/w=="}, [[]], {"no": "yes"}]
    message = form(serializer=serializer, compression=compression, args=args)
    body = codec.encode(message)
    body.decode()  # every broker takes text
    assert read(codec, body) == message


def test_a_plain_message_is_byte_for_byte_what_it_was() -> None:
    assert Codec().encode(PLAIN) == encode(PLAIN)
    assert read(Codec(), encode(PLAIN)) == PLAIN


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compression_is_left_out_where_it_saves_nothing(compression: str) -> None:
    small, large = (
        form(compression=compression, args=["abc"]),
        form(compression=compression, args=["x" * 5000]),
    )
    assert OPEN.encode(small) == encode(small)
    assert len(OPEN.encode(large)) < 300 < len(encode(large))


def test_signed_json_is_readable() -> None:
    body = signer().encode(PLAIN)
    assert json.loads(body)["body"] == json.loads(encode(PLAIN))


def test_a_yaml_body_is_readable() -> None:
    outer = json.loads(OPEN.encode(form(serializer="yaml")))
    assert "task: t\n" in outer["body"]


@pytest.mark.parametrize("name", ["v2-signed", "v2-zlib", "v2-msgpack"])
def test_golden_sealed_envelopes_are_read_as_they_were_meant(name: str) -> None:
    expected = {
        "v2-signed": PLAIN,
        "v2-zlib": form(compression="zlib", args=["x" * 500]),
        "v2-msgpack": form(serializer="msgpack"),
    }
    codec = signer() if name == "v2-signed" else OPEN
    body = (GOLDEN / f"{name}.json").read_bytes()
    assert read(codec, body) == expected[name]
    if name != "v2-zlib":  # whose bytes depend on the library's release
        assert codec.encode(expected[name]) == body


# ---- compression


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_bomb_is_not_inflated(name: str) -> None:
    bomb = compress(name, b" " * 50_000_000)
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(DecodeError, match="more than"):
        expand(name, bomb, limit=LIMIT)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * LIMIT
    body = sealed(zip=name, body=base64.b64encode(bomb).decode())
    with pytest.raises(DecodeError, match="1,048,576"):
        read(OPEN, body)


def test_a_zstd_bomb_that_does_not_name_its_size_is_not_inflated() -> None:
    stream = library("zstandard", extra="zstd").ZstdCompressor().compressobj()
    bomb = stream.compress(b" " * 50_000_000) + stream.flush()
    with pytest.raises(DecodeError, match="zstd"):
        expand("zstd", bomb, limit=LIMIT)


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_the_cap_is_exact(name: str) -> None:
    data = bytes(range(256)) * 16
    assert expand(name, compress(name, data), limit=len(data)) == data
    with pytest.raises(DecodeError, match="more than"):
        expand(name, compress(name, data), limit=len(data) - 1)


@pytest.mark.parametrize("spoil", [lambda d: d[:-3], lambda d: d + b"x", lambda d: b"x" + d])
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_what_is_cut_or_has_a_tail_is_refused(name: str, spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DecodeError, match="malformed"):
        expand(name, spoil(compress(name, b"abc" * 1000)), limit=LIMIT)


def test_a_body_may_not_open_by_other_algorithms() -> None:
    with pytest.raises(DecodeError, match="malformed zlib"):
        expand("zlib", bz2.compress(b"a"), limit=LIMIT)
    with pytest.raises(DecodeError, match="unknown compression 'lzma'"):
        expand("lzma", zlib.compress(b"a"), limit=LIMIT)


# ---- content types


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (sealed(body={"v": 1, "id": "a", "task": "t", "args": ["\ud800"]}), "undecodable: "),
        (sealed(type="toml", body=""), "unknown content type 'toml'"),
        (sealed(type=["json"], body=""), "unknown content type"),
        (sealed(zip="rar", body="aaaa"), "unknown compression 'rar'"),
        (sealed(zip="zlib", body="?"), "not base64"),
        (sealed(zip="zlib", body=7), "no text"),
        (sealed(type="msgpack", body="wQ=="), "malformed msgpack"),
        (sealed(type="msgpack", body="gQEC"), "malformed msgpack"),
        (sealed(type="yaml", body="a: ["), "malformed yaml"),
        (sealed(type="yaml", body="!!python/object/apply:os.getcwd []"), "malformed yaml"),
        (sealed(type="yaml", body="[" * 5000), "malformed yaml"),
        (sealed(type="yaml", body="!!binary aGk="), "JSON cannot say"),
        *[
            (sealed(type="yaml", body=f"a: {value}"), "malformed yaml: ")
            for value in ("!!timestamp x", "!!bool 1", "!!int ''", "!!float x", "!!int [1]")
        ],
        (sealed(type="yaml", body="a: &a [1]\nb: *a"), "aliases"),
        (sealed(type="yaml", body="{v: 1, id: a, task: t}"), "yaml around json"),
        (sealed(type="yaml", body="x"), "not an object"),
        (sealed(body={"v": 1, "id": "a", "task": "t", "serializer": "yaml"}), "json around yaml"),
        (sealed(), "unknown version 2"),
        (sealed(body={"v": 4, "id": "a", "task": "t"}), "unknown version 4"),
        (b'{"v":2,', "undecodable"),
        (b'{"v":2,"body":["\\ud800",123456789012345678901]}', "undecodable"),
        (b'{"v":2,"body":' + b"[" * 500 + b"]" * 500 + b"}", "undecodable"),
    ],
)
def test_what_cannot_be_read_has_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read(OPEN, body)


def test_a_serializer_has_to_be_accepted() -> None:
    for name in ("msgpack", "yaml"):
        body = OPEN.encode(form(serializer=name))
        with pytest.raises(DecodeError, match=f"'{name}' is not in this app's accept_content"):
            read(Codec(), body)


def test_a_sealed_envelope_is_a_reason_to_an_older_release() -> None:
    with pytest.raises(DecodeError, match=r"unknown version 2: .* upgrade the worker"):
        decode(signer().encode(PLAIN), limit=LIMIT)


# ---- signatures


def test_every_changed_byte_is_seen() -> None:
    body = signer().encode(form(args=["pay", 10]))
    for place in range(len(body)):
        changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        with pytest.raises(DecodeError):
            read(signer(), changed)


def test_the_signature_is_checked_before_the_content_is_read() -> None:
    body = signer().encode(PLAIN)[:-1] + b"}}}} not even JSON"
    with pytest.raises(DecodeError, match="bad signature"):
        read(signer(), body)


@pytest.mark.parametrize("body", [encode(PLAIN), OPEN.encode(form(serializer="yaml"))])
def test_what_is_not_signed_is_refused_where_keys_are(body: bytes) -> None:
    with pytest.raises(DecodeError, match="unsigned"):
        read(signer(), body)
    assert read(signer(signed_only=False), body).task == "t"


def test_keys_rotate() -> None:
    """All keys of the ring are accepted, one signs; a key that is taken out counts no more."""
    old = Keyring(keys={"old": OLD.encode()}, signs="old")
    body = signer(keyring=old).encode(PLAIN)
    assert b'"key":"old"' in body
    assert read(signer(), body) == PLAIN
    assert b'"key":"new"' in signer().encode(PLAIN)
    with pytest.raises(DecodeError, match="key 'new' is not among"):
        read(signer(keyring=old), signer().encode(PLAIN))
    other = Keyring(keys={"old": b"x" * 32}, signs="old")
    with pytest.raises(DecodeError, match="not that of key 'old'"):
        read(signer(keyring=other), body)


def test_a_signature_is_for_one_queue_and_for_the_apps_that_are_named() -> None:
    body = signer().encode(PLAIN)
    assert read(signer(), body, queue="https://sqs.example/1/orders") == PLAIN
    with pytest.raises(DecodeError, match="for queue 'orders', not for 'refunds'"):
        read(signer(), body, queue="refunds")
    with pytest.raises(DecodeError, match="app 'web'"):
        read(signer(), signer(app="web").encode(PLAIN))
    assert read(signer(apps=frozenset({"web"})), signer(app="web").encode(PLAIN)) == PLAIN


@pytest.mark.parametrize("app", [[], {}, ["shop"], None, 1, True, {"shop": 1}])
def test_a_signer_may_name_its_app_by_no_text(app: object) -> None:
    rest = sealed(app=app, queue="orders", body={"v": 1, "id": "a", "task": "t"})[len(b'{"v":2,') :]
    body = signer().keyring.signed(rest.lstrip())
    with pytest.raises(DecodeError, match="bad signature: it is app"):
        read(signer(), body)


@pytest.mark.parametrize(
    ("until", "counts"),
    [(10**400, True), (-(10**400), False), (1e308, True)],
    ids=["late", "early", "a float"],
)
def test_a_signer_may_name_any_time(until: float, *, counts: bool) -> None:
    body = {"v": 1, "id": "a", "task": "t"}
    rest = sealed(app="shop", queue="orders", until=until, body=body)[len(b'{"v":2,') :]
    if counts:
        assert read(signer(), signer().keyring.signed(rest)).id == "a"
    else:
        with pytest.raises(DecodeError, match="it has expired"):
            read(signer(), signer().keyring.signed(rest))


def test_a_signature_expires() -> None:
    now = 1_763_700_000.0
    codec = signer(signature_expires=100.0, clock=lambda: now)
    soon, late = codec.encode(PLAIN), codec.encode(form(not_before=now + 1000))
    now += 159
    assert read(codec, soon) == PLAIN
    now += 2
    with pytest.raises(DecodeError, match="expired"):
        read(codec, soon)
    assert read(codec, late).not_before is not None


# ---- pickle


@dataclass
class Point:
    x: int
    at: datetime


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def trapped(path: Path) -> dict[str, str]:
    return {"$pickle": base64.b64encode(pickle.dumps(Trap(str(path)))).decode()}


def test_pickle_is_refused_where_it_is_sent_unless_signed_and_accepted() -> None:
    message = form(serializer="pickle")
    for codec in (
        OPEN,
        replace(OPEN, accept=frozenset({"json", "pickle"})),
        signer(keyring=Keyring()),
    ):
        with pytest.raises(EncodeError, match=r"pickle is refused: .* signing_keys"):
            codec.encode(message)
    with pytest.raises(EncodeError, match="pickle is refused"):
        replace(signer(), accept=frozenset({"json"})).encode(message)
    assert signer().encode(message)


def test_pickle_is_refused_where_it_arrives_unless_signed_and_accepted(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    message = form(serializer="pickle", args=[trapped(trap)])
    unsigned = sealed(type="pickle", body=json.loads(encode(message)))
    loose = signer(signed_only=False)
    for codec, body, reason in (
        (loose, unsigned, "not signed"),
        (loose, encode(message), "not signed"),
        (replace(signer(), accept=frozenset({"json"})), signer().encode(message), "accept_content"),
        (signer(), unsigned, "unsigned"),
    ):
        with pytest.raises(DecodeError, match=reason):
            read(codec, body)
    arguments(read(loose, signer().encode(form(args=[trapped(trap)]))))
    assert not trap.exists()
    arguments(read(signer(), signer().encode(message)))
    assert trap.exists()


# ---- through an app and its executor


@pytest.fixture
def make_app() -> Iterator[Callable[..., CloudQ]]:
    apps: list[CloudQ] = []

    def make(**values: Any) -> CloudQ:
        url = f"memory://{unique()}"
        app = CloudQ("shop", broker=url, backend=url, **values)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def bodies(app: CloudQ, queue: str = "default") -> list[bytes]:
    return [peeked.body for peeked in app.broker.admin.peek(queue, count=10)]


ALL = {
    "accept_content": ["json", "msgpack", "yaml", "pickle"],
    "signing_keys": {"k": OLD},
}


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
def test_a_task_runs_and_is_retried_in_its_form(
    make_app: Callable[..., CloudQ], serializer: str, compression: str | None
) -> None:
    app = make_app(**ALL)
    seen: list[Any] = []

    more = {} if compression is None else {"compression": compression}

    @app.task(bind=True, serializer=serializer, **more)
    def work(self: Task[..., Any], at: datetime, price: Decimal, text: str) -> int:
        seen.append((at, price, len(text), self.request.retries))
        if not self.request.retries:
            raise self.retry(countdown=0)
        return len(text)

    result = work.delay(datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.5"), text="x" * 5000)
    [body] = bodies(app)
    outer = json.loads(body)
    assert outer.get("type", "json") == serializer
    assert outer.get("zip") == compression
    drain(app)
    at, price = datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.5")
    assert seen == [(at, price, 5000, 0), (at, price, 5000, 1)]
    assert result.get(timeout=1) == 5000


def test_pickle_carries_what_json_cannot(make_app: Callable[..., CloudQ]) -> None:
    app = make_app(**ALL, task_serializer="pickle")
    got: list[Any] = []

    @app.task
    def take(*args: Any, **kwargs: Any) -> None:
        got.extend((args, kwargs))

    point = Point(1, datetime(2026, 1, 2, tzinfo=UTC))
    take.delay(point, (1, (2,)), 3, key={1: point})
    drain(app)
    assert got == [(point, (1, (2,)), 3), {"key": {1: point}}]


def test_the_call_goes_above_the_task_and_the_task_above_the_settings(
    make_app: Callable[..., CloudQ],
) -> None:
    app = make_app(task_serializer="yaml", task_compression="zlib")

    @app.task(serializer="msgpack", compression="bz2")
    def own(text: str) -> None: ...

    @app.task
    def plain(text: str) -> None: ...

    text = "x" * 5000
    plain.delay(text)
    own.delay(text)
    own.apply_async((text,), serializer="json", compression="zstd")
    app.send_task("elsewhere", (text,))
    found = [(o.get("type", "json"), o["zip"]) for o in map(json.loads, bodies(app))]
    expected = [("yaml", "zlib"), ("msgpack", "bz2"), ("json", "zstd"), ("yaml", "zlib")]
    assert found == expected


def test_what_is_refused_is_dead_lettered_with_its_reason(
    make_app: Callable[..., CloudQ], tmp_path: Path
) -> None:
    app = make_app(**ALL)

    @app.task(name="t")
    def run(*args: Any) -> None: ...

    good = app.runtime.codec.encode(TaskMessage(id="good", task="t", queue="default"))
    bomb = base64.b64encode(zlib.compress(b" " * 20_000_000)).decode()
    inside = b'"app":"shop","queue":"default","zip":"zlib","body":"%b"}' % bomb.encode()
    sent = {
        "bomb": app.runtime.codec.keyring.signed(inside),
        "unsigned": encode(TaskMessage(id="a", task="t")),
        "unknown": app.runtime.codec.keyring.signed(
            b'"app":"shop","queue":"default","type":"toml","body":""}'
        ),
        "forged": good.replace(b"good", b"evil"),
    }
    app.broker.driver.send("default", [Outgoing(id=id, body=body) for id, body in sent.items()])
    drain(app)
    reasons = [dead.reason or "" for dead in app.broker.admin.peek_dead("default", count=10)]
    expected = ("opens to more than", "unsigned", "unknown content type 'toml'", "bad signature")
    assert len(reasons) == 4
    for part in expected:
        assert [reason for reason in reasons if part in reason], (part, reasons)


# ---- what cannot be asked for


def test_forms_that_there_are_not_are_refused_by_name(make_app: Callable[..., CloudQ]) -> None:
    app = make_app()
    with pytest.raises(ConfigurationError, match="there is no serializer 'xml': known: json, msg"):
        app.task(serializer="xml")(lambda: None)
    with pytest.raises(ConfigurationError, match="there is no compression 'lzma': known: zlib"):
        app.task(compression="lzma")(lambda: None)
    with pytest.raises(InvalidArguments, match="there is no protocol 'amqp': known: cloudq"):
        app.send_task("t", protocol="amqp")
    with pytest.raises(InvalidArguments, match="there is no serializer"):
        app.send_task("t", serializer="xml")
    with pytest.raises(ConfigurationError, match="task_serializer"):
        CloudQ(task_serializer="xml")


def test_a_missing_library_says_what_to_install() -> None:
    with pytest.raises(ConfigurationError, match=r'pip install "cloudq-tasks\[zstd\]"'):
        library("no_such_module", extra="zstd")


def test_keys_are_never_shown() -> None:
    app = CloudQ("shop", signing_keys={"k": OLD})
    assert OLD not in repr(app.conf)
    assert OLD not in str(app.conf.values())
    assert OLD not in str(app.conf.as_json())
    assert OLD not in repr(app.runtime.codec)
    short = "too short a key"
    for values in (
        {"signing_keys": {"k": short}},
        {"signing_keys": {"no such id": OLD}},
        {"signing_keys": short},
        {"signing_keys": {"k": OLD}, "signing_key": "other"},
    ):
        with pytest.raises(ConfigurationError) as caught:
            CloudQ("shop", **values)
        assert short not in str(caught.value)
        assert OLD not in str(caught.value)
