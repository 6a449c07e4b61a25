"""AMQP 1.0's frames: the performatives that peers exchange (OASIS AMQP 1.0, parts 2 and 5)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from localstack.servicebus import codec
from localstack.servicebus.codec import NULL
from localstack.servicebus.values import DecodeError, Described

HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
EMPTY = b"\x00\x00\x00\x08\x02\x00\x00\x00"
MAX_FRAME = 65_536  # what Azure announces
SENDER, RECEIVER = False, True
_PREFIX = struct.Struct(">IBBH")

ACCEPTED = codec.described(0x24, codec.sequence([]))
RELEASED = codec.described(0x26, codec.sequence([]))


class Open(NamedTuple):
    """Begins a connection."""

    container: str = ""
    hostname: str | None = None
    max_frame: int | None = None
    channel_max: int | None = None
    idle_timeout: int | None = None


class Begin(NamedTuple):
    """Begins a session."""

    remote_channel: int | None = None
    next_outgoing: int = 0
    incoming_window: int = 0
    outgoing_window: int = 0
    handle_max: int | None = None


class Attach(NamedTuple):
    """Begins a link."""

    name: str = ""
    handle: int = 0
    role: bool = SENDER
    send_settle: int | None = None
    receive_settle: int | None = None
    source: Described | None = None
    target: Described | None = None
    unsettled: Any = None
    incomplete: bool | None = None
    initial_count: int | None = None
    max_message: int | None = None
    offered: Any = None
    desired: Any = None
    properties: dict[str, Any] | None = None


class Flow(NamedTuple):
    """Says how much the peer may send."""

    next_incoming: int | None = None
    incoming_window: int = 0
    next_outgoing: int = 0
    outgoing_window: int = 0
    handle: int | None = None
    delivery_count: int | None = None
    credit: int | None = None
    available: int | None = None
    drain: bool | None = None
    echo: bool | None = None


class Transfer(NamedTuple):
    """Carries a message, or a part of one."""

    handle: int = 0
    delivery: int | None = None
    tag: bytes | None = None
    format: int | None = None
    settled: bool | None = None
    more: bool | None = None
    receive_settle: int | None = None
    state: Any = None
    resume: bool | None = None
    aborted: bool | None = None
    batchable: bool | None = None


class Disposition(NamedTuple):
    """Says what became of deliveries."""

    role: bool = RECEIVER
    first: int = 0
    last: int | None = None
    settled: bool | None = None
    state: Described | None = None


class Detach(NamedTuple):
    """Ends a link."""

    handle: int = 0
    closed: bool | None = None
    error: Any = None


class End(NamedTuple):
    """Ends a session."""

    error: Any = None


class Close(NamedTuple):
    """Ends a connection."""

    error: Any = None


class SaslInit(NamedTuple):
    """Picks a way to prove who the client is."""

    mechanism: str = ""
    response: bytes | None = None


Performative = (
    Open | Begin | Attach | Flow | Transfer | Disposition | Detach | End | Close | SaslInit
)
_KINDS: Mapping[int, Callable[..., Performative]] = {
    0x10: Open,
    0x11: Begin,
    0x12: Attach,
    0x13: Flow,
    0x14: Transfer,
    0x15: Disposition,
    0x16: Detach,
    0x17: End,
    0x18: Close,
    0x41: SaslInit,
}
_WIDTHS = {0x10: 5, 0x11: 5, 0x12: 14, 0x13: 10, 0x14: 11, 0x15: 5, 0x16: 3, 0x17: 1, 0x18: 1}


def read(body: bytes) -> tuple[Performative, bytes]:
    """The performative of a frame's body, and the payload after it. Raises `DecodeError`."""
    value, end = codec.decode(body)
    code = value.descriptor if isinstance(value, Described) else None
    kind = _KINDS.get(code) if isinstance(code, int) else None
    fields: Any = value.value if kind else None
    if kind is None or not isinstance(fields, list):
        raise DecodeError("a frame without a performative that is known")
    fields = cast(list[Any], fields)
    return kind(*fields[: _WIDTHS.get(value.descriptor, 2)]), body[end:]


def frame(channel: int, body: bytes, kind: int = 0) -> bytes:
    """A whole frame: of AMQP, or (kind 1) of SASL."""
    return _PREFIX.pack(8 + len(body), 2, kind, channel) + body


def prefix(data: bytes | bytearray, at: int) -> tuple[int, int, int, int]:
    """Size, data offset in words, kind and channel of the frame that begins at `at`."""
    return _PREFIX.unpack_from(data, at)


def _performative(code: int, *fields: bytes) -> bytes:
    kept = list(fields)
    while kept and kept[-1] == NULL:
        kept.pop()
    return codec.described(code, codec.sequence(kept))


def mechanisms(*names: str) -> bytes:
    """The ways to sign in that the server offers."""
    listed = codec.array((b"\xb3" + struct.pack(">I", len(n)) + n.encode() for n in names), 0xB3)
    return _performative(0x40, listed)


def sasl_outcome(code: int) -> bytes:
    """0 = welcome."""
    return _performative(0x44, codec.ubyte(code))


def opened(container: str, idle_timeout: int) -> bytes:
    """The answer to an open."""
    return _performative(
        0x10,
        *(codec.string(container), NULL, codec.uint(MAX_FRAME), b"\x60\x13\x87"),
        codec.uint(idle_timeout),
    )


def begun(channel: int, window: int) -> bytes:
    """The answer to a begin on the client's `channel`."""
    return _performative(
        0x11,
        b"\x60" + struct.pack(">H", channel),
        *(codec.uint(0), codec.uint(window), codec.uint(window), codec.uint(4095)),
    )


def attached(
    asked: Attach,
    *,
    source: bytes,
    target: bytes,
    max_message: int | None = None,
    properties: bytes = NULL,
) -> bytes:
    """The answer to an attach: the same link seen from the other end."""
    sending = asked.role == RECEIVER
    return _performative(
        0x12,
        *(codec.string(asked.name), codec.uint(asked.handle), codec.boolean(not asked.role)),
        codec.ubyte(asked.send_settle if asked.send_settle is not None else 2),
        codec.ubyte(asked.receive_settle or 0),
        *(source, target, NULL, NULL),
        codec.uint(0) if sending else NULL,
        codec.ulong(max_message) if max_message else NULL,
        *(NULL, NULL, properties),
    )


def flow(
    *, next_incoming: int, next_outgoing: int, window: int, handle: int, count: int, credit: int,
    available: int = 0, drain: bool = False,
) -> bytes:  # fmt: skip
    """The state of a link and of its session."""
    return _performative(
        0x13,
        *(codec.uint(next_incoming), codec.uint(window)),
        *(codec.uint(next_outgoing), codec.uint(window)),
        *(codec.uint(handle), codec.uint(count), codec.uint(credit), codec.uint(available)),
        codec.boolean(drain) if drain else NULL,
    )


def transfer(handle: int, delivery: int, tag: bytes, *, settled: bool, more: bool) -> bytes:
    """The head of a transfer; the payload comes right after it."""
    return codec.described(
        0x14,
        codec.sequence(
            (
                codec.uint(handle),
                codec.uint(delivery),
                codec.binary(tag),
                b"\x43",
                codec.TRUE if settled else codec.FALSE,
                codec.TRUE if more else codec.FALSE,
            )
        ),
    )


def settled(role: bool, delivery: int, state: bytes) -> bytes:
    """A disposition that settles one delivery."""
    number = codec.uint(delivery)
    return codec.described(
        0x15,
        codec.sequence((codec.boolean(role), number, number, codec.TRUE, state)),
    )


def error(condition: str, description: str) -> bytes:
    """An error of AMQP. The SDK reads all three fields of it, so none is left out."""
    return codec.described(
        0x1D,
        codec.sequence((codec.symbol(condition), codec.string(description), codec.mapping({}))),
    )


def rejected(condition: str, description: str) -> bytes:
    """The outcome of a settlement that failed."""
    return codec.described(0x25, codec.sequence((error(condition, description),)))


def detached(handle: int, problem: bytes = NULL) -> bytes:
    """The end of a link."""
    return _performative(0x16, codec.uint(handle), codec.TRUE, problem)


def ended() -> bytes:
    """The end of a session."""
    return _performative(0x17)


def closed(problem: bytes = NULL) -> bytes:
    """The end of a connection."""
    return _performative(0x18, problem)
