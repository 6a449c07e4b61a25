"""A stored message: the parts that the service needs are decoded, the others are kept as bytes."""

from __future__ import annotations

import enum
from asyncio import TimerHandle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from uuid import UUID

from localstack.servicebus import codec
from localstack.servicebus.values import DecodeError, Described

_T = TypeVar("_T")

BATCH_FORMAT = 0x80013700
_HEADER, _DELIVERY, _ANNOTATIONS, _PROPERTIES, _APPLICATION, _DATA = range(0x70, 0x76)
_SEQUENCE = codec.symbol("x-opt-sequence-number")
_ENQUEUED = codec.symbol("x-opt-enqueued-time")
_LOCKED = codec.symbol("x-opt-locked-until")
_STATE = codec.symbol("x-opt-message-state")
_SCHEDULED = "x-opt-scheduled-enqueue-time"
# The service sets these itself; what a client sends under their names is dropped.
_OURS = frozenset(
    (
        "x-opt-sequence-number",
        "x-opt-enqueued-time",
        "x-opt-locked-until",
        "x-opt-message-state",
        "x-opt-lock-token",
    )
)


class State(enum.IntEnum):
    """The state of a message, with the number that a peek reports."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


@dataclass(slots=True, kw_only=True, eq=False)
class Message:
    """One message, with its sequence number and its lock."""

    message_id: str | None
    session_id: str | None
    durable: bool
    priority: int | None
    ttl: int | None
    """Milliseconds; None: the queue's own limit applies."""
    scheduled: float | None
    """Time at which it becomes visible, in seconds since 1970."""
    annotations: dict[str, bytes]
    properties: bytes
    application: dict[str, bytes]
    body: bytes
    size: int

    state: State = State.ACTIVE
    sequence: int = 0
    enqueued: float = 0.0
    expires: float | None = None
    deliveries: int = 0
    token: UUID | None = None
    until: float = 0.0
    """Time at which its lock ends, in seconds since 1970."""
    timer: TimerHandle | None = None
    """Ends the lock."""
    expiry: TimerHandle | None = None
    tail: bytes | None = field(default=None, repr=False)

    def change(self, properties: Mapping[Any, Any]) -> None:
        """Set some application properties."""
        for name, value in properties.items():
            self.application[str(name)] = codec.encode(value)
        self.tail = None

    def encode(self, *, locked: bool = False, peeked: bool = False) -> bytes:
        """Encode the message for delivery."""
        annotations = {
            _ENQUEUED: codec.timestamp(_milliseconds(self.enqueued)),
            _SEQUENCE: codec.long(self.sequence),
        }
        if locked:
            annotations[_LOCKED] = codec.timestamp(_milliseconds(self.until))
        if peeked:
            annotations[_STATE] = codec.integer(self.state)
        for name, value in self.annotations.items():
            annotations[codec.symbol(name)] = value
        if self.tail is None:
            self.tail = self._tail()
        return (
            codec.described(_HEADER, codec.sequence(self._header()))
            + codec.described(_ANNOTATIONS, codec.mapping(annotations))
            + self.tail
        )

    def _header(self) -> list[bytes]:
        return [
            codec.boolean(self.durable),
            codec.ubyte(self.priority) if self.priority is not None else codec.NULL,
            codec.uint(self.ttl) if self.ttl is not None else codec.NULL,
            codec.boolean(self.deliveries == 0),
            codec.uint(self.deliveries),
        ]

    def _tail(self) -> bytes:
        if not self.application:
            return self.properties + self.body
        values = {codec.string(name): value for name, value in self.application.items()}
        return self.properties + codec.described(_APPLICATION, codec.mapping(values)) + self.body


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _sections(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield the sections of a message: code, start, start of the value, and end."""
    at = 0
    while at < len(data):
        if data[at : at + 2] != b"\x00\x53" or at + 3 > len(data):
            raise DecodeError(f"a message's section was expected at byte {at}")
        _, end = codec.decode(data, at + 3)
        yield data[at + 2], at, at + 3, end
        at = end


def _as(kind: type[_T], value: Any) -> _T:
    if not isinstance(value, kind):
        raise DecodeError(f"{kind.__name__} expected in a message, not {type(value).__name__}")
    return value


def _fields(value: Any, count: int) -> list[Any]:
    """Decode the first fields of a list section; omitted fields are None."""
    given = cast(list[Any], _as(list, value))
    return (given + [None] * count)[:count]


def _number(value: Any, bits: int) -> int | None:
    if value is not None and not 0 <= _as(int, value) < 2**bits:
        raise DecodeError(f"a number of {bits} bits expected, not {value}")
    return value


def _named(data: bytes, at: int) -> dict[str, bytes]:
    found, _ = codec.raw_map(data, at)
    return {_as(str, name): value for name, value in found.items()}


def read(data: bytes) -> Message:
    """One encoded message. Raises `DecodeError`."""
    header: list[Any] = [None] * 3
    properties: list[Any] = [None] * 11
    annotations: dict[str, bytes] = {}
    application: dict[str, bytes] = {}
    raw = b""
    body = len(data)
    for code, start, value, end in _sections(data):
        if code == _HEADER:
            header = _fields(codec.decode(data, value)[0], 3)
        elif code == _ANNOTATIONS:
            annotations = _named(data, value)
        elif code == _PROPERTIES:
            properties, raw = _fields(codec.decode(data, value)[0], 11), data[start:end]
        elif code == _APPLICATION:
            application = _named(data, value)
        elif code != _DELIVERY:
            body = start
            break
    message_id, group = properties[0], properties[10]
    at = codec.decode(annotations.get(_SCHEDULED, codec.NULL))[0]
    return Message(
        message_id=None if message_id is None else str(message_id),
        session_id=_as(str, group or "") or None,
        durable=bool(header[0]),
        priority=_number(header[1], 8),
        ttl=_number(header[2], 32) or None,
        scheduled=_as(int, at or 0) / 1000 or None,
        annotations={name: raw for name, raw in annotations.items() if name not in _OURS},
        properties=raw,
        application=application,
        body=data[body:],
        size=len(data),
    )


def read_batch(data: bytes) -> list[Message]:
    """The messages of a batch: each is a data section. Raises `DecodeError`."""
    return [
        read(_as(bytes, codec.decode(data, value)[0]))
        for code, _, value, _ in _sections(data)
        if code == _DATA
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to the service."""

    message_id: bytes
    """Encoded, to be sent back as the correlation id."""
    reply_to: str | None
    application: dict[str, Any]
    value: Any


def read_request(data: bytes) -> Request:
    """A message to `$cbs` or to a `$management` node. Raises `DecodeError`."""
    properties: list[Any] = [None] * 5
    application: dict[str, Any] = {}
    content: Any = None
    for code, _, value, _ in _sections(data):
        if code == _PROPERTIES:
            properties = _fields(codec.decode(data, value)[0], 5)
        elif code == _APPLICATION:
            application = cast(dict[str, Any], _as(dict, codec.decode(data, value)[0]))
        elif code == 0x77:
            content = codec.decode(data, value)[0]
    return Request(
        message_id=_encode_id(properties[0]),
        reply_to=_as(str, properties[4] or "") or None,
        application=application,
        value=content,
    )


def _encode_id(message_id: object) -> bytes:
    # A number as a message's id is a ulong, where a number elsewhere is a long.
    if isinstance(message_id, int):
        return codec.ulong(_number(message_id, 64) or 0)
    return codec.encode(message_id)


def reply(request: Request, application: Mapping[str, bytes], value: bytes) -> bytes:
    """The answer to a request."""
    properties = codec.sequence([codec.NULL] * 5 + [request.message_id])
    named = {codec.string(name): item for name, item in application.items()}
    return (
        codec.described(_PROPERTIES, properties)
        + codec.described(_APPLICATION, codec.mapping(named))
        + codec.described(0x77, value)
    )


def plain(value: Any) -> Any:
    """A value without its descriptor, if it has one."""
    return value.value if isinstance(value, Described) else value
