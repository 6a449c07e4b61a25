"""Keeps delayed messages of queues that cannot delay in the result store, until they are due.

Each queue has one partition, in the order of due times. Any worker or function of the queue sends
the due ones; a claim keeps two of them from sending at once. A message is deleted from the store
after it was sent: a crash in between sends it twice, under the same id, and loses none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from math import inf

from cloudq.driver import (
    Change,
    Check,
    Code,
    ConditionFailed,
    Failure,
    Item,
    Key,
    Op,
    Outgoing,
    Scheduled,
)
from cloudq.driver.forks import renew_after_fork
from cloudq.messages.message import new_id
from cloudq.results.backend import Backend
from cloudq.results.stored import readable, reading, typed

# Seconds that a claim lasts: a process that dies while it sends keeps the others out for so long.
_CLAIM = 30.0
_PAGE = 100

Send = Callable[[Sequence[Outgoing]], Sequence[Failure]]


class DelayedStore:
    """The delayed messages of all queues in one store. Safe to use from many threads.

    Every method raises `BackendError` when the store refuses or cannot be reached.
    """

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self._backend = backend
        self._renew()
        # By queue: the time of the last read, and that of the next due message as far as known.
        self._looked: dict[str, tuple[float, float]] = {}
        renew_after_fork(self, DelayedStore._renew)

    def _renew(self) -> None:
        self._parked = threading.Event()

    def keep(self, queue: str, messages: Sequence[Outgoing]) -> list[str | Failure]:
        """Store messages until their delays have passed; return each one's handle, or its refusal.

        A body may be as large as an item of the store, less about 1 KB.
        """
        now = self._backend().clock()
        handles = [f"{round((now + m.delay) * 1000):015d}#{m.id}" for m in messages]
        items = [
            Item(key=Key(_partition(queue), handle), fields=_fields(message))
            for handle, message in zip(handles, messages, strict=True)
        ]
        failed = self._backend().put(items)
        looked, due = self._looked.get(queue, (0.0, inf))
        self._looked[queue] = looked, min(due, *(now + m.delay for m in messages))
        self._parked.set()
        return [failed.get(place, handle) for place, handle in enumerate(handles)]

    def delayed(self, queue: str, *, count: int, after: str | None = None) -> list[Scheduled]:
        """List up to `count` messages in the order of their times, those `after` a handle."""
        found: list[Scheduled] = []
        while len(found) < count:
            page = self._backend().query(
                _partition(queue), after=after, limit=min(_PAGE, count - len(found))
            )
            found += readable(page.items, _scheduled)
            after = page.next
            if after is None:
                break
        return found

    def take_back(self, queue: str, handles: Sequence[str]) -> list[Failure]:
        """Delete stored messages; one that was sent meanwhile is a `NOT_FOUND`."""
        keys = [Key(_partition(queue), handle) for handle in handles]
        # Only with the claim: a message that another process is sending cannot be taken back.
        while (claim := self._claim(queue)) is None:
            time.sleep(0.1)
        try:
            there = self._backend().get(keys)
            self._backend().delete([key for key in keys if key in there])
        finally:
            self._unclaim(queue, claim)
        return [
            Failure(index=place, code=Code.NOT_FOUND, reason="it has come due meanwhile")
            for place, key in enumerate(keys)
            if key not in there
        ]

    def send_due(self, queue: str, send: Send, *, batch: int) -> float | None:
        """Send the due messages, `batch` at a time; return the time of the next one, if any.

        The time is epoch seconds. Raises what `send` raises; what it refuses stays in the store.
        """
        now = self._backend().clock()
        page = self.delayed(queue, count=batch)
        due = page[0].due if page else None
        if due is not None and due <= now:
            due = self._send_claimed(queue, send, batch)
        self._looked[queue] = now, inf if due is None else due
        return due

    def worth_a_look(self, queue: str, *, every: float) -> bool:
        """Tell whether a message may be due, or the last read is `every` seconds ago."""
        looked, due = self._looked.get(queue, (0.0, inf))
        return self._backend().clock() >= min(looked + every, due)

    def wait(self, timeout: float) -> None:
        """Wait until this process stores a delayed message, or for `timeout` seconds."""
        self._parked.wait(timeout)
        self._parked.clear()

    def wake(self) -> None:
        """End a `wait` of another thread."""
        self._parked.set()

    def _send_claimed(self, queue: str, send: Send, batch: int) -> float | None:
        claim = self._claim(queue)
        if claim is None:
            return self._backend().clock() + _CLAIM / 10
        try:
            return self._send_due(queue, send, batch)
        finally:
            self._unclaim(queue, claim)

    def _send_due(self, queue: str, send: Send, batch: int) -> float | None:
        ends = self._backend().clock() + _CLAIM / 2
        while True:
            page = self.delayed(queue, count=batch)
            now = self._backend().clock()
            due = [message for message in page if message.due <= now]
            if not due:
                return page[0].due if page else None
            failures = send([_outgoing(message) for message in due])
            refused = {failure.index for failure in failures}
            sent = [m.handle for place, m in enumerate(due) if place not in refused]
            self._backend().delete([Key(_partition(queue), handle) for handle in sent])
            # Some process sends the rest a second later.
            if refused or self._backend().clock() > ends:
                return now + 1.0

    def _claim(self, queue: str) -> str | None:
        """Claim the queue's messages; None while another claim lasts."""
        claim, now = new_id(), self._backend().clock()
        change = Change(
            set={"owner": claim, "until": now + _CLAIM},
            expires=now + 86_400.0,
            when=(Check(field="until", op=Op.LT, value=now, or_absent=True),),
        )
        try:
            self._backend().insist(_claim_key(queue), change)
        except ConditionFailed as refused:
            # It is ours already where the answer to the first try was lost.
            standing = refused.current.fields.get("owner") if refused.current else None
            return claim if standing == claim else None
        return claim

    def _unclaim(self, queue: str, claim: str) -> None:
        change = Change(
            set={"until": 0.0},
            keep_expires=True,
            when=(Check(field="owner", op=Op.EQ, value=claim),),
        )
        try:
            self._backend().insist(_claim_key(queue), change)
        except ConditionFailed:
            return  # it took so long that someone else has it


def _partition(queue: str) -> str:
    return f"parked#{queue}"


def _claim_key(queue: str) -> Key:
    return Key(f"parking#{queue}")


def _fields(message: Outgoing) -> dict[str, str | bytes]:
    fields: dict[str, str | bytes] = {"id": message.id, "body": message.body}
    return fields if message.group is None else fields | {"group": message.group}


_KINDS: dict[str, type | tuple[type, ...]] = {"id": str, "body": (str, bytes), "group": str}


def _scheduled(item: Item) -> Scheduled:
    fields, handle = typed(item, _KINDS), item.key.sort
    with reading(item.key):
        body = fields["body"]
        return Scheduled(
            handle=handle,
            id=fields["id"],
            body=body if isinstance(body, bytes) else body.encode(),
            due=int(handle.partition("#")[0]) / 1000,
            group=fields.get("group"),
        )


def _outgoing(message: Scheduled) -> Outgoing:
    return Outgoing(id=message.id, body=message.body, group=message.group)
