"""Input that no SDK sends (bad frames, strangers, floods) ends a connection, not the server."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from cloudq.testing.waiting import PATIENCE
from localstack.servicebus import codec, frames
from localstack.servicebus.codec import NULL
from localstack.servicebus.values import Described
from tests.localstack.servicebus.bus import Bus

LINK = codec.described(0x28, codec.sequence([codec.string("q")]))
OPEN = codec.described(0x10, codec.sequence([codec.string("test")]))
BEGIN = codec.described(
    0x11, codec.sequence([NULL, codec.uint(0), codec.uint(100), codec.uint(100)])
)


class Wire:
    """A client that writes what it likes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._left = b""

    def send(self, *bodies: bytes, channel: int = 0) -> None:
        """Send frames."""
        self.socket.sendall(b"".join(frames.frame(channel, body) for body in bodies))

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        with suppress(ConnectionError):
            self.socket.sendall(data)

    def rest(self) -> bytes:
        """All that comes until the server hangs up, which it must."""
        data = b""
        with suppress(ConnectionError):
            while part := self.socket.recv(65_536):
                data += part
        return data

    def take(self, size: int) -> bytes:
        """So many bytes."""
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "the server hung up"
            data += part
        return data

    def frame(self) -> Any:
        """The next performative, as its code and fields."""
        size, offset, _, _ = frames.prefix(self.take(8), 0)
        body = self.take(size - 8)
        return codec.decode(body[4 * offset - 8 :])[0]

    def greet(self) -> Wire:
        """Open a connection and a session."""
        self.raw(frames.HEADER)
        assert self.take(8) == frames.HEADER
        self.send(OPEN, BEGIN)
        assert [self.frame().descriptor, self.frame().descriptor] == [0x10, 0x11]
        return self


@pytest.fixture
def wire(bus: Bus) -> Iterator[Wire]:
    """A connection, with nothing said."""
    wire = Wire(bus.port)
    with closing(wire.socket):
        yield wire
    assert bus.control("GET", "_health")["status"] == "ok"


def condition(closed: Any) -> str:
    """Why the server ended the connection or the link."""
    assert isinstance(closed, Described)
    fields: list[Any] = closed.value
    error: Any = fields[0 if closed.descriptor == 0x18 else 2]
    return error.value[0]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x00\x00\x00\x04\x02\x00\x00\x00", "amqp:connection:framing-error"),  # too small
        (b"\xff\xff\xff\xff\x02\x00\x00\x00", "amqp:connection:framing-error"),  # too large
        (b"\x00\x00\x00\x10\xff\x00\x00\x00" + b"x" * 8, "amqp:connection:framing-error"),
        (frames.frame(0, b"\xff\xff"), "amqp:decode-error"),  # no AMQP type
        (frames.frame(0, codec.string("x")), "amqp:decode-error"),  # no performative
        (frames.frame(0, codec.described(0x99, codec.sequence([]))), "amqp:decode-error"),
        (frames.frame(7, frames.detached(0)), "amqp:decode-error"),  # a channel not begun
    ],
)
def test_a_malformed_frame_ends_the_connection_with_the_reason(
    wire: Wire, data: bytes, why: str
) -> None:
    wire.greet().raw(data)
    assert condition(wire.frame()) == why
    assert wire.rest() == b""


def test_fields_of_the_wrong_type_end_the_connection(wire: Wire) -> None:
    wire.greet().send(codec.described(0x13, codec.sequence([codec.string("x")] * 7)))
    wire.send(codec.described(0x14, codec.sequence([codec.sequence([NULL])])))
    assert condition(wire.frame()).startswith("amqp:")
    assert wire.rest() == b""


def test_another_protocol_is_told_which_one_is_spoken(wire: Wire) -> None:
    wire.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert wire.rest() == b""  # it did not even begin as AMQP does


def test_another_version_is_told_which_one_is_spoken(wire: Wire) -> None:
    wire.raw(b"AMQP\x00\x00\x09\x01")
    assert wire.rest() == frames.SASL_HEADER


def test_a_link_without_a_token_is_refused(wire: Wire) -> None:
    attach = [codec.string("l"), codec.uint(0), codec.TRUE, NULL, NULL, LINK, LINK]
    wire.greet().send(codec.described(0x12, codec.sequence(attach)))
    attached, detached = wire.frame(), wire.frame()
    assert attached.descriptor == 0x12
    assert condition(detached) == "amqp:unauthorized-access"


def test_a_link_to_nothing_is_refused(wire: Wire) -> None:
    attach = [codec.string("l"), codec.uint(0), codec.TRUE, NULL, NULL, NULL, NULL]
    wire.greet().send(codec.described(0x12, codec.sequence(attach)))
    wire.frame()
    assert condition(wire.frame()) == "amqp:invalid-field"


def test_an_idle_client_is_kept_awake(wire: Wire) -> None:
    wire.raw(frames.HEADER)
    wire.take(8)
    fields = [codec.string("t"), NULL, NULL, NULL, codec.uint(200)]
    wire.send(codec.described(0x10, codec.sequence(fields)))
    wire.frame()
    assert wire.take(16) == frames.EMPTY * 2


def test_a_frame_may_come_in_pieces(wire: Wire) -> None:
    for byte in frames.HEADER + frames.frame(0, OPEN) + frames.frame(3, BEGIN):
        wire.raw(bytes((byte,)))
    assert wire.take(8) == frames.HEADER
    assert [wire.frame().descriptor, wire.frame().descriptor] == [0x10, 0x11]


def test_a_polite_end(wire: Wire) -> None:
    wire.greet().send(frames.ended(), frames.closed())
    assert [wire.frame().descriptor, wire.frame().descriptor] == [0x17, 0x18]
    assert wire.rest() == b""


def test_garbage_of_all_kinds_does_no_harm(bus: Bus) -> None:
    source = random.Random(7)
    whole = frames.HEADER + frames.frame(0, OPEN) + frames.frame(0, BEGIN)
    bodies = [OPEN, BEGIN, frames.closed(), frames.detached(1), LINK]
    for _ in range(150):
        data = bytearray(whole)
        data += b"".join(frames.frame(0, source.choice(bodies)) for _ in range(3))
        for _ in range(source.randrange(1, 6)):
            data[source.randrange(len(data))] = source.randrange(256)
        wire = Wire(bus.port)
        with closing(wire.socket):
            wire.raw(bytes(data))
    assert bus.control("GET", "_health")["status"] == "ok"


def test_many_connections_at_once(bus: Bus) -> None:
    wires = [Wire(bus.port) for _ in range(200)]
    for wire in wires:
        with closing(wire.socket):
            wire.greet()
