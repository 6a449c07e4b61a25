"""Payloads that are encrypted: nothing is in the clear, and nothing that was changed opens."""

from __future__ import annotations

import base64
import io
import secrets
from pathlib import Path
from typing import Any

import pytest

from cloudq import DecodeError, File
from cloudq.messages.encryption import Encryption
from cloudq.messages.json_text import json_bytes
from cloudq.messages.payload_places import READING, writing
from cloudq.messages.payloads import MESSAGES, Claim, Payloads
from cloudq.messages.sealed_payloads import Sealing, opened
from cloudq.messages.values import from_wire, to_wire
from cloudq_local.blob_files import BlobFiles

PART = 1 << 20
KEY = "messages/2026-11-30/" + "0" * 32
OTHER = "messages/2026-11-30/" + "1" * 32
SIZES = (0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 5)


def secret() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.fixture
def encryption() -> Encryption:
    return Encryption({"k1": secret()})


def store(folder: Path, encryption: Encryption | None, app: str = "shop") -> Payloads:
    driver = BlobFiles(folder)
    return Payloads(
        driver, url="file:///x", most=1 << 30, app=app, encryption=encryption, sleep=lambda _: None
    )


def sealed(encryption: Encryption, data: bytes, key: str = KEY) -> bytes:
    made = Sealing(encryption, "shop", key, io.BytesIO(data), len(data))
    text = made.read()
    assert len(text) == made.length
    return text


def plain(encryption: Encryption, text: bytes, key: str = KEY, *, step: int = 70_001) -> bytes:
    parts = (text[start : start + step] for start in range(0, len(text), step))
    return b"".join(opened(encryption, key, parts))


def put(payloads: Payloads, value: object) -> Claim:
    wire = to_wire(value)
    claim, content = payloads.claim(MESSAGES, wire, json_bytes(wire))
    payloads.store(claim.key, io.BytesIO(content), claim.size)
    return claim


def fetched(payloads: Payloads, wire: object) -> Any:
    token = READING.set(lambda: payloads)
    try:
        return from_wire(wire)
    finally:
        READING.reset(token)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_opens(encryption: Encryption, size: int) -> None:
    data = secrets.token_bytes(size)
    for step in (1 << 16, 3 * PART):
        assert plain(encryption, sealed(encryption, data), step=step) == data


@pytest.mark.parametrize("size", [5, 2 * PART + 5])
def test_one_that_was_changed_opens_not(encryption: Encryption, size: int) -> None:
    text = sealed(encryption, secrets.token_bytes(size))
    header = text.index(b"\n") + 1
    places = {0, 5, header - 2, header, header + 11, header + 12, len(text) - 1, len(text) - 17}
    if size > PART:
        places |= {header + PART, header + PART + 28, header + PART + 40}
    for place in places:
        changed = bytearray(text)
        changed[place] ^= 1
        with pytest.raises(DecodeError):
            plain(encryption, bytes(changed))


def test_parts_are_not_moved_left_out_or_added(encryption: Encryption) -> None:
    text = sealed(encryption, secrets.token_bytes(3 * PART))
    header = text.index(b"\n") + 1
    whole = PART + 28
    first, second, third = (text[header + n * whole : header + (n + 1) * whole] for n in range(3))
    assert plain(encryption, text[:header] + first + second + third)
    for wrong in (
        second + first + third,
        first + third,
        first + second,
        first + second + third + third,
        third,
        b"",
        first + second + third[:-1],
        first + second + third[:20],
    ):
        with pytest.raises(DecodeError, match="bad seal"):
            plain(encryption, text[:header] + wrong)


def test_one_under_another_key_opens_not(encryption: Encryption) -> None:
    text = sealed(encryption, b"mine")
    with pytest.raises(DecodeError, match="changed, or cut short"):
        plain(encryption, text, OTHER)


def test_an_unknown_key_and_none_are_named(encryption: Encryption) -> None:
    text = sealed(encryption, b"x")
    with pytest.raises(DecodeError, match="sealed with key 'k1', which is not among encryption_k"):
        plain(Encryption({"k2": secret()}), text)
    with pytest.raises(DecodeError, match="is encrypted, and this app has no encryption_keys"):
        b"".join(opened(None, KEY, [text]))


@pytest.mark.parametrize(
    "text",
    [
        *[b"", b"x", b"\n", b"{}\n", b"[4]\n", b'{"v":5}\n', b"x" * 20_000],
        *[b'{"v":4}\n', b'{"v":4,"app":"shop"}\n', b'{"v":4,"app":"shop","with":"k1"}\n'],
    ],
)
def test_what_is_not_sealed_is_refused(encryption: Encryption, text: bytes) -> None:
    with pytest.raises(DecodeError, match="bad seal"):
        plain(encryption, text)


def test_a_header_has_a_longest_length_and_no_more_is_read_for_it(encryption: Encryption) -> None:
    with pytest.raises(DecodeError, match="no header that this release knows"):
        b"".join(opened(encryption, KEY, [b"x" * 16_384, b"\n"]))
    raw = iter([b"x" * 16_384, b"x", b"the rest"])
    with pytest.raises(DecodeError, match="cut short, or not sealed"):
        b"".join(opened(encryption, KEY, raw))
    assert next(raw) == b"the rest"


def test_it_is_sought_from_its_start_alone(encryption: Encryption) -> None:
    made = Sealing(encryption, "shop", KEY, io.BytesIO(b"data"), 4)
    for whence in (io.SEEK_CUR, io.SEEK_END):
        with pytest.raises(io.UnsupportedOperation, match="from its start only"):
            made.seek(0, whence)


def test_a_header_of_the_longest_length_is_read(encryption: Encryption) -> None:
    header, _, rest = sealed(encryption, b"x").partition(b"\n")
    longest = header.ljust(16_384)
    assert b"".join(opened(encryption, KEY, [longest, b"\n" + rest])) == b"x"
    with pytest.raises(DecodeError, match="cut short, or not sealed"):
        b"".join(opened(encryption, KEY, [longest + b" ", b"\n" + rest]))


def test_an_empty_header_is_none(encryption: Encryption) -> None:
    with pytest.raises(DecodeError, match="no header that this release knows"):
        b"".join(opened(encryption, KEY, [b"\n", b"the rest"]))


def test_content_that_is_shorter_than_its_size_ends_early(encryption: Encryption) -> None:
    """Whoever stores it counts its bytes."""
    made = Sealing(encryption, "shop", KEY, io.BytesIO(bytes(PART + 5)), PART + 6)
    text = made.read()
    assert len(text) == text.index(b"\n") + 1 + PART + 28
    assert made.read() == b""


def test_it_is_read_as_other_files_are(encryption: Encryption) -> None:
    """The libraries of services ask it what it can do."""
    made = Sealing(encryption, "shop", KEY, io.BytesIO(b"data"), 4)
    assert made.readable()
    assert made.seekable()
    assert made.read(0) == b""
    assert made.tell() == 0
    assert len(made.read(-1)) == made.length


def test_it_can_be_read_again_from_any_place(encryption: Encryption) -> None:
    data = secrets.token_bytes(2 * PART)
    made = Sealing(encryption, "shop", KEY, io.BytesIO(data), len(data))
    text = made.read()
    for place in (0, 10, PART, PART + 500, len(text) - 1, len(text)):
        made.seek(place)
        assert made.tell() == place
        assert made.read(1000) == text[place : place + 1000]


def test_content_that_changes_is_not_sealed_again(encryption: Encryption) -> None:
    content = io.BytesIO(b"first")
    made = Sealing(encryption, "shop", KEY, content, 5)
    made.read()
    content.getbuffer()[0:1] = b"F"
    made.seek(0)
    with pytest.raises(ValueError, match="has changed while it was stored"):
        made.read()


def test_nothing_is_stored_in_the_clear(encryption: Encryption, tmp_path: Path) -> None:
    payloads = store(tmp_path, encryption)
    values = [["the marker"] * 1000, "the marker" * 1000, b"the marker" * 200_000]
    claims = [put(payloads, value).to_wire() for value in values]
    assert fetched(payloads, claims) == values
    assert all(claim["$blob"]["sealed"] for claim in claims)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"marker" not in stored


def test_the_claims_app_counts(encryption: Encryption, tmp_path: Path) -> None:
    claim = put(store(tmp_path, encryption), "x" * 5000)
    lost = store(tmp_path, Encryption({"k1": secret()}))
    with pytest.raises(DecodeError):
        fetched(lost, claim.to_wire())


def test_a_plain_one_is_refused_where_encryption_is_required(
    encryption: Encryption, tmp_path: Path
) -> None:
    claim = put(store(tmp_path, None), "x" * 5000)
    with pytest.raises(DecodeError, match="is not encrypted: this app accepts only what is"):
        fetched(store(tmp_path, encryption), claim.to_wire())
    keys, seals, _, _ = encryption.given
    lenient = Encryption(keys, seals=seals, required=False)
    assert fetched(store(tmp_path, lenient), claim.to_wire()) == "x" * 5000


def test_older_keys_open_while_rotating(encryption: Encryption, tmp_path: Path) -> None:
    claim = put(store(tmp_path, encryption), "x" * 5000)
    keys = {"k2": secret(), **encryption.given[0]}
    both = Encryption(keys, seals="k2")
    assert fetched(store(tmp_path, both), claim.to_wire()) == "x" * 5000
    newer = put(store(tmp_path, both), "y" * 5000)
    with pytest.raises(DecodeError, match="'k2'"):
        fetched(store(tmp_path, encryption), newer.to_wire())


def test_files_are_sealed(encryption: Encryption, tmp_path: Path) -> None:
    payloads = store(tmp_path / "p", encryption)
    data = secrets.token_bytes(2_500_000)
    with writing(lambda: payloads):
        wire = to_wire(File.from_bytes(data, "a.bin"))
    read = fetched(payloads, wire)
    assert read.read() == data
    assert from_wire(to_wire(read)) == read
    [path] = [path for path in (tmp_path / "p").rglob("*") if path.is_file()]
    assert data[:100] not in path.read_bytes()
