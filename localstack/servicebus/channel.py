"""An AMQP session: opens links, and passes the client's frames to them.

It is called a channel here, since a session is something else in Service Bus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from localstack.servicebus import codec, errors, frames, message
from localstack.servicebus.desk import Desk, TokenDesk
from localstack.servicebus.errors import Refusal
from localstack.servicebus.faults import Fault
from localstack.servicebus.frames import Attach, Begin, Disposition, Flow, Transfer
from localstack.servicebus.inlet import DeskInlet, Inlet, QueueInlet
from localstack.servicebus.namespace import Node, Queue
from localstack.servicebus.outlet import Outlet
from localstack.servicebus.store import Store
from localstack.servicebus.values import Described
from localstack.servicebus.wire import SESSION_FILTER, Peer, Wire, address

_MODIFIED = codec.described(0x27, codec.sequence([]))
_REJECTED = codec.described(0x25, codec.sequence([]))


class Channel:
    """One session of a connection."""

    def __init__(self, peer: Peer, number: int, said: Begin) -> None:
        self._wire = Wire(peer, number, said.incoming_window, said.next_outgoing)

    def attach(self, asked: Attach) -> None:
        """Open a link, or refuse it with the reason."""
        self._wire.namespace.stats["attaches"] += 1
        try:
            self._open_link(asked)
        except Refusal as refusal:
            self._wire.turn_down(asked, refusal)

    def _open_link(self, asked: Attach) -> None:
        wanted = address(asked.source if asked.role == frames.RECEIVER else asked.target)
        if wanted.lower() == "$cbs":
            self._open_desk(
                asked, TokenDesk(self._wire.namespace, self._wire.peer.admit).answer, None
            )
            return
        if not self._wire.peer.authorized:
            raise Refusal(
                errors.UNAUTHORIZED, f"Unauthorized access to '{wanted}': no token was accepted."
            )
        node = self._wire.namespace.resolve(wanted)
        fault = self._wire.strike("attach", node.store.path)
        if fault and not fault.after:
            return
        if node.desk:
            self._open_desk(asked, Desk(self._wire.namespace, node).answer, node.queue)
        elif asked.role == frames.RECEIVER:
            self._open_outlet(asked, node)
        else:
            self._open_inlet(asked, node)
        if fault:
            self._wire.peer.drop()

    def _open_desk(
        self, asked: Attach, answer: Callable[[message.Request], bytes], queue: Queue | None
    ) -> None:
        if asked.role == frames.RECEIVER:
            outlet = self._wire.links[asked.handle] = Outlet(self._wire, asked, None)
            outlet.begin()
            return
        inlet = self._wire.links[asked.handle] = DeskInlet(
            self._wire, asked, queue, answer, self._respond
        )
        inlet.begin(None, codec.NULL)

    def _open_inlet(self, asked: Attach, node: Node) -> None:
        if node.store is node.queue.dead:
            raise Refusal(errors.NOT_ALLOWED, "Nothing can be sent to a dead-letter queue.")
        node.queue.check_send()
        inlet = self._wire.links[asked.handle] = QueueInlet(self._wire, asked, node.queue)
        batch = codec.ulong(node.queue.most_batch_bytes)
        properties = {codec.symbol("com.microsoft:max-message-batch-size"): batch}
        inlet.begin(node.queue.most_bytes, codec.mapping(properties))

    def _open_outlet(self, asked: Attach, node: Node) -> None:
        node.queue.check_receive()
        wants_session, name = _session_filter(asked.source)
        outlet = Outlet(self._wire, asked, node.store)
        if wants_session != node.store.sessionful:
            raise Refusal(errors.NOT_ALLOWED, _NEEDS_SESSION[node.store.sessionful])
        self._wire.links[asked.handle] = outlet
        if not wants_session:
            outlet.begin()
            node.store.join(outlet)
        elif name is None:
            timeout = (asked.properties or {}).get("com.microsoft:timeout", 65_000)
            node.store.accept_next(outlet, timeout / 1000, outlet.granted)
        else:
            try:
                outlet.granted(node.store.accept(outlet, name))
            except Refusal:
                del self._wire.links[asked.handle]
                raise

    def flow(self, said: Flow) -> None:
        """Handle a flow frame, by which the client grants credit."""
        self._wire.namespace.stats["flows"] += 1
        self._wire.next_incoming = said.next_outgoing
        was_shut = self._wire.window <= 0
        self._wire.window = (
            (said.next_incoming or 0) + said.incoming_window - self._wire.next_outgoing
        )
        link = self._wire.links.get(said.handle) if said.handle is not None else None
        if link is not None:
            link.flow(said)
        if was_shut:
            for other in list(self._wire.links.values()):
                if isinstance(other, Outlet):
                    other.pump()

    def transfer(self, part: Transfer, payload: bytes) -> None:
        """Handle a transfer: a message or a part of one."""
        self._wire.next_incoming += 1
        link = self._wire.links.get(part.handle)
        if isinstance(link, Inlet):  # others were ended while this was on its way
            link.transfer(part, payload)

    def disposition(self, said: Disposition) -> None:
        """Handle a disposition, by which the client settles deliveries."""
        if said.role != frames.RECEIVER or said.state is None:
            return
        last = said.first if said.last is None else said.last
        span = range(said.first, last + 1)
        few = len(span) <= len(self._wire.unsettled) + 1
        for delivery in span if few else [d for d in self._wire.unsettled if d in span]:
            self._wire.namespace.stats["dispositions"] += 1
            if not self._settle(delivery, said.state, quiet=bool(said.settled)):
                return

    def _settle(self, delivery: int, state: Described, *, quiet: bool) -> bool:
        entry = self._wire.unsettled.pop(delivery, None)
        fault: Fault | None = None
        try:
            if entry is None:
                raise errors.lock_lost()
            store, token = entry
            fault = self._wire.strike("disposition", store.path)
            if fault and not fault.after:
                return False
            outcome = _apply(store, token, state)
        except Refusal as refusal:
            if refusal.condition in errors.PASSING and entry is not None:
                self._wire.unsettled[delivery] = entry
            outcome = frames.rejected(refusal.condition, refusal.description)
        if fault:
            self._wire.peer.drop()
            return False
        if not quiet:
            self._wire.write(frames.settled(frames.SENDER, delivery, outcome))
        return True

    def detach(self, handle: int) -> None:
        """Handle a detach, by which the client ends a link."""
        link = self._wire.links.pop(handle, None)
        if link is None:
            return  # the answer to a detach of ours
        link.leave()
        self._wire.write(frames.detached(handle))

    def end(self) -> None:
        """End the session and its links."""
        for link in list(self._wire.links.values()):
            link.leave()
        self._wire.links.clear()

    def _respond(self, inlet: Inlet, request: message.Request, answer: bytes) -> None:
        outlets = [link for link in self._wire.links.values() if isinstance(link, Outlet)]
        same = [o for o in outlets if o.store is None and o.address == inlet.address]
        named = [outlet for outlet in same if outlet.target == request.reply_to]
        for outlet in (named or same)[:1]:
            outlet.reply(answer)


_NEEDS_SESSION = {
    True: "It is not possible for an entity that requires sessions to create a non-sessionful"
    " message receiver.",
    False: "A sessionful message receiver cannot be created on an entity that does not require"
    " sessions. Ensure RequiresSession is set to true when creating a Queue to enable it.",
}


def _session_filter(source: Described | None) -> tuple[bool, str | None]:
    """Tell whether the link requests a session, and return its id; None for any session."""
    fields: list[Any] = source.value if source is not None else []
    filters: Mapping[str, Any] = (fields[7] if len(fields) > 7 else None) or {}
    return SESSION_FILTER in filters, message.plain(filters.get(SESSION_FILTER))


def _apply(store: Store, token: UUID, state: Described) -> bytes:
    """Settle a locked message as the client asks, and return the outcome. Raises `Refusal`."""
    fields: list[Any] = state.value
    if state.descriptor == 0x24:
        store.complete(token)
        return frames.ACCEPTED
    if state.descriptor == 0x25:
        problem: list[Any] = fields[0].value if fields and fields[0] is not None else []
        info = dict(problem[2] or {}) if len(problem) > 2 else {}
        reason = info.pop("DeadLetterReason", None)
        why = info.pop("DeadLetterErrorDescription", None)
        store.dead_letter(token, reason, why, info)
        return _REJECTED
    if state.descriptor == 0x26:
        store.release(token)
        return frames.RELEASED
    if state.descriptor == 0x27:
        _, undeliverable, changes = (*fields[:3], None, None, None)[:3]
        if undeliverable:
            store.defer(token, changes or {})
        else:
            store.abandon(token, changes or {})
        return _MODIFIED
    raise Refusal(errors.INVALID_FIELD, f"{state.descriptor!r} is no outcome of a delivery.")
