"""The sessions of one ordered queue, each locked while one of its messages is leased.

The lock of a session belongs to the link that has accepted it: only over that link can its messages
be received, settled and renewed. A session whose messages are all settled is kept for a moment, as
the next receive may want its next messages, and is then left to others.
"""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Thread

from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSession
from azure.servicebus.exceptions import (
    ServiceBusCommunicationError,
    ServiceBusConnectionError,
    ServiceBusError,
    SessionLockLostError,
)

from cloudq.driver.log import Log
from cloudq_azure.errors import SHAPELESS, AzureError
from cloudq_azure.links import (
    Link,
    Locks,
    Settlement,
    accept,
    close_link,
    settle,
    usable,
)
from cloudq_azure.pulls import pull, whole
from cloudq_azure.queues import LockLength, Namespace

log = Log("cloudq.servicebus")

# How long a session without anything in hand waits for another receive.
_LINGER = 0.5
# What a receive may take until it returns.
_MOMENT = 0.3
# A session is only given to us when it has messages: they come at once.
_PROMPT = 1.0
# How soon the service answers that there is no session, where nobody wants to wait.
_SHORTEST = 0.2
_LOOK = 0.1
# How much later than by our clock the service may end a lock. A link that is closed before gives
# its messages back as if they had never been delivered, and they would not count as an attempt.
_LATE = 2.0


@dataclass(slots=True, eq=False)
class Session(Link):
    """A session that this process holds. Times are monotonic seconds."""

    key: str = ""
    until: float = 0.0
    """When its lock ends, at the earliest."""
    over: float = 0.0
    """When its lock has ended, at the latest."""
    out: set[str] = field(default_factory=set[str])
    """Lock tokens of what is in hand."""
    later: dict[str, float] = field(default_factory=dict[str, float])
    """When to give back what was released for later: the session stays locked until then."""
    idle_since: float = 0.0
    busy: bool = True

    @property
    def sdk(self) -> ServiceBusSession:
        return self.receiver.session


class Sessions:
    """The sessions that this process holds of one queue. Safe for many threads."""

    def __init__(
        self, namespace: Namespace, name: str, lock: LockLength, closers: ThreadPoolExecutor
    ) -> None:
        self._namespace = namespace
        self._name = name
        self._lock = lock
        self._locks = Locks()
        self._closers = closers
        self._changed = Condition()
        self._held: dict[str, Session] = {}
        self._numbers = itertools.count()
        # Keys of other processes, and of earlier lives of this one, are none of ours.
        self._own = uuid.uuid4().hex
        self._closing = self._ending = False
        self._watch: Thread | None = None

    # ---- receiving

    def receive(
        self, count: int, wait: float
    ) -> tuple[list[ServiceBusReceivedMessage], float, str | None]:
        """Receive up to `count` messages of one session; return them, their lease, and its key."""
        while (session := self._free()) is not None:
            found = self._from(session, count, 0.0)
            if found:
                return found, self._lease(session), session.key
        session = self._accept(wait)
        if session is None:
            return [], self._lock.seconds, None
        found = self._from(session, count, _PROMPT)
        return found, self._lease(session), session.key if found else None

    def end_receives(self) -> None:
        """Have the receives that wait for a session end, and later ones wait for none."""
        self._ending = True

    def _free(self) -> Session | None:
        """A session with nothing in hand, marked busy."""
        with self._changed:
            for session in self._held.values():
                if not (session.busy or session.out):
                    session.busy = True
                    return session
        return None

    def _accept(self, wait: float) -> Session | None:
        patience = max(wait, _SHORTEST)
        receiver = self._namespace.receiver(self._name, session_wait=patience)
        opened = False
        try:
            opened = accept(receiver, patience, lambda: self._closing or self._ending)
        finally:
            if not opened:
                self._close_later(Link(receiver))
        if not opened:
            return None
        with self._changed:
            session = Session(receiver=receiver, key=f"{self._own}-{next(self._numbers)}")
            self._locked(session, time.monotonic(), self._length(session))
            if self._closing:
                self._close_later(session)
                return None
            self._held[session.key] = session
            if self._watch is None:
                self._watch = Thread(target=self._watch_all, name="sessions", daemon=True)
                self._watch.start()
            self._changed.notify_all()
        return session

    def _from(self, session: Session, count: int, wait: float) -> list[ServiceBusReceivedMessage]:
        found: list[ServiceBusReceivedMessage] = []
        try:
            with session.lock:
                if usable(session.receiver):
                    if self._left(session) < self._lock.seconds / 2:
                        self._renew(session)
                    found = whole(pull(session.receiver, count=count, wait=wait))
        except (ServiceBusError, AzureError) as error:
            # Somebody else may have the session now; the next one is asked for.
            log.debug("a session of %s is lost: %s", self._name, error)
        with self._changed:
            session.busy = False
            session.out |= {str(message.lock_token) for message in found}
            if not found:
                self._drop(session)
            self._changed.notify_all()
        self._locks.hold(session.out, self._left(session))
        return found

    def _length(self, session: Session) -> float:
        """Return the seconds that the lock of a session lasts from now, if it was just taken."""
        ends = session.sdk.locked_until_utc
        if ends is not None:
            self._lock.tell(ends)
        return self._lock.seconds

    @staticmethod
    def _left(session: Session) -> float:
        return max(0.0, session.until - time.monotonic())

    def _lease(self, session: Session) -> float:
        """Return the lease of messages just received: for a new session, the whole of its lock."""
        left, whole = self._left(session), self._lock.seconds
        return whole if whole - left < _MOMENT else left

    # ---- what is in hand

    def settle(
        self,
        settlement: Settlement,
        key: str | None,
        tokens: Sequence[str],
        *,
        reason: str | None = None,
        description: str | None = None,
    ) -> dict[int, Exception]:
        """Settle messages of one session; return the errors of lost ones."""

        def work(session: Session) -> dict[int, Exception]:
            failed = settle(
                session.receiver,
                settlement,
                tokens,
                self._locks,
                reason=reason,
                description=description,
            )
            with self._changed:
                session.out -= set(tokens)
                session.idle_since = time.monotonic()
                if failed:  # what was lost is the session
                    self._drop(session)
                self._changed.notify_all()
            return failed

        return self._with(key, tokens, work)

    def renew(self, key: str | None, tokens: Sequence[str]) -> dict[int, Exception]:
        """Lock the session anew from now."""

        def work(session: Session) -> dict[int, Exception]:
            self._renew(session)
            return {}

        return self._with(key, tokens, work)

    def hold_back(
        self, key: str | None, tokens: Sequence[str], after: float
    ) -> dict[int, Exception]:
        """Release messages `after` seconds from now; until then this process keeps them locked."""

        def work(session: Session) -> dict[int, Exception]:
            self._renew(session)
            with self._changed:
                session.later |= dict.fromkeys(tokens, time.monotonic() + after)
                self._changed.notify_all()
            return {}

        return self._with(key, tokens, work)

    def _with(
        self,
        key: str | None,
        tokens: Sequence[str],
        work: Callable[[Session], dict[int, Exception]],
    ) -> dict[int, Exception]:
        session = self._held.get(key or "")
        lost: Exception = SessionLockLostError()
        if session is None:
            return dict.fromkeys(range(len(tokens)), lost)
        # What was settled before, or is to come back, is in nobody's hand.
        gone = {
            at: lost
            for at, token in enumerate(tokens)
            if token not in session.out or token in session.later
        }
        if gone:
            there = [at for at in range(len(tokens)) if at not in gone]
            rest = self._with(key, [tokens[at] for at in there], work) if there else {}
            return gone | {there[at]: error for at, error in rest.items()}
        try:
            with session.lock:
                if not usable(session.receiver):
                    raise lost
                return work(session)
        except (SessionLockLostError, ServiceBusConnectionError) as error:
            # The session's lock has gone with its link.
            with self._changed:
                self._drop(session)
            kind = error if isinstance(error, SessionLockLostError) else lost
            return dict.fromkeys(range(len(tokens)), kind)

    @staticmethod
    def _locked(session: Session, asked: float, length: float) -> None:
        """Note a lock that the service gave at some moment between `asked` and now."""
        session.until = asked + length
        session.over = time.monotonic() + length + _LATE

    def _renew(self, session: Session) -> None:
        start = time.monotonic()
        try:
            session.sdk.renew_lock()
        except SHAPELESS as error:  # it has no error for an answer without the end of the lock
            text = "the answer is cut or not the service's: it lacks the end of the lock"
            raise ServiceBusCommunicationError(message=text, error=error) from error
        self._locked(session, start, self._lock.seconds)
        self._locks.hold(session.out, self._lock.seconds)

    # ---- the watch

    def _watch_all(self) -> None:
        while True:
            with self._changed:
                if self._closing:
                    return
                self._changed.wait(_LOOK if self._held else None)
                sessions = [session for session in self._held.values() if not session.busy]
            for session in sessions:
                self._look_after(session)

    def _look_after(self, session: Session) -> None:
        now = time.monotonic()
        due = [token for token, when in session.later.items() if when <= now]
        with self._changed:
            if session.busy:
                return
            idle = not session.out and now - session.idle_since > _LINGER
            if idle or session.over <= now:
                self._drop(session)
                return
            waning = bool(session.later) and session.until - now < self._lock.seconds * 2 / 3
            if not (due or waning):
                return
            session.busy = True
        with suppress(RuntimeError):  # as below
            self._closers.submit(self._keep, session, due)

    def _keep(self, session: Session, due: Sequence[str]) -> None:
        try:
            with session.lock:
                if due:
                    settle(session.receiver, "abandoned", due, self._locks)
                else:
                    self._renew(session)
        except ServiceBusError as error:
            log.debug("a session of %s is lost: %s", self._name, error)
            with self._changed:
                self._drop(session)
        with self._changed:
            for token in due:
                session.later.pop(token, None)
                session.out.discard(token)
            session.busy = False
            if due and not session.out:
                self._drop(session)  # what comes now comes for whoever asks first

    # ---- the end

    def _drop(self, session: Session) -> None:
        """Leave a session to others; called with the mutex."""
        if self._held.pop(session.key, None) is not None:
            self._close_later(session)

    def _close_later(self, link: Link) -> None:
        try:
            self._closers.submit(close_link, link)
        except RuntimeError:  # the driver has been closed meanwhile
            close_link(link)

    def close(self) -> None:
        """Start to close all links, which ends the sessions' locks."""
        with self._changed:
            self._closing = True
            for session in list(self._held.values()):
                self._drop(session)
            self._changed.notify_all()
        if self._watch is not None:
            self._watch.join(5.0)
