"""The messages of one entity: delivers, locks and settles them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from typing import Any
from uuid import UUID, uuid4

from localstack.servicebus import errors
from localstack.servicebus.errors import Refusal
from localstack.servicebus.line import Consumer, Line, Session, Waiter
from localstack.servicebus.message import Message, State
from localstack.servicebus.settings import Settings


class Store:
    """The messages of a queue, or of its dead-letter queue."""

    def __init__(
        self,
        path: str,
        settings: Callable[[], Settings],
        bury: Callable[[Message], None] | None,
        forget: Callable[[Message], None],
    ) -> None:
        self.path = path
        self._settings = settings
        self._bury = bury  # moves a message to the dead-letter queue; None: this is one
        self._forget = forget  # told of each message that is gone for good
        self.messages: dict[int, Message] = {}
        self.sessions: dict[str, Session] = {}
        self._locked: dict[UUID, Message] = {}
        self._line = Line()
        self._waiting: deque[Waiter] = deque()
        self._held: dict[Consumer, Session] = {}
        self._loop = asyncio.get_running_loop()

    @property
    def sessionful(self) -> bool:
        """Tell whether messages are received by session; never in a dead-letter queue."""
        return self._bury is not None and self._settings().sessions

    # Messages come in.

    def put(self, message: Message) -> None:
        """Add a message that has its sequence number, and deliver it if a consumer waits."""
        self.messages[message.sequence] = message
        if message.state is State.SCHEDULED:
            return
        if message.expires is not None and self._bury is not None:
            wait = message.expires - time.time()
            message.expiry = self._loop.call_later(wait, self._expire, message)
        self._offer(message)

    def _offer(self, message: Message) -> None:
        if not self.sessionful:
            heappush(self._line.free, message.sequence)
            self._pump(self._line)
            return
        session = self.session(message.session_id or "")
        heappush(session.line.free, message.sequence)
        if session.holder is None:
            self._grant_waiting(session)
        else:
            self._pump(session.line)

    def pump(self, consumer: Consumer) -> None:
        """Deliver messages to a consumer that can take more."""
        session = self._held.get(consumer)
        self._pump(session.line if session else self._line)

    def _pump(self, line: Line) -> None:
        while line.free and line.consumers:
            consumer = line.ready()
            message = self._next(line) if consumer else None
            if consumer is None or message is None:
                return
            self._hand(message, consumer)

    def _next(self, line: Line) -> Message | None:
        while line.free:
            message = self.messages.get(heappop(line.free))
            if message is None or message.token or message.state is not State.ACTIVE:
                continue  # it was settled, locked or deferred after it got in line
            if self._stale(message):
                self._expire(message)
                continue
            return message
        return None

    def _hand(self, message: Message, consumer: Consumer) -> None:
        if consumer.takes:
            self._remove(message)
        else:
            self.lock(message)
        consumer.deliver(message)

    # Locks.

    def has_lock(self, token: UUID) -> bool:
        """Tell whether a lock is still valid."""
        return token in self._locked

    def lock(self, message: Message) -> None:
        """Lock a message, so that it is delivered to no one else until the lock ends."""
        message.token = uuid4()
        self._locked[message.token] = message
        if self.sessionful:
            message.until = self.session(message.session_id or "").until
            return
        length = self._settings().lock
        message.until = time.time() + length
        message.timer = self._loop.call_later(length, self._lose, message, message.token)

    def _lose(self, message: Message, token: UUID) -> None:
        if message.token == token:
            self._free(message, failed=True)

    def renew(self, token: UUID) -> float:
        """Renew a lock and return its end. Raises `Refusal` if the lock is lost."""
        message = self._found(token)
        if self.sessionful:
            raise Refusal(errors.NOT_ALLOWED, "The lock is the session's: renew that.")
        if message.timer:
            message.timer.cancel()
        length = self._settings().lock
        message.until = time.time() + length
        message.timer = self._loop.call_later(length, self._lose, message, token)
        return message.until

    def _found(self, token: UUID) -> Message:
        message = self._locked.get(token)
        if message is None:
            raise errors.session_lost("") if self.sessionful else errors.lock_lost()
        if message.until <= time.time() and not self.sessionful:
            self._lose(message, token)  # the timer is late
            raise errors.lock_lost()
        return message

    def _unlock(self, message: Message) -> None:
        if message.timer:
            message.timer.cancel()
            message.timer = None
        if message.token:
            self._locked.pop(message.token, None)
            message.token = None

    def _free(self, message: Message, *, failed: bool) -> None:
        self._unlock(message)
        message.deliveries += failed
        most = self._settings().max_deliveries
        if failed and self._bury is not None and message.deliveries >= most:
            self._dead_letter(
                message,
                "MaxDeliveryCountExceeded",
                f"Message could not be consumed after {most} delivery attempts.",
            )
        elif self._stale(message):
            self._expire(message)
        elif message.state is State.ACTIVE:
            self._offer(message)

    # Settling a locked message.

    def complete(self, token: UUID) -> None:
        """Remove a message. Raises `Refusal` when the lock is lost, as all of these do."""
        self._remove(self._found(token))

    def abandon(self, token: UUID, changes: Mapping[Any, Any]) -> None:
        """Abandon a message: deliver it again, and count a failed delivery."""
        message = self._found(token)
        message.change(changes)
        self._free(message, failed=True)

    def release(self, token: UUID) -> None:
        """Release a message without counting the delivery."""
        self._free(self._found(token), failed=False)

    def defer(self, token: UUID, changes: Mapping[Any, Any]) -> None:
        """Defer a message; from now on it is received only by its sequence number."""
        message = self._found(token)
        message.change(changes)
        message.state = State.DEFERRED
        self._unlock(message)

    def dead_letter(
        self, token: UUID, reason: str | None, description: str | None, changes: Mapping[Any, Any]
    ) -> None:
        """Move a message to the dead-letter queue, with the reason."""
        message = self._found(token)
        if self._bury is None:
            raise Refusal(errors.NOT_ALLOWED, "A dead-letter queue has none of its own.")
        message.change(changes)
        self._dead_letter(message, reason, description)

    def _dead_letter(self, message: Message, reason: str | None, description: str | None) -> None:
        assert self._bury is not None
        self._detach(message)
        why = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        message.change({name: value for name, value in why.items() if value is not None})
        message.state = State.ACTIVE
        message.expires = None
        self._bury(message)

    def _stale(self, message: Message) -> bool:
        return message.expires is not None and message.expires <= time.time()

    def _expire(self, message: Message) -> None:
        if message.token or self.messages.get(message.sequence) is not message:
            return  # a locked message outlives its time until the lock ends
        if self._settings().dead_letter_expired:
            self._dead_letter(
                message, "TTLExpiredException", "The message expired and was dead lettered."
            )
        else:
            self._remove(message)

    def _remove(self, message: Message) -> None:
        self._detach(message)
        self._forget(message)

    def _detach(self, message: Message) -> None:
        self._unlock(message)
        if message.expiry:
            message.expiry.cancel()
            message.expiry = None
        self.messages.pop(message.sequence, None)

    def withdraw(self, message: Message) -> None:
        """Take a scheduled message out, to cancel it or to make it visible."""
        self._detach(message)

    # Deferred messages.

    def take_deferred(
        self, sequences: Iterable[int], *, takes: bool, session: str | None
    ) -> list[Message]:
        """Receive deferred messages by sequence number; locks or deletes them. Raises `Refusal`."""
        chosen: list[Message] = []
        for sequence in sequences:
            message = self.messages.get(sequence)
            deferred = message is not None and message.state is State.DEFERRED
            if message is None or not deferred or message.token:
                raise Refusal(
                    errors.MESSAGE_NOT_FOUND,
                    f"There is no deferred message with the sequence number {sequence}.",
                )
            if self.sessionful and message.session_id != session:
                raise errors.session_lost(message.session_id or "")
            chosen.append(message)
        if self.sessionful:
            self.holding(session or "")
        for message in chosen:
            if takes:
                self._remove(message)
            else:
                self.lock(message)
        return chosen

    # Consumers.

    def join(self, consumer: Consumer) -> None:
        """Add a consumer to an entity without sessions."""
        self._line.consumers.append(consumer)

    def leave(self, consumer: Consumer) -> None:
        """Remove a consumer. Its locks on messages stay; its lock on a session ends."""
        if consumer in self._line.consumers:
            self._line.consumers.remove(consumer)
        for waiter in [w for w in self._waiting if w.consumer is consumer]:
            self._stop_waiting(waiter)
        session = self._held.get(consumer)
        if session:
            self._release_session(session, failed=False)

    def dismiss(self, refusal: Refusal) -> None:
        """End the links of all consumers."""
        everyone = [*self._line.consumers, *(waiter.consumer for waiter in self._waiting)]
        for consumer in [*everyone, *self._held]:
            consumer.refuse(refusal)

    # Sessions.

    def session(self, name: str) -> Session:
        """Return the session of this id; creates it if needed."""
        found = self.sessions.get(name)
        if found is None:
            found = self.sessions[name] = Session(name)
        return found

    def accept(self, consumer: Consumer, name: str) -> Session:
        """Lock one session. Raises `Refusal` when another consumer has it."""
        session = self.session(name)
        if session.holder is not None:
            raise Refusal(
                errors.SESSION_CANNOT_BE_LOCKED,
                f"The requested session '{name}' cannot be accepted."
                " It may be locked by another receiver.",
            )
        self._grant(session, consumer)
        return session

    def accept_next(
        self, consumer: Consumer, timeout: float, granted: Callable[[Session], None]
    ) -> None:
        """Lock a session that has messages, as soon as there is one."""
        for session in self.sessions.values():
            if session.holder is None and self._has_free(session):
                self._grant(session, consumer)
                granted(session)
                return
        waiter = Waiter(consumer, granted)
        waiter.timer = self._loop.call_later(timeout, self._give_up, waiter)
        self._waiting.append(waiter)

    def _give_up(self, waiter: Waiter) -> None:
        self._stop_waiting(waiter)
        waiter.consumer.refuse(
            Refusal(errors.TIMEOUT, "The operation did not complete within the allotted timeout.")
        )

    def _stop_waiting(self, waiter: Waiter) -> None:
        if waiter.timer:
            waiter.timer.cancel()
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _has_free(self, session: Session) -> bool:
        message = self._next(session.line)
        if message is not None:
            heappush(session.line.free, message.sequence)
        return message is not None

    def _grant(self, session: Session, consumer: Consumer) -> None:
        session.holder = consumer
        self._held[consumer] = session
        session.line.consumers.append(consumer)
        self._lock_session(session)

    def _grant_waiting(self, session: Session) -> None:
        if self._waiting and self._has_free(session):
            waiter = self._waiting[0]
            self._stop_waiting(waiter)
            self._grant(session, waiter.consumer)
            waiter.granted(session)

    def _lock_session(self, session: Session) -> None:
        if session.timer:
            session.timer.cancel()
        length = self._settings().lock
        session.until = time.time() + length
        session.timer = self._loop.call_later(length, self._lose_session, session)

    def _lose_session(self, session: Session) -> None:
        holder = session.holder
        self._release_session(session, failed=True)
        if holder is not None:
            holder.refuse(errors.session_lost(session.name))

    def _release_session(self, session: Session, *, failed: bool) -> None:
        if session.timer:
            session.timer.cancel()
            session.timer = None
        if session.holder is not None:
            del self._held[session.holder]
        session.holder = None
        session.line.consumers.clear()
        # Its messages are free again. The delivery counts only when the session's lock ran out.
        for message in [m for m in self._locked.values() if m.session_id == session.name]:
            self._free(message, failed=failed)
        if session.holder is None:
            self._grant_waiting(session)
        if session.holder is None and session.state is None and not session.line.free:
            self.sessions.pop(session.name, None)

    def holding(self, name: str) -> Session:
        """Return a session that is locked. Raises `Refusal` if it is not."""
        session = self.sessions.get(name)
        if session is None or session.holder is None or session.until <= time.time():
            raise errors.session_lost(name)
        return session

    def renew_session(self, name: str) -> float:
        """Renew a session's lock and return its end. Raises `Refusal` if it is lost."""
        session = self.holding(name)
        self._lock_session(session)
        for message in self._locked.values():
            if message.session_id == name:
                message.until = session.until
        return session.until
