"""AMQP 1.0's type system: values to bytes and back (OASIS AMQP 1.0, part 1)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from localstack.servicebus.values import (
    READERS,
    TWO_UINTS,
    UINT,
    DecodeError,
    Described,
    Read,
    Symbol,
    Timestamp,
    within,
)

NULL = b"\x40"
TRUE = b"\x41"
FALSE = b"\x42"
_ULONG = struct.Struct(">Q")
_LONG = struct.Struct(">q")
_MALFORMED = (IndexError, OverflowError, RecursionError, TypeError, ValueError, struct.error)


def decode(data: bytes, at: int = 0) -> Read:
    """Decode the value that begins at `at`; returns it and its end. Raises `DecodeError`."""
    try:
        return READERS[data[at]](data, at + 1)
    except _MALFORMED as error:
        raise DecodeError(f"not an AMQP value at byte {at}: {error}") from error


def raw_map(data: bytes, at: int = 0) -> tuple[dict[Any, bytes], int]:
    """Decode a map's keys only: its values stay encoded, so that their types cannot change."""
    count, first, end = _bounds(data, at)
    if count % 2:
        raise DecodeError("cannot decode a map: its last key has no value")
    found: dict[Any, bytes] = {}
    place = first
    for _ in range(count // 2):
        key, start = decode(data, place)
        _, place = decode(data, start)
        if not isinstance(key, Hashable):
            raise DecodeError("cannot decode a map: a key has a type that no key can have")
        found[key] = data[start:place]
    if place != end:
        raise DecodeError("cannot decode a map: its size and content differ")
    return found, end


def _bounds(data: bytes, at: int) -> tuple[int, int, int]:
    """A map's number of values, the start of its first value, and the end of its last."""
    kind = data[at] if at < len(data) else -1
    try:
        if kind == 0xC1:
            size, count = data[at + 1], data[at + 2]
            return count, at + 3, within(data, at + 2 + size)
        if kind == 0xD1:
            size, count = TWO_UINTS.unpack_from(data, at + 1)
            return count, at + 9, within(data, at + 5 + size)
    except (IndexError, struct.error) as error:
        raise DecodeError("cannot decode a map: its data ends too early") from error
    raise DecodeError(f"a map was expected, not {kind:#x}")


def boolean(value: bool) -> bytes:
    """One byte."""
    return TRUE if value else FALSE


def ubyte(value: int) -> bytes:
    """Encode an unsigned number of 8 bits, as `ubyte`."""
    return bytes((0x50, value))


def uint(value: int) -> bytes:
    """32 bits, in the shortest form."""
    if value < 256:
        return bytes((0x52, value)) if value else b"\x43"
    return b"\x70" + UINT.pack(value)


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
    return bytes((wide,)) + UINT.pack(len(data)) + data


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
    return bytes((wide,)) + TWO_UINTS.pack(len(data) + 4, count) + data


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
