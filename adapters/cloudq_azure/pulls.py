"""Receives batches over the SDK's links, and leaves no credit behind.

The SDK's `receive_messages` leaves credit on the link, by which an idle receiver takes messages
that nobody asked for, and it waits 0.2 s for more messages. So credit is given and drained here,
and what a pull did not get stays in the queue.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty
from typing import Any, cast

from azure.servicebus import ServiceBusReceivedMessage, ServiceBusReceiver

from cloudq.driver.log import Log
from cloudq_azure.client import ATTEMPT
from cloudq_azure.errors import SHAPELESS, incomplete
from cloudq_azure.links import never, opened

log = Log("cloudq.servicebus")

# Seconds to wait for the answer to a drain; without one the link is closed.
_DRAIN = 3.0

# Fields of the AMQP frame `flow`, and the number of counts that a link has before they begin anew.
_COUNT, _CREDIT, _DRAINED = 5, 6, 8
_COUNTS = 1 << 32


def pull(
    receiver: ServiceBusReceiver,
    *,
    count: int,
    wait: float,
    stopped: Callable[[], bool] = never,
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
    if not opened(receiver, ATTEMPT, stopped):
        return
    handler = cast("Any", receiver._handler)
    link, arrived = handler._link, handler._received_messages
    credit = Credit.of(link)
    # Outside of such a context the SDK gives back at once what comes.
    receiver._receive_context.set()
    try:
        credit.grant(count)
        while not arrived.qsize() and time.monotonic() < deadline and not stopped():
            _listen(handler)
        if link.current_link_credit > 0:
            _drain(receiver, handler, credit)
    finally:
        receiver._receive_context.clear()
        _take(arrived, found)
        # Locks are settled by other links: here the SDK would remember each message for ever.
        link._received_delivery_tags.clear()


def _drain(receiver: ServiceBusReceiver, handler: Any, credit: Credit) -> None:
    credit.drain()
    deadline = time.monotonic() + _DRAIN
    while not credit.is_over:
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


class Credit:
    """The credit that a link's peer has: for how many messages more, and whether it drains them.

    The SDK takes no notice of an answer to a drain. But the credit that the peer has dropped
    counts as delivered: the next grant would be too small by as much.

    Where messages have used up all credit before the peer heard of the drain, its answer comes
    when nobody waits for it any more, maybe amid the next pull. Taken for the answer to that
    one's drain, it would leave messages on their way, locked for nobody.
    """

    def __init__(self, link: Any) -> None:
        self._link = link
        self._asked = self._answered = False
        self._late = 0  # answers that are still to come to drains of earlier grants

    @classmethod
    def of(cls, link: Any) -> Credit:
        """The credit of this link, the same one each time."""
        known: object = link._incoming_flow
        if not isinstance(known, cls):
            known = link._incoming_flow = cls(link)
        return known

    @property
    def is_over(self) -> bool:
        """True when the peer has used up, or dropped, all credit."""
        return self._answered or self._link.current_link_credit <= 0

    def grant(self, count: int) -> None:
        """Let the peer send so many messages."""
        self._late += self._asked and not self._answered
        self._asked = self._answered = False
        self._link.flow(link_credit=count)

    def drain(self) -> None:
        """Ask the peer to send what it has at once, and drop the credit that is left."""
        self._asked = True
        self._link.flow(link_credit=self._link.current_link_credit, drain=True)

    def __call__(self, frame: Sequence[Any]) -> None:
        """Read a frame `flow` of the peer."""
        count = frame[_COUNT]
        if count is None or not frame[_DRAINED]:
            return
        link = self._link
        end = (link.delivery_count + link.current_link_credit) % _COUNTS
        if self._late and not (self._asked and count % _COUNTS == end):
            self._late -= 1
            return
        self._late = 0
        self._answered = True
        link.delivery_count = count
        link.current_link_credit = frame[_CREDIT] or 0


def _take(arrived: Any, found: list[Any]) -> None:
    while True:
        try:
            found.append(arrived.get_nowait())
        except Empty:
            return
        arrived.task_done()
