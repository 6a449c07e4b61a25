"""Outgoing links to clients: they carry the messages of a queue, or the answers of a desk."""

from __future__ import annotations

from collections import deque
from uuid import uuid4

from localstack.servicebus import codec, frames
from localstack.servicebus.errors import Refusal
from localstack.servicebus.frames import Attach, Flow
from localstack.servicebus.line import Session
from localstack.servicebus.message import Message
from localstack.servicebus.store import Store
from localstack.servicebus.wire import Wire, address, terminus

_TICKS_TO_1970 = 621_355_968_000_000_000


class Outlet:
    """An outgoing link of an entity's messages or, without a store, of a desk's answers."""

    def __init__(self, wire: Wire, asked: Attach, store: Store | None) -> None:
        self.wire = wire
        self.asked = asked
        self.handle = asked.handle
        self.address = address(asked.source)
        self.target = asked.target.value[0] if asked.target and asked.target.value else None
        self.store = store
        self.takes = asked.send_settle == 1
        self._attached = False
        self._credit = 0
        self._count = 0
        self._answers: deque[bytes] = deque()

    @property
    def ready(self) -> bool:
        """Tell whether the client has room for a message."""
        return self._credit > 0 and self.wire.window > 0

    def begin(self, session: Session | None = None) -> None:
        """Attach."""
        self._attached = True
        properties: dict[bytes, bytes] = {}
        if session is not None:
            ticks = int(session.until * 10_000_000) + _TICKS_TO_1970
            properties[codec.symbol("com.microsoft:locked-until-utc")] = codec.long(ticks)
        answer = frames.attached(
            self.asked,
            source=terminus(0x28, self.asked.source, session),
            target=terminus(0x29, self.asked.target),
            properties=codec.mapping(properties),
        )
        self.wire.write(answer)

    def granted(self, session: Session) -> None:
        """Note that a session was locked for this link."""
        self.begin(session)
        self.pump()

    def flow(self, said: Flow) -> None:
        """Note the client's credit; when it drains, give back the credit that is left."""
        if said.credit is not None:
            self._credit = (said.delivery_count or 0) + said.credit - self._count
        self.pump()
        if said.drain:
            self._count += max(0, self._credit)
            self._credit = 0
        if said.drain or said.echo:
            credit = max(0, self._credit)
            self.wire.say(self.handle, count=self._count, credit=credit, drain=bool(said.drain))

    def pump(self) -> None:
        """Send waiting answers while there is credit."""
        while self._answers and self.ready:
            self._send(uuid4().bytes, self._answers.popleft(), settled=True)
        if self.store is not None and self._attached and self.ready:
            self.store.pump(self)

    def reply(self, answer: bytes) -> None:
        """Send a desk's answer."""
        self._answers.append(answer)
        self.pump()

    def deliver(self, message: Message) -> None:
        """Send a message and lock it; a receive-and-delete link removes it instead."""
        self.wire.namespace.stats["deliveries"] += 1
        payload = message.encode(locked=not self.takes)
        token = message.token
        if token is None or self.store is None:
            self._send(uuid4().bytes_le, payload, settled=True)
            return
        delivery = self._send(token.bytes_le, payload, settled=False)
        self.wire.remember(delivery, self.store, token)

    def _send(self, tag: bytes, payload: bytes, *, settled: bool) -> int:
        self._credit -= 1
        self._count += 1
        return self.wire.send(self.handle, tag, payload, settled=settled)

    def refuse(self, refusal: Refusal) -> None:
        """End the link for a reason."""
        if self.wire.links.pop(self.handle, None) is None:
            return
        self.leave()
        if self._attached:
            self.wire.part(self.handle, refusal)
        else:
            self.wire.turn_down(self.asked, refusal)

    def leave(self) -> None:
        """End the link on this side."""
        self._credit = 0
        if self.store is not None:
            self.store.leave(self)
