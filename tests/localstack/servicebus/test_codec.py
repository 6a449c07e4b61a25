"""AMQP's types survive the way there and back, and no bytes do any harm."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstack.servicebus import codec, frames, message
from localstack.servicebus.values import DecodeError, Described, Symbol, Timestamp

LONGS = st.integers(-(2**63), 2**63 - 1)
KEYS = st.text(max_size=300) | st.text(max_size=20).map(Symbol) | LONGS
PLAIN = (
    st.none()
    | st.booleans()
    | LONGS
    | LONGS.map(Timestamp)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.text(max_size=20).map(Symbol)
    | st.binary(max_size=300)
    | st.uuids()
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=300)
        | st.dictionaries(KEYS, inner, max_size=10)
        | st.builds(Described, LONGS | KEYS, inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    data = codec.encode(value)
    assert codec.decode(data) == (value, len(data))
    assert codec.decode(b"\x40" + data + b"\x40", 1) == (value, 1 + len(data))


@given(VALUES, st.data())
def test_a_value_that_is_cut_short_is_no_value(value: Any, data: st.DataObject) -> None:
    whole = codec.encode(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DecodeError):
        codec.decode(whole[:cut])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    for read in (codec.decode, codec.raw_map, frames.read, message.read, message.read_batch):
        with suppress(DecodeError):
            read(data)


@given(st.integers(0x70, 0x78), VALUES)
def test_any_section_is_a_message_or_an_error(code: int, value: Any) -> None:
    data = codec.described(code, codec.encode(value))
    for read in (message.read, message.read_batch, message.read_request):
        with suppress(DecodeError):
            read(data)


@given(st.integers(0x10, 0x18) | PLAIN, VALUES)
def test_any_described_value_is_a_frame_or_an_error(code: Any, value: Any) -> None:
    with suppress(DecodeError):
        frames.read(codec.encode(Described(code, value)))


@given(st.dictionaries(st.text(max_size=20), PLAIN, max_size=200))
def test_a_map_can_be_passed_on_unread(values: dict[str, Any]) -> None:
    data = codec.encode(values)
    raw, end = codec.raw_map(data)
    assert end == len(data)
    again = codec.mapping({codec.string(name): value for name, value in raw.items()})
    assert codec.decode(again)[0] == values


@given(st.lists(LONGS, max_size=300))
def test_an_array_of_numbers(values: list[int]) -> None:
    data = codec.longs(values)
    assert codec.decode(data) == (values, len(data))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        # Forms that the server does not write, but a client may.
        ("5604", True),
        ("50ff", 255),
        ("51ff", -1),
        ("60ffff", 65_535),
        ("61fffe", -2),
        ("54f0", -16),
        ("7300000041", "A"),
        ("723f800000", 1.0),
        ("9800112233445566778899aabbccddeeff", UUID("00112233445566778899aabbccddeeff")),
        ("e0050254050a", None),
        ("e003025405", None),
        ("e0040254050a", [5, 10]),
        ("f0000000070000000254050a", [5, 10]),
    ],
)
def test_other_forms_of_values(data: str, value: object) -> None:
    if value is None:
        with pytest.raises(DecodeError):
            codec.decode(bytes.fromhex(data))
    else:
        assert codec.decode(bytes.fromhex(data))[0] == value


def test_a_small_frame_cannot_ask_for_all_memory() -> None:
    endless = b"\xf0" + (9).to_bytes(4, "big") + (2**32 - 1).to_bytes(4, "big") + b"\x40"
    with pytest.raises(DecodeError):
        codec.decode(endless)


def test_deep_nesting_is_an_error() -> None:
    with pytest.raises(DecodeError):
        codec.decode(b"\x00\x40" * 100_000)


def test_not_a_number() -> None:
    assert math.isnan(codec.decode(codec.double(math.nan))[0])


def test_what_has_no_type_is_refused() -> None:
    with pytest.raises(TypeError):
        codec.encode(object())
    with pytest.raises(ValueError, match="array"):
        codec.array([codec.TRUE, codec.FALSE], 0x41)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=32), st.binary())
def test_a_transfer_is_read_as_it_was_written(
    handle: int, delivery: int, tag: bytes, payload: bytes
) -> None:
    body = frames.transfer(handle, delivery, tag, settled=False, more=True) + payload
    said, rest = frames.read(body)
    assert said == frames.Transfer(handle, delivery, tag, 0, False, True)
    assert rest == payload
