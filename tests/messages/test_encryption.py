"""Encrypted bodies: what comes back, what is refused and why, and what is not to be seen."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq import CloudQ
from cloudq.errors import ConfigurationError, DecodeError, EncodeError
from cloudq.messages.bundle import Bundle
from cloudq.messages.codec import Codec
from cloudq.messages.compression import COMPRESSIONS
from cloudq.messages.encryption import Encryption
from cloudq.messages.envelope import form_of
from cloudq.messages.ids import bundled_id, new_bundle
from cloudq.messages.message import TaskMessage
from cloudq.messages.signing import Keyring

LIMIT = 1 << 20
K1, K2 = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
MARK = "the-card-4111"


def codec(*, keys: dict[str, str] | None = None, seals: str | None = None, **changes: Any) -> Codec:
    encryption = Encryption(keys or {"k1": K1}, seals=seals)
    made = Codec(app="shop", apps=frozenset({"shop"}), encryption=encryption, encrypted_only=True)
    return replace(made, accept=frozenset({"json", "msgpack", "yaml"}), **changes)


SIGNS = Keyring(keys={"s": b"s" * 32}, signs="s")
PLAIN = TaskMessage(id="a1", task="shop.pay", args=[MARK, 2], queue="orders")
ONE = codec()
SIGNED = codec(keyring=SIGNS, signed_only=True)


def read(reader: Codec, body: bytes, queue: str = "orders") -> TaskMessage:
    return reader.decode(body, queue=queue, limit=LIMIT)


def refused(reader: Codec, body: bytes, queue: str = "orders") -> str:
    with pytest.raises(DecodeError) as caught:
        reader.read(body, queue=queue, limit=LIMIT)
    assert MARK not in str(caught.value)
    assert caught.value.fields is None
    return str(caught.value)


def header(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)
    return found


# ---- what comes back


@pytest.mark.parametrize("writer", [ONE, SIGNED], ids=["encrypted", "signed too"])
@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("serializer", [None, "msgpack", "yaml"])
def test_every_form_comes_back(
    writer: Codec, serializer: str | None, compression: str | None
) -> None:
    args = [MARK * 50, "naïve 日本語 🦆 \u0000", 1, 2.5, None, -(2**63), {"$bytes": "/w=="}]
    message = PLAIN.model_copy(
        update={"serializer": serializer, "compression": compression, "args": args}
    )
    body = writer.encode(message)
    body.decode("ascii")  # every broker takes text
    assert MARK.encode() not in body
    assert read(writer, body) == message
    if compression is not None:
        assert len(body) < len(writer.encode(PLAIN.model_copy(update={"args": args})))


@given(
    args=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    ),
    id=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40),
    signed=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_round_trips(args: list[Any], id: str, signed: bool) -> None:
    both = SIGNED if signed else ONE
    message = PLAIN.model_copy(update={"args": args, "id": id})
    assert read(both, both.encode(message)) == message


def calls(count: int = 5) -> list[TaskMessage]:
    name = new_bundle()
    return [
        PLAIN.model_copy(update={"id": bundled_id(name, n), "args": [MARK, n]})
        for n in range(count)
    ]


@pytest.mark.parametrize("writer", [ONE, SIGNED], ids=["encrypted", "signed too"])
def test_bundles_come_back(writer: Codec) -> None:
    sent = calls()
    body = writer.encode_bundle(sent)
    assert MARK.encode() not in body
    found = writer.read(body, queue="orders", limit=LIMIT)
    assert isinstance(found, Bundle)
    assert list(found.calls) == sent
    assert header(body)["id"] == found.name
    assert header(body)["task"] == "shop.pay"


def test_a_body_is_never_written_twice() -> None:
    assert ONE.encode(PLAIN) != ONE.encode(PLAIN)


@pytest.mark.parametrize("hides", [False, True])
def test_the_name_of_a_task_is_readable_or_not(hides: bool) -> None:
    writer = codec(encryption=Encryption({"k1": K1}, hides_task=hides))
    for body in (writer.encode(PLAIN), writer.encode_bundle(calls())):
        assert (b"shop.pay" in body) is not hides
    assert read(writer, writer.encode(PLAIN)) == PLAIN


# ---- what is refused, and why


def test_an_unknown_key() -> None:
    body = codec(keys={"k2": K2}).encode(PLAIN)
    assert refused(ONE, body) == "sealed with key 'k2', which is not among encryption_keys"
    plain_reader = Codec(app="shop", apps=frozenset({"shop"}))
    assert refused(plain_reader, body) == (
        "sealed with key 'k2', which is not among encryption_keys"
    )


def test_another_key_of_the_same_name() -> None:
    assert "changed, or not what key 'k1' has encrypted" in refused(
        codec(keys={"k1": K2}), ONE.encode(PLAIN)
    )


def test_another_queue() -> None:
    body = ONE.encode(PLAIN)
    assert refused(ONE, body, "mail") == "bad seal: it is for queue 'orders', not for 'mail'"
    moved = body.replace(b'"queue":"orders"', b'"queue":"mail"')
    assert "changed, or not what key 'k1' has encrypted for app 'shop', queue 'mail'" in refused(
        ONE, moved, "mail"
    )


def test_another_app() -> None:
    body = codec(app="bank").encode(PLAIN)
    assert refused(ONE, body) == "bad seal: it is app 'bank''s, which is not in signing_apps"
    moved = body.replace(b'"app":"bank"', b'"app":"shop"')
    assert "changed, or not" in refused(ONE, moved)
    assert read(codec(apps=frozenset({"shop", "bank"})), body) == PLAIN


def test_another_id() -> None:
    moved = ONE.encode(PLAIN).replace(b'"id":"a1"', b'"id":"a2"')
    assert "for app 'shop', queue 'orders' and id 'a2'" in refused(ONE, moved)


def test_a_holder_of_the_key_cannot_name_another_id_either() -> None:
    sealing = ONE.encryption
    assert sealing is not None
    fields = {"app": "shop", "queue": "orders", "id": "a2"}
    rest = sealing.sealed("shop", fields, Codec().encode(PLAIN))
    assert refused(ONE, b'{"v":4,' + rest) == "bad seal: it is for id 'a2', not for 'a1'"


def test_the_body_of_another_message() -> None:
    one, two = ONE.encode(PLAIN), ONE.encode(PLAIN.model_copy(update={"id": "a2"}))
    head, _, _ = one.rpartition(b',"body":"')
    _, _, tail = two.rpartition(b',"body":"')
    assert "changed, or not" in refused(ONE, head + b',"body":"' + tail)


def test_a_body_that_is_cut_short() -> None:
    body = ONE.encode(PLAIN)
    for length in range(8, len(body)):
        reason = refused(ONE, body[:length])
        assert "cut short" in reason, reason
    head, _, text = body.rpartition(b',"body":"')
    for length in range(0, len(text) - 2, 4):
        reason = refused(ONE, head + b',"body":"' + text[:length] + b'"}')
        assert "cut short" in reason or "changed" in reason


@pytest.mark.parametrize("writer", [ONE, SIGNED], ids=["encrypted", "signed too"])
@pytest.mark.parametrize("length", range(3))  # base64 ends in another way for each
def test_no_byte_can_be_changed(writer: Codec, length: int) -> None:
    body = writer.encode(PLAIN.model_copy(update={"args": [MARK, "x" * length]}))
    for place in range(len(body)):
        for bit in range(8):
            changed = bytearray(body)
            changed[place] ^= 1 << bit
            refused(writer, bytes(changed))


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_bytes_put_in_and_taken_out(data: st.DataObject) -> None:
    body = ONE.encode(PLAIN)
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 20)))
    changed = body[:start] + data.draw(st.binary(max_size=20)) + body[end:]
    if changed != body:
        refused(ONE, changed)


def test_what_is_not_encrypted() -> None:
    open_codec = Codec(app="shop", keyring=SIGNS)
    zipped = PLAIN.model_copy(update={"compression": "zlib", "args": ["x" * 500]})
    for body in (Codec().encode(PLAIN), open_codec.encode(PLAIN), Codec().encode(zipped)):
        assert refused(codec(keyring=SIGNS), body).startswith("not encrypted")
    assert refused(ONE, Codec().encode_bundle(calls())).startswith("not encrypted")
    introducing = replace(ONE, encrypted_only=False)
    assert read(introducing, Codec().encode(PLAIN)) == PLAIN


def test_the_signature_is_verified_before_anything_is_decrypted() -> None:
    assert refused(SIGNED, ONE.encode(PLAIN)).startswith("unsigned")
    body = SIGNED.encode(PLAIN)
    stripped = b'{"v":4,' + body.partition(b'",')[2].partition(b'",')[2]
    assert read(ONE, stripped) == PLAIN
    assert refused(SIGNED, stripped).startswith("unsigned")
    changed = body[:-6] + (b"AAAA" if body[-6:-2] != b"AAAA" else b"BBBB") + body[-2:]
    assert refused(SIGNED, changed) == "bad signature: it is not that of key 's'"
    other = codec(keyring=Keyring(keys={"s": b"t" * 32}, signs="s"))
    assert refused(SIGNED, other.encode(PLAIN)) == "bad signature: it is not that of key 's'"


def test_a_signature_of_one_version_is_none_of_another() -> None:
    body = SIGNED.encode(PLAIN).replace(b'{"v":4,', b'{"v":2,', 1)
    assert refused(SIGNED, body) == "bad signature: it is not that of key 's'"


def test_an_expired_signature() -> None:
    late = replace(SIGNED, signature_expires=10.0, clock=lambda: 0.0)
    body = late.encode(PLAIN)
    assert read(late, body) == PLAIN
    assert refused(SIGNED, body) == "bad seal: it has expired"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b'"app":"shop"',
        b'"app":1,"queue":"orders","id":"a","with":"k1","wrapped":""',
        b'"app":"shop","queue":"orders","id":"a","with":"k1","wrapped":""',
        b'"app":"shop","queue":"orders","id":"a","with":"k1","wrapped":"a"',
        b'"app":"shop","queue":"orders","id":"a","with":"k1","wrapped":"\xc3\xa4"',
        b'"app":"shop","queue":"orders","id":"a","with":"\\u0000","wrapped":""',
        b'"app":"shop","queue":"orders","id":"a","with":"k1","wrapped":"","zip":{}',
        b'"app":"shop","queue":"orders","id":"a","with":"k1","wrapped":"","type":"x"',
        b'"app":"shop","queue":"orders","id":"a","with":"k1","wrapped":"","until":"x"',
        b'"a":' + b"[" * 5000,
        b'"a":"' + b"x" * 20_000 + b'"',
    ],
)
def test_odd_headers(head: bytes) -> None:
    for text in (b"", b"AAAA", b"A" * 64, b"\xff", b"=" * 8):
        refused(ONE, b'{"v":4,' + head + b',"body":"' + text + b'"}')


def test_an_older_release_says_what_to_do() -> None:
    from cloudq.messages.body import decode

    with pytest.raises(DecodeError, match=r"unknown version 4.*upgrade the worker"):
        decode(ONE.encode(PLAIN), limit=LIMIT)
    assert form_of(ONE.encode(PLAIN)) == "encrypted"
    assert form_of(b'{"v":2,"body":1}') == "signed, compressed or in a notation of its own"
    assert form_of(b'{"v":1}') is None


def test_what_another_format_cannot_encrypt_is_not_sent() -> None:
    celery = PLAIN.model_copy(update={"protocol": "celery"})
    with pytest.raises(EncodeError, match="cannot be encrypted"):
        ONE.encode(celery)
    assert form_of(replace(ONE, encrypted_only=False).encode(celery)) is not None


# ---- keys


def test_rotation() -> None:
    old, both = codec(), codec(keys={"k1": K1, "k2": K2})
    new = codec(keys={"k1": K1, "k2": K2}, seals="k2")
    last = codec(keys={"k2": K2})
    assert read(both, old.encode(PLAIN)) == read(old, both.encode(PLAIN)) == PLAIN
    assert read(both, new.encode(PLAIN)) == read(last, new.encode(PLAIN)) == PLAIN
    assert read(new, both.encode(PLAIN)) == PLAIN
    assert "'k1', which is not among" in refused(last, both.encode(PLAIN))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encryption_keys": {"k": "x" * 44}}, "base64 of 32 bytes is expected"),
        ({"encryption_keys": {"k": base64.b64encode(b"x" * 16).decode()}}, "32 bytes is expected"),
        ({"encryption_keys": {"k": "awskmz://x"}}, "did you mean awskms"),
        ({"encryption_keys": {"k 1": K1}}, "the id of a key is 1 to 64 letters, digits"),
        ({"encryption_keys": K1}, "keys by their ids are expected"),
        ({"signing_keys": {"k": "x" * 31}}, "a key of at least 32 characters is expected"),
        ({"encryption_keys": {"k": K1}, "encryption_key": "j"}, "not the id of one of the encr"),
        ({"encryption_key": "j"}, "encryption_keys, and there are none: set them too"),
    ],
)
def test_wrong_keys(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        CloudQ("shop", broker="memory://", **values)
    assert "xxxx" not in str(caught.value)
    assert K1 not in str(caught.value)
    assert "***" not in str(caught.value), "what is wrong is not taken for a key"


def test_keys_are_not_shown() -> None:
    app = CloudQ("shop", broker="memory://", encryption_keys={"k": K1})
    shown = f"{app.conf!r} {app.conf.as_json()} {app.runtime.codec!r} {app.runtime.encryption!r}"
    assert K1 not in shown
    assert repr(bytes([1]) * 32) not in shown


def test_changed_settings_count_at_once() -> None:
    app = CloudQ("shop", broker="memory://", encryption_keys={"k1": K1})
    body = app.runtime.codec.encode(PLAIN)
    kept = app.runtime.encryption
    assert app.runtime.encryption is kept
    app.configure(encryption_keys={"k2": K2, "k1": K1})
    assert read(app.runtime.codec, body) == PLAIN
    assert header(app.runtime.codec.encode(PLAIN))["with"] == "k2"


def test_without_keys_nothing_is_imported() -> None:
    program = """
import sys
from cloudq import CloudQ
from cloudq.testing import drain
app = CloudQ("shop", broker="memory://none")
ran = []
app.task(name="t")(ran.append)
app.send_task("t", args=[1])
drain(app)
assert ran == [1]
odd = ("cryptography", "cloudq.messages.encryption", "cloudq.messages.data_keys")
print([name for name in odd if name in sys.modules])
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"
