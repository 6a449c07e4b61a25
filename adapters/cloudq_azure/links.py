"""Receives, settles and renews whole batches over the SDK's links, and leaves no credit behind.

The SDK's `receive_messages` leaves credit on the link, by which an idle receiver takes messages
that nobody asked for, and it waits 0.2 s for more messages. So credit is given and drained here,
and what a pull did not get stays in the queue. Locks are settled and renewed by their tokens, over
any link to the queue, in one request a batch; the SDK's own methods make one for each message.
Both need private parts of the SDK (7.15); no other file uses them.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty
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
from cloudq_azure.errors import SHAPELESS, incomplete

log = logging.getLogger("cloudq.servicebus")

Owner = TypeVar("Owner", ServiceBusSender, ServiceBusReceiver)

Settlement = Literal["completed", "abandoned", "suspended"]
"""What becomes of a locked message, as `$management` calls it; suspended = dead-lettered."""

LOST = (MessageLockLostError, SessionLockLostError, MessageAlreadySettled, MessageNotFoundError)
"""The errors that say that a lock is somebody else's by now."""

# Seconds within which a connection must be open; there is one more try.
_GREETING = 3.0
# Seconds to wait for the answer to a drain; without one the link is closed.
_DRAIN = 3.0
# Messages to ask for in one peek; the service returns as many as fit into an answer.
_MOST_PEEKED = 250

# Locks to remember before those that have ended are removed.
_CROWD = 10_000

# Fields of the AMQP frame `flow`.
_COUNT, _CREDIT, _DRAINED = 5, 6, 8


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


def _never() -> bool:
    return False


def pull(
    receiver: ServiceBusReceiver,
    *,
    count: int,
    wait: float,
    stopped: Callable[[], bool] = _never,
) -> list[ServiceBusReceivedMessage]:
    """Receive up to `count` messages, waiting up to `wait` s for the first; leave no credit."""
    deadline = time.monotonic() + wait
    found: list[Any] = []
    try:
        receiver._do_retryable_operation(
            partial(_pull, receiver, found, count=count, deadline=deadline, stopped=stopped)
        )
    except Exception:
        # What came before the connection broke is locked for us, whatever link it came by.
        if not found:
            raise
    return [
        cast("ServiceBusReceivedMessage", receiver._build_received_message(each)) for each in found
    ]


def whole(messages: Sequence[ServiceBusReceivedMessage]) -> list[ServiceBusReceivedMessage]:
    """Return the messages that have a lock and a number, each lock once.

    What is left out comes again when its lock ends: it could not be settled. Raises if all lack
    one of them.
    """
    found = {
        token: each
        for each in messages
        if (token := _token(each)) and each.sequence_number is not None
    }
    if messages and not found:
        raise incomplete("a message's lock or number")
    if len(found) < len(messages):
        log.warning("%d received messages are left for later", len(messages) - len(found))
    return list(found.values())


def _token(message: ServiceBusReceivedMessage) -> uuid.UUID | None:
    try:
        token = message.lock_token
    except SHAPELESS:
        return None
    return token if isinstance(token, uuid.UUID) else None


def _pull(
    receiver: ServiceBusReceiver,
    found: list[Any],
    *,
    count: int,
    deadline: float,
    stopped: Callable[[], bool],
) -> None:
    if not _open(receiver, ATTEMPT, stopped):
        return
    handler = cast("Any", receiver._handler)
    link, arrived = handler._link, handler._received_messages
    drained = _on_drained(link)
    # Outside of such a context the SDK gives back at once what comes.
    receiver._receive_context.set()
    try:
        link.flow(link_credit=count)
        while not arrived.qsize() and time.monotonic() < deadline and not stopped():
            _listen(handler)
        if link.current_link_credit > 0:
            _drain(receiver, handler, drained)
    finally:
        receiver._receive_context.clear()
        _take(arrived, found)


def _open(receiver: ServiceBusReceiver, patience: float, stopped: Callable[[], bool]) -> bool:
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


def _drain(receiver: ServiceBusReceiver, handler: Any, drained: list[bool]) -> None:
    link = handler._link
    drained.clear()
    link.flow(link_credit=link.current_link_credit, drain=True)
    deadline = time.monotonic() + _DRAIN
    while not drained and link.current_link_credit > 0:
        if time.monotonic() > deadline:
            # Closing gives back what is under way.
            receiver._close_handler()
            return
        _listen(handler)


def _listen(handler: Any) -> None:
    # Renews the token when it is time, and raises what has ended the link. One frame at a time:
    # for each further one that is asked for, and does not come, the SDK would wait 0.2 s.
    if handler.client_ready():
        handler._connection.listen(wait=handler._socket_timeout)


def _on_drained(link: Any) -> list[bool]:
    """Return a list that gets an element when the peer has used up, or dropped, all credit."""
    drained: list[bool] = []

    def flow(frame: Sequence[Any]) -> None:
        # The SDK takes no notice of this frame. But the credit that the peer has dropped counts
        # as delivered: the next grant would be too small by as much.
        if frame[_COUNT] is not None and frame[_DRAINED]:
            link.delivery_count = frame[_COUNT]
            link.current_link_credit = frame[_CREDIT] or 0
            drained.append(True)

    link._incoming_flow = flow
    return drained


def _take(arrived: Any, found: list[Any]) -> None:
    while True:
        try:
            found.append(arrived.get_nowait())
        except Empty:
            return
        arrived.task_done()


def accept(receiver: ServiceBusReceiver, wait: float, stopped: Callable[[], bool] = _never) -> bool:
    """Lock a session that has messages, waiting up to `wait` s for one; False if none came."""
    try:
        opened = receiver._do_retryable_operation(partial(_open, receiver, wait + ATTEMPT, stopped))
    except OperationTimeoutError:
        return False
    return bool(opened)


def settle(
    receiver: ServiceBusReceiver,
    settlement: Settlement,
    tokens: Sequence[str],
    locks: Locks,
    *,
    reason: str | None = None,
    description: str | None = None,
) -> dict[int, Exception]:
    """Settle locks of the receiver's queue or session; return the errors of lost ones.

    A request whose answer was lost is made once more.
    """
    details = {"deadletter-reason": reason, "deadletter-description": description}

    def attempt(part: Sequence[uuid.UUID]) -> None:
        _open(receiver, ATTEMPT, _never)
        receiver._settle_message_via_mgmt_link(
            settlement,
            cast("Any", part),
            dead_letter_details=details if settlement == "suspended" else None,
        )

    def request(part: Sequence[str]) -> None:
        receiver._do_retryable_operation(partial(attempt, [uuid.UUID(token) for token in part]))

    # What a request did before it failed, or before its answer was lost, looks lost to the next.
    held = [locks.good(token) for token in tokens]
    failed = _each(request, tokens)
    locks.drop(tokens)
    single = len(tokens) == 1
    return {at: error for at, error in failed.items() if single or not held[at]}


def renew(receiver: ServiceBusReceiver, tokens: Sequence[str]) -> dict[int, Exception]:
    """Renew the locks from now; return the errors of lost ones."""

    def request(part: Sequence[str]) -> None:
        receiver._do_retryable_operation(partial(_open, receiver, ATTEMPT, _never))
        reply = receiver._renew_locks(
            *(cast("Any", uuid.UUID(token)) for token in part), timeout=2 * ATTEMPT
        )
        if len((reply or {}).get(b"expirations") or ()) != len(part):
            raise incomplete("the end of each lock")

    return _each(request, tokens)


def _each(request: Callable[[Sequence[str]], None], tokens: Sequence[str]) -> dict[int, Exception]:
    # One lost lock fails the whole request, and the service does not say which one it was.
    try:
        request(tokens)
    except LOST as error:
        if len(tokens) == 1:
            return {0: error}
    else:
        return {}
    failed: dict[int, Exception] = {}
    for index, token in enumerate(tokens):
        try:
            request([token])
        except LOST as error:
            failed[index] = error
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
