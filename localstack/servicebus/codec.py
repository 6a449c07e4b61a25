"""AMQP 1.0's type system: values to bytes and back (OASIS AMQP 1.0, part 1)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

NULL = b"\x40"
TRUE = b"\x41"
FALSE = b"\x42"
# An array of nulls takes no bytes an item, so its count alone could ask for all memory there is.
_MOST_ITEMS = 65_536
_MALFORMED = (IndexError, OverflowError, RecursionError, TypeError, ValueError, struct.error)


class DecodeError(Exception):
    """The bytes are not AMQP 1.0."""


class Symbol(str):
    """A name from a fixed set, as opposed to text."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970, as opposed to a number."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Described:
    """A value with the descriptor that says what it means."""

    descriptor: Any
    value: Any


Read = tuple[Any, int]


def decode(data: bytes, at: int = 0) -> Read:
    """The value that begins at `at`, and where it ends. Raises `DecodeError`."""
    try:
        return _READ[data[at]](data, at + 1)
    except _MALFORMED as error:
        raise DecodeError(f"not an AMQP value at byte {at}: {error}") from error


def raw_map(data: bytes, at: int = 0) -> tuple[dict[Any, bytes], int]:
    """A map whose values stay encoded, so that passing them on cannot change their type."""
    count, first, end = _bounds(data, at)
    if count % 2:
        raise DecodeError("a map with a key that has no value")
    found: dict[Any, bytes] = {}
    place = first
    for _ in range(count // 2):
        key, start = decode(data, place)
        _, place = decode(data, start)
        if not isinstance(key, Hashable):
            raise DecodeError("a map's key that cannot be one")
        found[key] = data[start:place]
    if place != end:
        raise DecodeError("a map's size and content differ")
    return found, end


def _bounds(data: bytes, at: int) -> tuple[int, int, int]:
    """Of a map: how many values it has, where the first one begins, and where the last one ends."""
    kind = data[at] if at < len(data) else -1
    try:
        if kind == 0xC1:
            size, count = data[at + 1], data[at + 2]
            return count, at + 3, _within(data, at + 2 + size)
        if kind == 0xD1:
            size, count = _TWO_UINTS.unpack_from(data, at + 1)
            return count, at + 9, _within(data, at + 5 + size)
    except (IndexError, struct.error) as error:
        raise DecodeError("a map that is cut short") from error
    raise DecodeError(f"a map was expected, not {kind:#x}")


def _within(data: bytes, end: int) -> int:
    if end > len(data):
        raise DecodeError("a value that is cut short")
    return end


_UINT = struct.Struct(">I")
_ULONG = struct.Struct(">Q")
_LONG = struct.Struct(">q")
_TWO_UINTS = struct.Struct(">II")


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
    return lambda data, at: (data[at : at + width], _within(data, at + width))


def _uuid(data: bytes, at: int) -> Read:
    end = _within(data, at + 16)
    return UUID(bytes=data[at:end]), end


def _text8(kind: Callable[[str], str]) -> Callable[[bytes, int], Read]:
    def read(data: bytes, at: int) -> Read:
        end = _within(data, at + 1 + data[at])
        return kind(data[at + 1 : end].decode()), end

    return read


def _text32(kind: Callable[[str], str]) -> Callable[[bytes, int], Read]:
    def read(data: bytes, at: int) -> Read:
        end = _within(data, at + 4 + _UINT.unpack_from(data, at)[0])
        return kind(data[at + 4 : end].decode()), end

    return read


def _binary8(data: bytes, at: int) -> Read:
    end = _within(data, at + 1 + data[at])
    return data[at + 1 : end], end


def _binary32(data: bytes, at: int) -> Read:
    end = _within(data, at + 4 + _UINT.unpack_from(data, at)[0])
    return data[at + 4 : end], end


def _items(data: bytes, at: int, count: int, end: int) -> tuple[list[Any], int]:
    _within(data, end)
    values: list[Any] = []
    for _ in range(count):
        value, at = _READ[data[at]](data, at + 1)
        values.append(value)
    if at != end:
        raise DecodeError("a compound's size and content differ")
    return values, end


def _list8(data: bytes, at: int) -> Read:
    return _items(data, at + 2, data[at + 1], at + 1 + data[at])


def _list32(data: bytes, at: int) -> Read:
    size, count = _TWO_UINTS.unpack_from(data, at)
    return _items(data, at + 8, count, at + 4 + size)


def _pairs(values: Sequence[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise DecodeError("a map with a key that has no value")
    return dict(zip(values[::2], values[1::2], strict=True))


def _map8(data: bytes, at: int) -> Read:
    values, end = _list8(data, at)
    return _pairs(values), end


def _map32(data: bytes, at: int) -> Read:
    values, end = _list32(data, at)
    return _pairs(values), end


def _array(data: bytes, at: int, count: int, end: int) -> Read:
    _within(data, end)
    if count > _MOST_ITEMS:
        raise DecodeError(f"an array of {count} items")
    descriptor: object = None
    described = data[at] == 0
    if described:
        descriptor, at = _READ[data[at + 1]](data, at + 2)
    read = _READ[data[at]]
    at += 1
    values: list[Any] = []
    for _ in range(count):
        value, at = read(data, at)
        values.append(Described(descriptor, value) if described else value)
    if at != end:
        raise DecodeError("an array's size and content differ")
    return values, end


def _array8(data: bytes, at: int) -> Read:
    return _array(data, at + 2, data[at + 1], at + 1 + data[at])


def _array32(data: bytes, at: int) -> Read:
    size, count = _TWO_UINTS.unpack_from(data, at)
    return _array(data, at + 8, count, at + 4 + size)


def _described(data: bytes, at: int) -> Read:
    descriptor, at = _READ[data[at]](data, at + 1)
    value, at = _READ[data[at]](data, at + 1)
    return Described(descriptor, value), at


def _unknown(_data: bytes, at: int) -> Read:
    raise DecodeError(f"an unknown type at byte {at - 1}")


_READ: list[Callable[[bytes, int], Read]] = [_unknown] * 256
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
    _READ[_code] = _reader


def boolean(value: bool) -> bytes:
    """One byte."""
    return TRUE if value else FALSE


def ubyte(value: int) -> bytes:
    """0 to 255, where it is not a uint."""
    return bytes((0x50, value))


def uint(value: int) -> bytes:
    """32 bits, in the shortest form."""
    if value < 256:
        return bytes((0x52, value)) if value else b"\x43"
    return b"\x70" + _UINT.pack(value)


def ulong(value: int) -> bytes:
    """64 bits, in the shortest form."""
    if value < 256:
        return bytes((0x53, value)) if value else b"\x44"
    return b"\x80" + _ULONG.pack(value)


def long(value: int) -> bytes:
    """64 bits with a sign, in the shortest form."""
    if -128 <= value < 128:
        return struct.pack(">Bb", 0x55, value)
    return b"\x81" + _LONG.pack(value)


def integer(value: int) -> bytes:
    """32 bits with a sign."""
    return struct.pack(">Bi", 0x71, value)


def double(value: float) -> bytes:
    """64 bits with a fraction."""
    return struct.pack(">Bd", 0x82, value)


def timestamp(milliseconds: int) -> bytes:
    """Milliseconds since 1970."""
    return b"\x83" + _LONG.pack(milliseconds)


def uuid(value: UUID) -> bytes:
    """16 bytes in network order."""
    return b"\x98" + value.bytes


def _sized(short: int, wide: int, data: bytes) -> bytes:
    if len(data) < 256:
        return bytes((short, len(data))) + data
    return bytes((wide,)) + _UINT.pack(len(data)) + data


def binary(value: bytes) -> bytes:
    """Bytes."""
    return _sized(0xA0, 0xB0, value)


def string(value: str) -> bytes:
    """Text."""
    return _sized(0xA1, 0xB1, value.encode())


def symbol(value: str) -> bytes:
    """A name."""
    return _sized(0xA3, 0xB3, value.encode())


def _compound(short: int, wide: int, count: int, data: bytes) -> bytes:
    if count < 256 and len(data) < 255:
        return bytes((short, len(data) + 1, count)) + data
    return bytes((wide,)) + _TWO_UINTS.pack(len(data) + 4, count) + data


def sequence(values: Sequence[bytes]) -> bytes:
    """A list of encoded values."""
    return _compound(0xC0, 0xD0, len(values), b"".join(values)) if values else b"\x45"


def mapping(values: Mapping[bytes, bytes]) -> bytes:
    """A map of encoded values."""
    return _compound(
        0xC1, 0xD1, 2 * len(values), b"".join(part for pair in values.items() for part in pair)
    )


def array(values: Iterable[bytes], kind: int) -> bytes:
    """An array of values of a fixed width (or symbols), each encoded with the constructor `kind`.

    Raises `ValueError` when one of them has another constructor.
    """
    bodies: list[bytes] = []
    for value in values:
        if value[0] != kind:
            raise ValueError(f"{value[0]:#x} in an array of {kind:#x}")
        bodies.append(value[1:])
    return _compound(0xE0, 0xF0, len(bodies), bytes((kind,)) + b"".join(bodies))


def longs(values: Iterable[int]) -> bytes:
    """An array of 64-bit numbers."""
    return array((b"\x81" + _LONG.pack(value) for value in values), 0x81)


def described(code: int, value: bytes) -> bytes:
    """An encoded value under a numeric descriptor below 256."""
    return bytes((0x00, 0x53, code)) + value


def encode(value: Any) -> bytes:
    """A Python value as the AMQP type that fits it. Raises `TypeError` for others."""
    for kind, write in _WRITE:
        if isinstance(value, kind):
            return write(value)
    raise TypeError(f"{type(value).__name__} has no AMQP type")


def _encode_map(value: Mapping[Any, Any]) -> bytes:
    return mapping({encode(key): encode(item) for key, item in value.items()})


def _encode_list(value: Sequence[Any]) -> bytes:
    return sequence([encode(item) for item in value])


def _encode_described(value: Described) -> bytes:
    return b"\x00" + encode(value.descriptor) + encode(value.value)


# In this order: a bool is an int, and a Symbol is a str.
_WRITE: tuple[tuple[type[Any], Callable[[Any], bytes]], ...] = (
    (type(None), lambda _: NULL),
    (bool, boolean),
    (Timestamp, timestamp),
    (int, long),
    (float, double),
    (Symbol, symbol),
    (str, string),
    (bytes, binary),
    (UUID, uuid),
    (dict, _encode_map),
    (list, _encode_list),
    (Described, _encode_described),
)
