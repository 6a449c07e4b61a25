"""The shared part of an AMQP session's links: its windows, deliveries, and way out."""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from localstack.servicebus import codec, errors, frames
from localstack.servicebus.errors import Refusal
from localstack.servicebus.faults import Fault, Operation
from localstack.servicebus.frames import Attach, Flow
from localstack.servicebus.line import Session
from localstack.servicebus.namespace import Namespace
from localstack.servicebus.store import Store
from localstack.servicebus.values import Described

WINDOW = 0x7FFF_FFFF
SESSION_FILTER = "com.microsoft:session-filter"
_REMEMBERED = 10_000


class Peer(Protocol):
    """The connection that a session belongs to."""

    namespace: Namespace
    authorized: bool
    max_frame: int

    def write(self, channel: int, body: bytes) -> None:
        """Send a frame."""
        ...

    def drop(self) -> None:
        """Cut the connection."""
        ...

    def admit(self) -> None:
        """Note that the client has sent a valid token."""
        ...


class Link(Protocol):
    """One end of a link."""

    def flow(self, said: Flow) -> None:
        """Handle the client's credit."""
        ...

    def leave(self) -> None:
        """End the link on this side."""
        ...


class Wire:
    """The state of one session of AMQP."""

    def __init__(self, peer: Peer, number: int, window: int, next_incoming: int) -> None:
        self.peer = peer
        self.number = number
        self.window = window
        self.next_incoming = next_incoming
        self.next_outgoing = 0
        self.links: dict[int, Link] = {}
        self.unsettled: dict[int, tuple[Store, UUID]] = {}
        self._next_delivery = 0
        self._most = _REMEMBERED

    @property
    def namespace(self) -> Namespace:
        """The state of the server."""
        return self.peer.namespace

    def write(self, body: bytes) -> None:
        """Send a frame of this session."""
        self.peer.write(self.number, body)

    def send(self, handle: int, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send a message, in as many frames as it takes; its delivery number."""
        delivery = self._next_delivery
        self._next_delivery += 1
        head = frames.transfer(handle, delivery, tag, settled=settled, more=True)
        room = self.peer.max_frame - 8 - len(head)
        at = 0
        while len(payload) - at > room:
            self._send_frame(head + payload[at : at + room])
            at += room
        last = frames.transfer(handle, delivery, tag, settled=settled, more=False)
        self._send_frame(last + payload[at:])
        return delivery

    def _send_frame(self, body: bytes) -> None:
        self.next_outgoing += 1
        self.window -= 1
        self.write(body)

    def remember(self, delivery: int, store: Store, token: UUID) -> None:
        """A delivery that the client has not settled yet."""
        self.unsettled[delivery] = (store, token)
        if len(self.unsettled) > self._most:
            # Deliveries whose lock ran out, or that were settled on another link, never come back.
            kept = {d: entry for d, entry in self.unsettled.items() if entry[0].has_lock(entry[1])}
            self.unsettled = kept
            self._most = max(_REMEMBERED, 2 * len(kept))

    def say(self, handle: int, *, count: int, credit: int, drain: bool = False) -> None:
        """Send the state of a link."""
        self.write(
            frames.flow(
                next_incoming=self.next_incoming,
                next_outgoing=self.next_outgoing,
                window=WINDOW,
                handle=handle,
                count=count,
                credit=credit,
                drain=drain,
            )
        )

    def strike(self, operation: Operation, path: str) -> Fault | None:
        """Return the fault ordered for this operation. Raises `Refusal` for a refusal."""
        fault = self.namespace.faults.strike(operation, path)
        if fault is None:
            return None
        if fault.kind == "busy":
            raise errors.busy()
        if fault.kind == "error":
            raise errors.failed()
        if not fault.after:
            self.peer.drop()
        return fault

    def turn_down(self, asked: Attach, refusal: Refusal) -> None:
        """Refuse a link, as AMQP requires: attach it to no node, then detach it with the reason."""
        self.write(frames.attached(asked, source=codec.NULL, target=codec.NULL))
        self.part(asked.handle, refusal)

    def part(self, handle: int, refusal: Refusal) -> None:
        """End a link for a reason."""
        problem = frames.error(refusal.condition, refusal.description)
        self.write(frames.detached(handle, problem))


def address(terminus: Described | None) -> str:
    """Return the node of a link. Raises `Refusal` if it does not exist."""
    fields: list[Any] = terminus.value if terminus is not None else []
    if not fields or not isinstance(fields[0], str):
        raise Refusal(errors.INVALID_FIELD, "A link needs the address of an entity.")
    return fields[0]


def terminus(code: int, asked: Described | None, session: Session | None = None) -> bytes:
    """Return the requested source (0x28) or target (0x29) as it was granted."""
    fields: list[Any] = asked.value if asked is not None else []
    named = fields[0] if fields and isinstance(fields[0], str) else ""
    parts = [codec.string(named)]
    if session is not None:
        chosen = {codec.symbol(SESSION_FILTER): codec.string(session.name)}
        parts += [codec.NULL] * 6 + [codec.mapping(chosen)]
    return codec.described(code, codec.sequence(parts))
