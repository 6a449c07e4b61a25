"""The broker on Azure Service Bus: `servicebus://namespace?tier=&lock=&prefix=&emulator=&admin=`.

A message is its body and one property, `cloudq-id`. A queue whose name ends in `.fifo` has
sessions (a group is one) and knows duplicates. A queue has one length of lease, its own lock
duration: `lock=SECONDS` tells it ahead, and keeps leases right where this machine's clock is
wrong; else the first message tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock

from azure.servicebus import ServiceBusMessage

from cloudq.driver import (
    FOREVER,
    Address,
    Code,
    Delivery,
    Failure,
    Limits,
    Outgoing,
    Peeked,
    Purged,
    QueueStats,
    Scheduled,
    is_ordered,
)
from cloudq.driver.billing import ACK, EXTEND, POLL, RECEIVE, SEND, Meter
from cloudq.driver.log import Log
from cloudq_azure import servicebus_admin as admin
from cloudq_azure import servicebus_scheduled as delayed
from cloudq_azure.client import Access, access
from cloudq_azure.errors import error_code
from cloudq_azure.links import Settlement, renew, settle
from cloudq_azure.messages import (
    BATCH,
    MAX_PREMIUM,
    MAX_STANDARD,
    burial,
    later,
    outgoing,
    reason_to_bury,
    receipt_of,
    to_bury,
    to_delivery,
    too_large,
)
from cloudq_azure.prices import SERVICE_BUS
from cloudq_azure.queues import Namespace, Queue
from cloudq_azure.sending import failures, send_all
from cloudq_azure.sessions import Sessions

log = Log("cloudq.servicebus")

_STANDARD = Limits(
    batch=BATCH,
    body=MAX_STANDARD,
    batch_body=MAX_STANDARD,
    max_delay=FOREVER,
    max_lease=60,
    min_lease=60,
    max_wait=20,
    min_wait=0.1,  # an answer from afar takes as long
)
# A receive is of one session, and opens a link for it: many at a time would be stale by the last.
_FIFO = replace(_STANDARD, batch=10, min_wait=0.5, ordered=True, dedup_window=600)
# Closing a link takes the SDK up to a second, most of which it sleeps.
_CLOSERS = 16

Errors = Mapping[int, Exception]


def open_broker(address: Address) -> ServiceBus:
    """The driver of a `servicebus://` URL. Raises `ConfigurationError`; opens no connection."""
    return ServiceBus(access(address))


class ServiceBus:
    """A `BrokerDriver`, `Scheduling`, `EndsReceives` and `QueueAdmin` on one namespace."""

    def __init__(self, reach: Access) -> None:
        self._access = reach
        self._namespace = Namespace(reach)
        self.meter = Meter(SERVICE_BUS)
        self._admin = reach.admin()
        self._closers = ThreadPoolExecutor(_CLOSERS, thread_name_prefix="servicebus-close")
        self._mutex = Lock()
        self._queues: dict[str, Queue] = {}
        self._dead: dict[str, Queue] = {}
        self._sessions: dict[str, Sessions] = {}

    def limits(self, queue: str) -> Limits:
        """Return the limits of the queue; its lease is taken for 60 s until a message shows it."""
        limits = _FIFO if is_ordered(queue) else _STANDARD
        body = MAX_PREMIUM if self._access.premium else MAX_STANDARD
        known = self._queues.get(queue)
        lease = known.lock.seconds if known else self._access.lock or limits.max_lease
        return replace(limits, body=body, batch_body=body, max_lease=lease, min_lease=lease)

    # ---- messages

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Send a batch in as few requests as its size allows; delayed ones are scheduled."""
        most, fifo = self.limits(queue).body, is_ordered(queue)
        refused = [
            too_large(index, message, most)
            for index, message in enumerate(messages)
            if len(message.body) > most
        ]
        large = {failure.index for failure in refused}
        fit = {
            index: outgoing(message, fifo=fifo)
            for index, message in enumerate(messages)
            if index not in large
        }
        size = sum(len(messages[index].body) for index in fit)
        self.meter.count(SEND, queue, items=len(fit), size=size)
        return [*refused, *send_all(self._queue(queue), fit)]

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        """Lock messages for the queue's own lock duration, whatever `lease` asks for."""
        wait = max(wait, self.limits(queue).min_wait)
        session: str | None = None
        if is_ordered(queue):
            found, length, session = self._sessions_of(queue).receive(count, wait)
        else:
            found, length = self._queue(queue).receive(count, wait)
        got = [to_delivery(queue, message, lease=length, session=session) for message in found]
        size = sum(len(delivery.body) for delivery in got)
        self.meter.count(RECEIVE if got else POLL, queue, items=len(got), size=size)
        return self._unburied(got)

    def end_receives(self) -> None:
        """Have the receives that wait give their credit back, and return what has come."""
        with self._mutex:
            waiting = [*self._queues.values(), *self._sessions.values()]
        for each in waiting:
            each.end_receives()

    def _unburied(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Dead-letter those that are sent for that; return the others."""
        left: list[Delivery] = []
        for delivery in deliveries:
            reason = reason_to_bury(delivery)
            if reason is None:
                left.append(delivery)
                continue
            for failure in self.dead_letter([delivery], reason=reason):
                # Its lock ends, and who receives it then tries again.
                log.warning("%s cannot be dead-lettered yet: %s", delivery.id, failure.reason)
        return left

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Send messages that are dead-lettered when they are received: there is no other way."""
        queue = deliveries[0].queue
        fifo = is_ordered(queue)
        marked = {at: to_bury(each, reason, fifo=fifo) for at, each in enumerate(deliveries)}
        return send_all(self._queue(queue), marked)

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        """Complete the messages."""
        return self._settle(deliveries, "completed")

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        """Abandon the messages.

        Service Bus knows no time for it. With `after`, a copy is scheduled and the message
        completed. Where there are sessions a copy would lose its place: there the session stays
        locked by this process, and what it holds comes back at once when the process ends.
        """
        if after <= 0:
            return self._settle(deliveries, "abandoned")
        if is_ordered(deliveries[0].queue):
            sessions = self._sessions_of(deliveries[0].queue)
            return self._by_session(
                deliveries, lambda key, tokens: sessions.hold_back(key, tokens, after)
            )
        return self._replace(
            deliveries, {index: later(each, after) for index, each in enumerate(deliveries)}
        )

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        """Lock the messages, or their sessions, anew for the queue's own lock duration."""
        queue = deliveries[0].queue
        self.meter.count(EXTEND, queue, items=len(deliveries))
        if is_ordered(queue):
            return self._by_session(deliveries, self._sessions_of(queue).renew)
        known = self._queue(queue)
        tokens = [receipt_of(delivery).token for delivery in deliveries]
        with known.renewer.lock:
            failed = renew(known.renewer.receiver, tokens)
        renewed = [token for index, token in enumerate(tokens) if index not in failed]
        known.locks.hold(renewed, known.lock.seconds)
        return failures(failed)

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Move to the queue's own dead letters, with the reason."""
        return self._settle(deliveries, "suspended", reason)

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def close(self) -> None:
        """Close all links, at the same time. That ends the locks of sessions."""
        with self._mutex:
            sessions = list(self._sessions.values())
            queues = [*self._queues.values(), *self._dead.values()]
        for each in sessions:
            each.close()
        for queue in queues:
            queue.close(self._closers)
        self._closers.shutdown()
        self._namespace.close()
        self._admin.close()

    # ---- settling

    def _settle(
        self, deliveries: Sequence[Delivery], settlement: Settlement, why: str = ""
    ) -> Sequence[Failure]:
        reason, description = burial(why)
        queue = deliveries[0].queue
        self.meter.count(ACK, queue, items=len(deliveries))
        if is_ordered(queue):
            sessions = self._sessions_of(queue)
            return self._by_session(
                deliveries,
                lambda key, tokens: sessions.settle(
                    settlement, key, tokens, reason=reason, description=description
                ),
            )
        known = self._queue(queue)
        with known.settler.lock:
            failed = settle(
                known.settler.receiver,
                settlement,
                [receipt_of(delivery).token for delivery in deliveries],
                known.locks,
                reason=reason,
                description=description,
            )
        return failures(failed)

    def _by_session(
        self,
        deliveries: Sequence[Delivery],
        work: Callable[[str | None, Sequence[str]], Errors],
    ) -> Sequence[Failure]:
        places: dict[str | None, list[int]] = {}
        for index, delivery in enumerate(deliveries):
            places.setdefault(receipt_of(delivery).session, []).append(index)
        failed: dict[int, Exception] = {}
        for key, indexes in places.items():
            errors = work(key, [receipt_of(deliveries[index]).token for index in indexes])
            failed |= {indexes[at]: error for at, error in errors.items()}
        return failures(failed)

    def _replace(
        self, deliveries: Sequence[Delivery], copies: Mapping[int, ServiceBusMessage]
    ) -> Sequence[Failure]:
        # A message that another worker has leased by now must not be copied: it would run twice.
        failed = {f.index: f for f in self.extend(deliveries, lease=0)}
        held = {index: copy for index, copy in copies.items() if index not in failed}
        failed |= {f.index: f for f in send_all(self._queue(deliveries[0].queue), held)}
        sent = [index for index in held if index not in failed]
        if sent:
            for failure in self.ack([deliveries[index] for index in sent]):
                failed[sent[failure.index]] = replace(failure, index=sent[failure.index])
        return [failed[index] for index in sorted(failed)]

    # ---- delayed messages

    def schedule(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[str | Failure]:
        """Schedule messages, those of one delay in one request; handles are sequence numbers."""
        most = self.limits(queue).body
        size = sum(len(message.body) for message in messages)
        self.meter.count(SEND, queue, items=len(messages), size=size)
        return delayed.schedule(self._queue(queue), messages, most=most, fifo=is_ordered(queue))

    def unschedule(self, queue: str, handles: Sequence[str]) -> Sequence[Failure]:
        """Cancel scheduled messages."""
        return delayed.unschedule(self._queue(queue), handles)

    def scheduled(self, queue: str, *, count: int, after: str | None = None) -> Sequence[Scheduled]:
        """Look at scheduled messages, in the order in which they were scheduled."""
        return delayed.scheduled(self._queue(queue), count=count, after=after)

    # ---- what an operator does

    def create(self, queue: str, *, lease: float, max_deliveries: int) -> None:
        """Make the queue, with a lock of 5 s to 5 minutes. An existing one is left as it is."""
        admin.create(self._admin, self._access, queue, lease=lease, max_deliveries=max_deliveries)

    def delete(self, queue: str) -> None:
        """Delete the queue; its dead letters are part of it."""
        self._admin.delete_queue(self._access.prefix + queue)
        with self._mutex:
            left = [self._queues.pop(queue, None), self._dead.pop(queue, None)]
            sessions = self._sessions.pop(queue, None)
        if sessions is not None:
            sessions.close()
        for known in left:
            if known is not None:
                known.close(self._closers)

    def list(self, prefix: str = "") -> Sequence[str]:
        """The names of the queues."""
        return admin.names(self._admin, self._access.prefix, prefix)

    def stats(self, queue: str) -> QueueStats:
        """Return the queue's counts. Service Bus counts leased messages among the ready ones."""
        return admin.stats(self._admin, queue, self._access.prefix + queue)

    def peek(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at messages without taking them; leased ones are seen too."""
        return admin.peek(self._queue(queue), count)

    def purge(self, queue: str) -> Purged:
        """Receive and delete all messages, and cancel delayed ones; leased ones stay."""
        known = self._queue(queue)
        return admin.purge(known, self._closers, fifo=is_ordered(queue))

    def peek_dead(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at dead letters without taking them."""
        return admin.peek_dead(self._dead_of(queue), count)

    def redrive(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Send dead letters to their queue again, then delete them from the dead letters."""
        known, dead = self._queue(queue), self._dead_of(queue)
        return admin.redrive(known, dead, messages, fifo=is_ordered(queue))

    def delete_dead(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Delete the chosen dead letters."""
        return admin.delete_dead(self._dead_of(queue), messages)

    def purge_dead(self, queue: str) -> Purged:
        """Receive and delete all dead letters."""
        return admin.purge_dead(self._dead_of(queue), self._closers)

    # ---- links, opened once

    def _queue(self, queue: str) -> Queue:
        with self._mutex:
            if queue not in self._queues:
                self._queues[queue] = Queue(self._namespace, self._access.prefix + queue)
            return self._queues[queue]

    def _dead_of(self, queue: str) -> Queue:
        with self._mutex:
            if queue not in self._dead:
                name = self._access.prefix + queue
                self._dead[queue] = Queue(self._namespace, name, dead=True)
            return self._dead[queue]

    def _sessions_of(self, queue: str) -> Sessions:
        lock = self._queue(queue).lock
        with self._mutex:
            if queue not in self._sessions:
                name = self._access.prefix + queue
                self._sessions[queue] = Sessions(self._namespace, name, lock, self._closers)
            return self._sessions[queue]
