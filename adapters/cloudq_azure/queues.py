"""One queue's links, opened once: a sender, receivers for threads, a settler and a renewer."""

# pyright: reportUnknownMemberType=false
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from threading import Condition, Lock

from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSubQueue,
)

from cloudq_azure.client import Access
from cloudq_azure.links import Link, Locks, close_link, guarded
from cloudq_azure.pulls import pull, whole

# A thread that finds so many others receiving from the same queue waits for one of them.
_RECEIVERS = 32
_DEFAULT_LOCK = 60.0
# How far from a whole second a lock may seem to be, by this clock and the time of the transfer.
_ROUNDING = 0.4


class Namespace:
    """The SDK's clients of a namespace. Safe for many threads."""

    def __init__(self, reach: Access) -> None:
        self.access = reach
        self._client = reach.client()
        # To wait for a session is to open its link, which must not be tried again.
        self._patient = reach.client(retries=0)
        self._mutex = Lock()

    def sender(self, name: str) -> ServiceBusSender:
        """A new sender; opens nothing."""
        with self._mutex:
            return guarded(self._client.get_queue_sender(name))

    def receiver(
        self,
        name: str,
        *,
        take: bool = False,
        dead: bool = False,
        session_wait: float | None = None,
    ) -> ServiceBusReceiver:
        """A new receiver; opens nothing. `take`: a message is gone once it is received."""
        mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE if take else None
        client: ServiceBusClient = self._client if session_wait is None else self._patient
        with self._mutex:
            receiver = client.get_queue_receiver(
                name,
                receive_mode=mode or ServiceBusReceiveMode.PEEK_LOCK,
                sub_queue=ServiceBusSubQueue.DEAD_LETTER if dead else None,
                session_id=None if session_wait is None else NEXT_AVAILABLE_SESSION,
                max_wait_time=session_wait,
            )
        return guarded(receiver)

    def close(self) -> None:
        """Close what is still open."""
        self._client.close()
        self._patient.close()


@dataclass(slots=True)
class LockLength:
    """The length of a queue's locks: that in the URL, else that of the messages received."""

    known: float | None
    given: bool = field(init=False)

    def __post_init__(self) -> None:
        self.given = self.known is not None

    @property
    def seconds(self) -> float:
        """Return the length; Azure's default until a message has shown it."""
        return self.known or _DEFAULT_LOCK

    def learn(self, messages: Sequence[ServiceBusReceivedMessage]) -> float:
        """Return the seconds that the locks of messages just received last from now."""
        ends = [message.locked_until_utc for message in messages if message.locked_until_utc]
        if ends:
            self.tell(min(ends))
        return self.seconds

    def tell(self, ends: datetime) -> None:
        """Learn from the end of a lock that was taken just now."""
        if self.given:
            return
        left = ends.timestamp() - time.time()
        whole = round(left)
        # A lock that seems to be over already is a clock's fault, and says nothing.
        if left > 0:
            self.known = float(whole) if whole and abs(left - whole) < _ROUNDING else left


class Queue:
    """The cached links of one queue. Safe for many threads."""

    def __init__(self, namespace: Namespace, name: str, *, dead: bool = False) -> None:
        self.namespace = namespace
        self.name = name
        self.lock = LockLength(namespace.access.lock)
        self.locks = Locks()
        self._dead = dead
        self._changed = Condition()
        self._idle: list[Link] = []
        self._receivers: set[Link] = set()
        self._closing = self._ending = False
        self._sender: ServiceBusSender | None = None
        self._sending = Lock()
        self._settler: Link | None = None
        self._renewer: Link | None = None

    def send(self, use: Callable[[ServiceBusSender], object]) -> None:
        """Call `use` with the sender, by one thread at a time."""
        with self._sending:
            if self._sender is None:
                self._sender = self.namespace.sender(self.name)
            use(self._sender)

    @property
    def settler(self) -> Link:
        """Return a receiver that only settles, since one that waits for messages settles slowly."""
        with self._changed:
            if self._settler is None:
                self._settler = Link(self.namespace.receiver(self.name, dead=self._dead))
            return self._settler

    @property
    def renewer(self) -> Link:
        """Return a receiver that only renews locks, which cannot wait until others are settled."""
        with self._changed:
            if self._renewer is None:
                self._renewer = Link(self.namespace.receiver(self.name, dead=self._dead))
            return self._renewer

    def receive(self, count: int, wait: float) -> tuple[list[ServiceBusReceivedMessage], float]:
        """Receive up to `count` messages; return them and the length of their locks."""
        link = self._borrow(wait)
        if link is None:
            return [], self.lock.seconds
        try:
            with link.lock:
                got = pull(link.receiver, count=count, wait=wait, stopped=self._is_over)
                found = whole(got)
        finally:
            with self._changed:
                self._idle.append(link)
                self._changed.notify()
        lease = self.lock.learn(found)
        self.locks.hold((str(message.lock_token) for message in found), lease)
        return found, lease

    def end_receives(self) -> None:
        """Have the receives that wait end, and later ones wait for nothing."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def _is_over(self) -> bool:
        return self._closing or self._ending

    def _borrow(self, wait: float) -> Link | None:
        deadline = time.monotonic() + wait
        with self._changed:
            while not self._idle and len(self._receivers) >= _RECEIVERS:
                left = deadline - time.monotonic()
                if left <= 0 or self._is_over():
                    return None
                self._changed.wait(left)
            if self._idle:
                return self._idle.pop()
            link = Link(self.namespace.receiver(self.name, dead=self._dead))
            self._receivers.add(link)
            return link

    def close(self, closers: ThreadPoolExecutor) -> None:
        """Start to close all links. A receive that waits ends."""
        with self._changed:
            self._closing = True
            links = [*self._receivers, *filter(None, (self._settler, self._renewer))]
            self._changed.notify_all()
        for link in links:
            closers.submit(close_link, link)
        closers.submit(self._close_sender)

    def _close_sender(self) -> None:
        with self._sending, suppress(Exception):
            if self._sender is not None:
                self._sender.close()
