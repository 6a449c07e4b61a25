"""Lists the messages and sessions of a store without locking or changing them."""

from __future__ import annotations

from localstack.servicebus.message import Message, State
from localstack.servicebus.store import Store

MOST_PEEKED = 250


def peek(store: Store, first: int, count: int, session: str | None) -> list[Message]:
    """List messages from a sequence number on, whatever their state."""
    found = sorted(sequence for sequence in store.messages if sequence >= first)
    wanted = (store.messages[sequence] for sequence in found)
    chosen = [m for m in wanted if session is None or m.session_id == session]
    return chosen[: min(count, MOST_PEEKED)]


def named_sessions(store: Store, since: float | None) -> list[str]:
    """Name the sessions with messages or a state; or those whose state was set after `since`."""
    if since is not None:
        return sorted(s.name for s in store.sessions.values() if s.updated > since)
    filled = {m.session_id for m in store.messages.values() if m.state is State.ACTIVE}
    stateful = {s.name for s in store.sessions.values() if s.state is not None}
    return sorted({name for name in filled if name} | stateful)
