"""One client's connection: bytes to frames, sign-in, and frames to the channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set as AbstractSet
from typing import cast

from localstack.servicebus import errors, frames
from localstack.servicebus.channel import Channel
from localstack.servicebus.frames import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslInit,
    Transfer,
)
from localstack.servicebus.namespace import Namespace
from localstack.servicebus.values import DecodeError
from localstack.servicebus.wire import WINDOW

_log = logging.getLogger("localstack.servicebus")
_MECHANISMS = ("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL")
_IDLE = 240_000  # milliseconds; what Azure announces
_SASL = 1


class Connection(asyncio.Protocol):
    """The server's side of one client's connection, until the client goes."""

    def __init__(self, namespace: Namespace, everyone: set[Connection]) -> None:
        self.namespace = namespace
        self.authorized = False
        self.max_frame = 512
        self._everyone = everyone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._in = bytearray()
        self._out: list[bytes] = []
        self._flushing = False
        self._held = False
        self._greeted = False
        self._channels: dict[int, Channel] = {}
        self._heart: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve a client that has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._everyone.add(self)
        self.namespace.stats["connections"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """End the client's links, and with them its session locks."""
        self._transport = None
        self._everyone.discard(self)
        if self._heart:
            self._heart.cancel()
        for channel in self._channels.values():
            channel.end()
        self._channels.clear()

    def data_received(self, data: bytes) -> None:
        """Feed received bytes, in portions of any size."""
        self._in += data
        wait = self.namespace.faults.hang()
        if wait:
            self._hold(wait)
        elif not self._held:
            self._consume()

    def _hold(self, wait: float) -> None:
        if not self._held:
            self._held = True
            self._loop.call_later(wait, self._go_on)

    def _go_on(self) -> None:
        self._held = False
        wait = self.namespace.faults.hang()
        if wait:
            self._hold(wait)
        else:
            self._consume()

    def _consume(self) -> None:
        try:
            self._read()
        except DecodeError as error:
            self._fail(errors.DECODE_ERROR, str(error))
        except Exception:
            # Whatever a client sends may end its own connection, and nothing else.
            _log.exception("a frame could not be handled")
            self._fail(errors.INTERNAL_ERROR, "The frame could not be handled.")

    def _read(self) -> None:
        at = 0
        while self._transport is not None and len(self._in) - at >= 8:
            if self._in.startswith(b"AMQP", at):
                self._header(bytes(self._in[at : at + 8]))
                at += 8
                continue
            size, offset, kind, number = frames.prefix(self._in, at)
            if not self._greeted or not 8 <= 4 * offset <= size <= frames.MAX_FRAME:
                self._fail(errors.FRAMING_ERROR, f"A frame of {size} bytes is not one.")
                return
            if len(self._in) - at < size:
                break
            body = bytes(self._in[at + 4 * offset : at + size])
            at += size
            if body:
                performative, payload = frames.read(body)
                self._dispatch(kind, number, performative, payload)
        del self._in[:at]

    def _header(self, header: bytes) -> None:
        if header == frames.SASL_HEADER:
            self._raw(header)
            self._raw(frames.frame(0, frames.mechanisms(*_MECHANISMS), _SASL))
        elif header == frames.HEADER:
            self._raw(header)
        else:
            self._raw(frames.SASL_HEADER)
            self._hang_up()
            return
        self._greeted = True

    def _dispatch(self, kind: int, number: int, said: Performative, payload: bytes) -> None:
        if kind == _SASL:
            if isinstance(said, SaslInit):
                self._sign_in(said)
            return
        if isinstance(said, Transfer):
            self._channel(number).transfer(said, payload)
        elif isinstance(said, Disposition):
            self._channel(number).disposition(said)
        elif isinstance(said, Flow):
            self._channel(number).flow(said)
        elif isinstance(said, Attach):
            self._channel(number).attach(said)
        elif isinstance(said, Detach):
            self._channel(number).detach(said.handle)
        elif isinstance(said, Open):
            self._open(said)
        elif isinstance(said, Begin):
            self._channels[number] = Channel(self, number, said)
            self.write(number, frames.begun(number, WINDOW))
        elif isinstance(said, End):
            self._channel(number).end()
            del self._channels[number]
            self.write(number, frames.ended())
        elif isinstance(said, Close):
            self.write(0, frames.closed())
            self._hang_up()

    def _channel(self, number: int) -> Channel:
        channel = self._channels.get(number)
        if channel is None:
            raise DecodeError(f"channel {number} was not begun")
        return channel

    def _sign_in(self, said: SaslInit) -> None:
        welcome = said.mechanism in _MECHANISMS
        if welcome and said.mechanism == "PLAIN":
            _, name, secret = (*(said.response or b"").split(b"\0"), b"", b"", b"")[:3]
            secrets = self.namespace.keys.secrets
            known = not secrets or secrets.get(name.decode()) == secret.decode()
            welcome = known and not self.namespace.faults.denies()
            self.authorized = welcome
        self._raw(frames.frame(0, frames.sasl_outcome(0 if welcome else 1), _SASL))
        if not welcome:
            self._hang_up()

    def _open(self, said: Open) -> None:
        self.max_frame = min(said.max_frame or 1 << 20, 1 << 20)
        self.write(0, frames.opened("localstack.servicebus", _IDLE))
        if said.idle_timeout:
            self._beat(said.idle_timeout / 2000)

    def _beat(self, every: float) -> None:
        self._raw(frames.EMPTY)
        self._heart = self._loop.call_later(every, self._beat, every)

    def write(self, channel: int, body: bytes) -> None:
        """Send a frame."""
        self._raw(frames.frame(channel, body))

    def _raw(self, data: bytes) -> None:
        self._out.append(data)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        wait = self.namespace.faults.hang()
        if wait:
            self._flushing = True
            self._loop.call_later(wait, self._flush)
        elif self._transport is not None and self._out:
            data, self._out = b"".join(self._out), []
            self._transport.write(data)

    def admit(self) -> None:
        """Authorize the client, which has sent a valid token."""
        self.authorized = True

    def drop(self) -> None:
        """Close the connection at once; unsent data is lost."""
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _fail(self, condition: str, description: str) -> None:
        self._in.clear()
        if self._greeted:
            self.write(0, frames.closed(frames.error(condition, description)))
        self._hang_up()

    def _hang_up(self) -> None:
        self._in.clear()
        if self._transport is not None:
            self._flush()
            self._transport.close()


def drop_all(everyone: AbstractSet[Connection]) -> None:
    """Cut every connection."""
    for connection in list(everyone):
        connection.drop()
