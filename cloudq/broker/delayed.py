"""Delayed messages for queues that cannot delay: kept in the result store until they are due.

They lie in one partition a queue, in the order of their times. Any worker or function of the
queue sends on what is due; a claim keeps two of them from doing it at once. A message is deleted
from the store after it was sent, so a crash in between sends it twice, under the same id, and
none is lost.
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
from cloudq.messages.ids import new_id
from cloudq.results.backend import Backend

# Whoever dies while it sends keeps the others out for this long.
_CLAIM = 30.0
_PAGE = 100

Send = Callable[[Sequence[Outgoing]], Sequence[Failure]]


class DelayedStore:
    """The parked messages of all queues of one store. Safe to use from many threads.

    Every method raises `BackendError` when the store refuses or cannot be reached.
    """

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self._backend = backend
        self._owner = new_id()
        self._parked = threading.Event()
        # By queue: when it was last looked at, and what is known of the next one's time.
        self._looked: dict[str, tuple[float, float]] = {}

    def keep(self, queue: str, messages: Sequence[Outgoing]) -> list[str | Failure]:
        """Keep messages until their delays have passed; each one's handle, or why it was refused.

        The largest body is the largest item of the store, less about 1 KB.
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
        """Look at up to `count` messages in the order of their times, `after` a handle."""
        found: list[Scheduled] = []
        while len(found) < count:
            page = self._backend().query(
                _partition(queue), after=after, limit=min(_PAGE, count - len(found))
            )
            found += [_scheduled(item) for item in page.items]
            after = page.next
            if after is None:
                break
        return found

    def take_back(self, queue: str, handles: Sequence[str]) -> list[Failure]:
        """Delete parked messages; one that was sent meanwhile is a `NOT_FOUND`."""
        keys = [Key(_partition(queue), handle) for handle in handles]
        # Under the claim: what someone sends on at this moment cannot be taken back.
        while not self._claim(queue):
            time.sleep(0.1)
        try:
            there = self._backend().get(keys)
            self._backend().delete([key for key in keys if key in there])
        finally:
            self._unclaim(queue)
        return [
            Failure(index=place, code=Code.NOT_FOUND, reason="it has come due meanwhile")
            for place, key in enumerate(keys)
            if key not in there
        ]

    def send_due(self, queue: str, send: Send, *, batch: int) -> float | None:
        """Send on what is due, `batch` at a time; when the next one is, None if there is none.

        The time is epoch seconds. Raises what `send` raises; what it refuses stays parked.
        """
        now = self._backend().clock()
        page = self.delayed(queue, count=batch)
        due = page[0].due if page else None
        if due is not None and due <= now:
            due = self._send_claimed(queue, send, batch)
        self._looked[queue] = now, inf if due is None else due
        return due

    def worth_a_look(self, queue: str, *, every: float) -> bool:
        """Whether one may be due, or the last look is `every` seconds past."""
        looked, due = self._looked.get(queue, (0.0, inf))
        return self._backend().clock() >= min(looked + every, due)

    def wait(self, timeout: float) -> None:
        """Wait until this process parks a message, or for `timeout` seconds."""
        self._parked.wait(timeout)
        self._parked.clear()

    def wake(self) -> None:
        """End a `wait` of another thread."""
        self._parked.set()

    def _send_claimed(self, queue: str, send: Send, batch: int) -> float | None:
        if not self._claim(queue):
            return self._backend().clock() + _CLAIM / 10
        try:
            return self._send_due(queue, send, batch)
        finally:
            self._unclaim(queue)

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
            # What is left is tried again soon, by someone.
            if refused or self._backend().clock() > ends:
                return now + 1.0

    def _claim(self, queue: str) -> bool:
        now = self._backend().clock()
        change = Change(
            set={"owner": self._owner, "until": now + _CLAIM},
            expires=now + 86_400.0,
            when=(Check(field="until", op=Op.LT, value=now, or_absent=True),),
        )
        try:
            self._backend().update(_claim_key(queue), change)
        except ConditionFailed:
            return False
        return True

    def _unclaim(self, queue: str) -> None:
        change = Change(
            set={"until": 0.0},
            keep_expires=True,
            when=(Check(field="owner", op=Op.EQ, value=self._owner),),
        )
        try:
            self._backend().update(_claim_key(queue), change)
        except ConditionFailed:
            return  # it took so long that someone else has it


def _partition(queue: str) -> str:
    return f"parked#{queue}"


def _claim_key(queue: str) -> Key:
    return Key(f"parking#{queue}")


def _fields(message: Outgoing) -> dict[str, str | bytes]:
    fields: dict[str, str | bytes] = {"id": message.id, "body": message.body}
    return fields if message.group is None else fields | {"group": message.group}


def _scheduled(item: Item) -> Scheduled:
    fields, handle = item.fields, item.key.sort
    body, group = fields["body"], fields.get("group")
    return Scheduled(
        handle=handle,
        id=str(fields["id"]),
        body=body if isinstance(body, bytes) else str(body).encode(),
        due=int(handle.partition("#")[0]) / 1000,
        group=None if group is None else str(group),
    )


def _outgoing(message: Scheduled) -> Outgoing:
    return Outgoing(id=message.id, body=message.body, group=message.group)
