"""AMQP 1.0's values: their types, and a reader for each type code (OASIS AMQP 1.0, part 1)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

UINT = struct.Struct(">I")
TWO_UINTS = struct.Struct(">II")
# An array of nulls takes no bytes an item, so its count alone could ask for all memory there is.
_MOST_ITEMS = 65_536


class DecodeError(Exception):
    """The bytes are not AMQP 1.0."""


class Symbol(str):
    """A symbol: a name from a fixed set, which AMQP encodes differently from text."""

    __slots__ = ()


class Timestamp(int):
    """A timestamp in milliseconds since 1970, which AMQP encodes differently from a number."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with the descriptor that gives its meaning."""

    descriptor: Any
    value: Any


Read = tuple[Any, int]
"""A value, and the position after its last byte."""


def within(data: bytes, end: int) -> int:
    """Return `end`. Raises `DecodeError` when the data ends before it."""
    if end > len(data):
        raise DecodeError("cannot decode a value: its data ends too early")
    return end


def _constant(value: object) -> Callable[[bytes, int], Read]:
    return lambda _data, at: (value, at)


def _empty_list(_data: bytes, at: int) -> Read:
    return [], at


def _fixed(layout: str, kind: Callable[[Any], Any] | None = None) -> Callable[[bytes, int], Read]:
    packing = struct.Struct(layout)
    unpack, width = packing.unpack_from, packing.size
    if kind is None:
        return lambda data, at: (unpack(data, at)[0], at + width)
    return lambda data, at: (kind(unpack(data, at)[0]), at + width)


def _byte(data: bytes, at: int) -> Read:
    return data[at], at + 1


def _opaque(width: int) -> Callable[[bytes, int], Read]:
    return lambda data, at: (data[at : at + width], within(data, at + width))


def _uuid(data: bytes, at: int) -> Read:
    end = within(data, at + 16)
    return UUID(bytes=data[at:end]), end


def _text8(kind: Callable[[str], str]) -> Callable[[bytes, int], Read]:
    def read(data: bytes, at: int) -> Read:
        end = within(data, at + 1 + data[at])
        return kind(data[at + 1 : end].decode()), end

    return read


def _text32(kind: Callable[[str], str]) -> Callable[[bytes, int], Read]:
    def read(data: bytes, at: int) -> Read:
        end = within(data, at + 4 + UINT.unpack_from(data, at)[0])
        return kind(data[at + 4 : end].decode()), end

    return read


def _binary8(data: bytes, at: int) -> Read:
    end = within(data, at + 1 + data[at])
    return data[at + 1 : end], end


def _binary32(data: bytes, at: int) -> Read:
    end = within(data, at + 4 + UINT.unpack_from(data, at)[0])
    return data[at + 4 : end], end


def _items(data: bytes, at: int, count: int, end: int) -> tuple[list[Any], int]:
    within(data, end)
    values: list[Any] = []
    for _ in range(count):
        value, at = READERS[data[at]](data, at + 1)
        values.append(value)
    if at != end:
        raise DecodeError("cannot decode a list or map: its size and content differ")
    return values, end


def _list8(data: bytes, at: int) -> Read:
    return _items(data, at + 2, data[at + 1], at + 1 + data[at])


def _list32(data: bytes, at: int) -> Read:
    size, count = TWO_UINTS.unpack_from(data, at)
    return _items(data, at + 8, count, at + 4 + size)


def _pairs(values: Sequence[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise DecodeError("cannot decode a map: its last key has no value")
    return dict(zip(values[::2], values[1::2], strict=True))


def _map8(data: bytes, at: int) -> Read:
    values, end = _list8(data, at)
    return _pairs(values), end


def _map32(data: bytes, at: int) -> Read:
    values, end = _list32(data, at)
    return _pairs(values), end


def _array(data: bytes, at: int, count: int, end: int) -> Read:
    within(data, end)
    if count > _MOST_ITEMS:
        raise DecodeError(f"an array of {count} items")
    descriptor: object = None
    described = data[at] == 0
    if described:
        descriptor, at = READERS[data[at + 1]](data, at + 2)
    read = READERS[data[at]]
    at += 1
    values: list[Any] = []
    for _ in range(count):
        value, at = read(data, at)
        values.append(Described(descriptor, value) if described else value)
    if at != end:
        raise DecodeError("cannot decode an array: its size and content differ")
    return values, end


def _array8(data: bytes, at: int) -> Read:
    return _array(data, at + 2, data[at + 1], at + 1 + data[at])


def _array32(data: bytes, at: int) -> Read:
    size, count = TWO_UINTS.unpack_from(data, at)
    return _array(data, at + 8, count, at + 4 + size)


def _described(data: bytes, at: int) -> Read:
    descriptor, at = READERS[data[at]](data, at + 1)
    value, at = READERS[data[at]](data, at + 1)
    return Described(descriptor, value), at


def _unknown(_data: bytes, at: int) -> Read:
    raise DecodeError(f"an unknown type at byte {at - 1}")


READERS: list[Callable[[bytes, int], Read]] = [_unknown] * 256
"""The function that reads a value, by type code."""
for _code, _reader in {
    0x00: _described,
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(0),
    0x44: _constant(0),
    0x45: _empty_list,
    0x50: _byte,
    0x51: _fixed(">b"),
    0x52: _byte,
    0x53: _byte,
    0x54: _fixed(">b"),
    0x55: _fixed(">b"),
    0x56: _fixed(">B", bool),
    0x60: _fixed(">H"),
    0x61: _fixed(">h"),
    0x70: _fixed(">I"),
    0x71: _fixed(">i"),
    0x72: _fixed(">f"),
    0x73: _fixed(">I", chr),
    0x74: _opaque(4),
    0x80: _fixed(">Q"),
    0x81: _fixed(">q"),
    0x82: _fixed(">d"),
    0x83: _fixed(">q", Timestamp),
    0x84: _opaque(8),
    0x94: _opaque(16),
    0x98: _uuid,
    0xA0: _binary8,
    0xA1: _text8(str),
    0xA3: _text8(Symbol),
    0xB0: _binary32,
    0xB1: _text32(str),
    0xB3: _text32(Symbol),
    0xC0: _list8,
    0xC1: _map8,
    0xD0: _list32,
    0xD1: _map32,
    0xE0: _array8,
    0xF0: _array32,
}.items():
    READERS[_code] = _reader
