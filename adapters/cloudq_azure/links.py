"""Opens the SDK's links, and settles and renews whole batches over them.

Locks are settled and renewed by their tokens, over any link to the queue, in one request a batch;
the SDK's own methods make one for each message. This needs private parts of the SDK (7.15); only
`pulls` uses them beside this file.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from socket import SHUT_RDWR
from threading import Lock, Timer
from typing import Any, Literal, TypeVar, cast

from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiver, ServiceBusSender
from azure.servicebus._common import mgmt_handlers
from azure.servicebus._common.utils import create_authentication
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageNotFoundError,
    OperationTimeoutError,
    SessionLockLostError,
)

from cloudq_azure.client import ATTEMPT
from cloudq_azure.errors import incomplete

Owner = TypeVar("Owner", ServiceBusSender, ServiceBusReceiver)

Settlement = Literal["completed", "abandoned", "suspended"]
"""What becomes of a locked message, as `$management` calls it; suspended = dead-lettered."""

LOST = (MessageLockLostError, SessionLockLostError, MessageAlreadySettled, MessageNotFoundError)
"""The errors that say that a lock is somebody else's by now."""

# Seconds within which a connection must be open; there is one more try.
_GREETING = 3.0
# Messages to ask for in one peek; the service returns as many as fit into an answer.
_MOST_PEEKED = 250

# Locks to remember before those that have ended are removed.
_CROWD = 10_000


@dataclass(slots=True, eq=False)
class Link:
    """A receiver of the SDK with a lock, since it is safe for one thread at a time only."""

    receiver: ServiceBusReceiver
    lock: Lock = field(default_factory=Lock)


class Locks:
    """The ends of this process's message locks, by its own clock. Safe for many threads."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        self._mutex = Lock()
        self._crowd = _CROWD

    def hold(self, tokens: Iterable[str], seconds: float) -> None:
        """Record that messages are locked for `seconds` from now."""
        ends = time.monotonic() + seconds
        with self._mutex:
            self._ends.update(dict.fromkeys(tokens, ends))
            if len(self._ends) > self._crowd:  # many were never settled
                now = time.monotonic()
                self._ends = {token: end for token, end in self._ends.items() if end > now}
                self._crowd = max(_CROWD, 2 * len(self._ends))

    def drop(self, tokens: Iterable[str]) -> None:
        """Record that messages are settled."""
        with self._mutex:
            for token in tokens:
                self._ends.pop(token, None)

    def good(self, token: str) -> bool:
        """Tell whether a lock has not ended yet."""
        return self._ends.get(token, 0.0) > time.monotonic()


def guarded(owner: Owner) -> Owner:
    """Make a sender or receiver open within a time, and close its socket in the end.

    The SDK waits forever for a peer that accepts a connection and then says nothing. And it leaks
    the socket of a connection that has broken, or that breaks while it is closed.
    """
    create, close = owner._create_handler, owner._close_handler

    def create_guarded(auth: Any) -> None:
        create(auth)
        handler = cast("Any", owner._handler)
        handler.open = partial(_open_in_time, handler, handler.open)

    def close_all() -> None:
        connection = getattr(owner._handler, "_connection", None)
        try:
            close()
        finally:
            if connection is not None:
                connection._transport.close()

    owner._create_handler, owner._close_handler = create_guarded, close_all
    return owner


def _open_in_time(handler: Any, open: Callable[..., None], **options: Any) -> None:
    if handler._session:  # it is open: the SDK calls this before each message that it sends
        return

    def cut() -> None:
        with suppress(OSError, AttributeError):
            handler._connection._transport.sock.shutdown(SHUT_RDWR)

    timer = Timer(_GREETING, cut)
    timer.daemon = True
    timer.start()
    try:
        open(**options)
    finally:
        timer.cancel()


def close_link(link: Link) -> None:
    """Close a receiver; errors of a connection that is gone do not matter."""
    with link.lock, suppress(Exception):
        link.receiver.close()


def never() -> bool:
    """Return False: nothing stops it."""
    return False


def opened(
    receiver: ServiceBusReceiver, patience: float, stopped: Callable[[], bool] = never
) -> bool:
    """Open the link, unless it is open; False if it is to be stopped.

    The SDK's own way sleeps for 50 ms after each frame, half a second in all, and cannot be
    stopped while it waits for a session. It also starts a thread that reads from the connection
    beside the caller's, to give back what came for unused credit; ours is never unused, and
    closing would wait a second for that thread. The service ends a connection that is idle for
    minutes: the next request then opens another one.
    """
    if receiver._running:
        return True
    if stopped():
        return False
    receiver._close_handler()
    receiver._create_handler(create_authentication(receiver))
    handler = cast("Any", receiver._handler)
    handler._keep_alive_interval = 0
    deadline = time.monotonic() + patience
    handler.open(connection=None)
    while not handler.client_ready():
        if stopped():
            return False
        if time.monotonic() > deadline:
            raise OperationTimeoutError(message=f"no link to {receiver.entity_path} in time")
    receiver._running = True
    return True


def accept(receiver: ServiceBusReceiver, wait: float, stopped: Callable[[], bool] = never) -> bool:
    """Lock a session that has messages, waiting up to `wait` s for one; False if none came."""
    try:
        done = receiver._do_retryable_operation(partial(opened, receiver, wait + ATTEMPT, stopped))
    except OperationTimeoutError:
        return False
    return bool(done)


def settle(
    receiver: ServiceBusReceiver,
    settlement: Settlement,
    tokens: Sequence[str],
    locks: Locks,
    *,
    reason: str | None = None,
    description: str | None = None,
) -> dict[int, Exception]:
    """Settle locks of the receiver's queue or session; return the errors of the others.

    A request whose answer was lost is made once more.
    """
    details = {"deadletter-reason": reason, "deadletter-description": description}

    def attempt(part: Sequence[uuid.UUID]) -> None:
        opened(receiver, ATTEMPT)
        receiver._settle_message_via_mgmt_link(
            settlement,
            cast("Any", part),
            dead_letter_details=details if settlement == "suspended" else None,
        )

    def request(part: Sequence[str]) -> None:
        receiver._do_retryable_operation(partial(attempt, [uuid.UUID(token) for token in part]))

    # What a request did before it failed, or before its answer was lost, looks lost to the next.
    held = [locks.good(token) for token in tokens]
    # Those whose locks seem to have ended go last: of the others a request may well settle all.
    order = sorted(range(len(tokens)), key=held.__getitem__, reverse=True)
    found = _each(request, [tokens[at] for at in order], first=sum(held))
    failed = {order[place]: error for place, error in found.items()}
    left = {at: error for at, error in failed.items() if not isinstance(error, LOST)}
    locks.drop(token for at, token in enumerate(tokens) if at not in left)
    single = len(tokens) == 1
    return left | {at: failed[at] for at in failed.keys() - left if single or not held[at]}


def renew(receiver: ServiceBusReceiver, tokens: Sequence[str]) -> dict[int, Exception]:
    """Renew the locks from now; return the errors of the others."""

    def request(part: Sequence[str]) -> None:
        receiver._do_retryable_operation(partial(opened, receiver, ATTEMPT))
        reply = receiver._renew_locks(
            *(cast("Any", uuid.UUID(token)) for token in part), timeout=2 * ATTEMPT
        )
        if len((reply or {}).get(b"expirations") or ()) != len(part):
            raise incomplete("the end of each lock")

    return _each(request, tokens)


def _each(
    request: Callable[[Sequence[str]], None], tokens: Sequence[str], first: int = 0
) -> dict[int, Exception]:
    # The `first` tokens make one request, and the others another. One lost lock fails the whole
    # request, and the service does not say which one it was: each half is asked for by itself,
    # down to single ones.
    failed: dict[int, Exception] = {}
    left = [part for part in (range(first, len(tokens)), range(first)) if part]
    while left:
        part = left.pop()
        middle = part.start + len(part) // 2
        try:
            request(tokens[part.start : part.stop])
        except LOST as error:
            if len(part) == 1:
                failed[part.start] = error
            else:
                left += [range(middle, part.stop), range(part.start, middle)]
        except Exception as error:
            # What is known of those before it counts: of many lost locks a network that fails now
            # and then would let no try come to its end.
            if part.start == 0:
                raise
            return failed | dict.fromkeys(range(part.start, len(tokens)), error)
    return failed


def usable(receiver: ServiceBusReceiver) -> bool:
    """Tell whether a receiver still has its session: a new link would get another one."""
    return bool(receiver._running)


def peek(
    sender: ServiceBusSender, *, first: int, count: int
) -> Sequence[ServiceBusReceivedMessage]:
    """Look at messages, from a sequence number on; all sessions together.

    It is asked through a sender's link, since a queue with sessions has no receiver of them all.
    """
    transport = cast("Any", sender._amqp_transport)
    body = {
        "from-sequence-number": transport.AMQP_LONG_VALUE(first),
        "message-count": transport.AMQP_INT_VALUE(min(count, _MOST_PEEKED)),
    }
    found = sender._mgmt_request_response_with_retry(
        b"com.microsoft:peek-message",
        body,
        partial(mgmt_handlers.peek_op, receiver=sender),
        timeout=2 * ATTEMPT,
        keep_alive_associated_link=False,
    )
    return cast("Sequence[ServiceBusReceivedMessage]", found)
