"""The broker driver over the queues of a SQLite file."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from cloudq.driver import (
    FOREVER,
    Code,
    Delivery,
    Failure,
    Limits,
    Outgoing,
    Peeked,
    Purged,
    QueueStats,
    Scheduled,
)
from cloudq_local import sqlite_admin as admin
from cloudq_local import sqlite_delayed as delayed
from cloudq_local.sqlite_clock import Times
from cloudq_local.sqlite_file import BLOCKED, Database, advice, error_code
from cloudq_local.wake import LONGEST_WAIT, Bell

LIMITS = Limits(
    batch=256,
    body=16 << 20,
    batch_body=64 << 20,
    max_delay=FOREVER,
    max_lease=FOREVER,
    max_wait=3_600.0,
    ordered=True,
    dedup_window=300.0,
    billed=False,
)

_KNOW = "INSERT OR IGNORE INTO queues VALUES (?, 0)"
_SEND = (
    "INSERT INTO messages (queue, visible_at, due, sent_at, id, grp, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_SEND_GROUPED = (
    "INSERT INTO messages (queue, visible_at, due, sent_at, id, grp, body) SELECT v.queue,"
    " iif(EXISTS (SELECT 1 FROM messages m WHERE m.queue = v.queue AND m.grp = v.grp),"
    f" {BLOCKED}, v.visible_at), v.due, v.sent_at, v.id, v.grp, v.body FROM"
    " (SELECT ? queue, ? visible_at, ? due, ? sent_at, ? id, ? grp, ? body) v"
)
_SEEN = (
    "INSERT INTO dedup VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET until = excluded.until WHERE until <= ?"
)
_FORGET = (
    "DELETE FROM dedup WHERE (queue, key) IN"
    " (SELECT queue, key FROM dedup WHERE until <= ? LIMIT 16)"
)
_FIRST = "SELECT visible_at FROM messages WHERE queue = ? ORDER BY visible_at LIMIT 1"
_TAKE = (
    "UPDATE messages SET visible_at = ?, token = ?, attempts = attempts + 1 WHERE seq IN"
    " (SELECT seq FROM messages WHERE queue = ? AND visible_at <= ?"
    " ORDER BY visible_at, seq LIMIT ?)"
    " RETURNING seq, id, body, attempts, grp, sent_at"
)
_ACK = "DELETE FROM messages WHERE seq = ? AND token = ?"
_RELEASE = "UPDATE messages SET visible_at = ?, token = 0 WHERE seq = ? AND token = ?"
_EXTEND = "UPDATE messages SET visible_at = ? WHERE seq = ? AND token = ?"
_UNCOUNT = "UPDATE messages SET attempts = attempts - 1 WHERE seq = ? AND token = ?"
_BURY = (
    "INSERT INTO dead (queue, id, body, grp, attempts, sent_at, died_at, reason)"
    " SELECT queue, id, body, grp, attempts, sent_at, ?, ? FROM messages"
    " WHERE seq = ? AND token = ?"
)
_UNBLOCK = (
    "UPDATE messages SET visible_at = due WHERE seq ="
    " (SELECT min(seq) FROM messages WHERE queue = ? AND grp = ?)"
    f" AND visible_at = {BLOCKED}"
)

_Row = tuple[int, str, bytes, int, str | None, float]  # what _TAKE returns
_Statements = Sequence[tuple[str, tuple[Any, ...]]]


class SQLiteBroker:
    """A `BrokerDriver`, `QueueAdmin` and `Scheduling` over one file, for many processes at once."""

    def __init__(
        self, database: Database, bell: Bell, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._bell = bell
        self._times = Times(database, clock)
        self._known: set[str] = set()
        self._openings = database.openings

    def limits(self, queue: str) -> Limits:
        """Return the same limits for every queue."""
        return LIMITS

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Add messages in one transaction; one whose body is over the limit is a `Failure`."""
        failures = _too_large(messages)
        if failures:
            messages = [m for m in messages if len(m.body) <= LIMITS.body]
        now = self._times.now()
        with self._database as database:
            self._know(queue)
            self._times.note(now)
            fresh = [m for m in messages if m.dedup is None or self._is_new(queue, m.dedup, now)]
            grouped = any(m.group is not None for m in fresh)
            # The ungrouped statement cannot tell; the grouped one is a third slower.
            statement = _SEND_GROUPED if grouped else _SEND
            database.executemany(statement, [_row(queue, m, now) for m in fresh])
        self._bell.ring(queue)
        return failures

    def schedule(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[str | Failure]:
        """Add messages; the handle of each, which names none if its dedup key kept it out."""
        refused = {failure.index: failure for failure in _too_large(messages)}
        now = self._times.now()
        sent: list[str | Failure] = []
        with self._database as database:
            self._know(queue)
            for index, m in enumerate(messages):
                if index in refused:
                    sent.append(refused[index])
                elif m.dedup is None or self._is_new(queue, m.dedup, now):
                    seq = database.execute(_SEND_GROUPED, _row(queue, m, now)).lastrowid
                    sent.append(delayed.handle(seq or 0, m.id))
                else:
                    sent.append(delayed.handle(0, m.id))
        self._bell.ring(queue)
        return sent

    def unschedule(self, queue: str, handles: Sequence[str]) -> Sequence[Failure]:
        """Take messages back whose times have not come, in one transaction."""
        with self._database as database:
            failures, groups = delayed.take(database, queue, handles, self._times.now())
            self._unblock((queue, group) for group in groups)
        if groups:
            self._bell.ring(queue)
        return failures

    def scheduled(self, queue: str, *, count: int, after: str | None = None) -> Sequence[Scheduled]:
        """Look at messages that were sent with a delay which is not over, in order of sending."""
        return delayed.look(self._database, queue, count, after, self._times.now())

    def receive(self, queue: str, *, count: int, wait: float, lease: float) -> Sequence[Delivery]:
        """Lease up to `count` messages for `lease` s; with none there, wait up to `wait` s."""
        deadline = time.monotonic() + wait
        taken = self._take(queue, count, lease)
        if taken or wait <= 0:
            return taken
        with self._bell.listen(queue) as ear:
            # Listen first and look then: what is sent in between rings.
            while not (taken := self._take(queue, count, lease)):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                ear.wait(min(left, LONGEST_WAIT, self._first(queue) - self._times.now()))
        return taken

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        """Delete for good; a lease lost to someone else is a `Failure`."""
        failures = self._settle(deliveries, [(_ACK, ())], gone=True)
        self._ring(delivery.queue for delivery in deliveries if delivery.group is not None)
        return failures

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        """End the leases: the messages can be received again `after` seconds from now."""
        failures = self._settle(deliveries, [(_RELEASE, (self._times.now() + after,))])
        self._ring(delivery.queue for delivery in deliveries)
        return failures

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        """Make the leases end `lease` seconds from now."""
        failures = self._settle(deliveries, [(_EXTEND, (self._times.now() + lease,))])
        # A waiter sleeps until the lease's old end, which may be the later one.
        self._ring(delivery.queue for delivery in deliveries)
        return failures

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Move to the queue's dead letters, with the reason, in one transaction."""
        statements = [(_BURY, (self._times.now(), reason)), (_ACK, ())]
        failures = self._settle(deliveries, statements, gone=True)
        self._ring(delivery.queue for delivery in deliveries if delivery.group is not None)
        return failures

    def error_code(self, error: Exception) -> Code:
        """Return the code of SQLite's errors."""
        return error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error of SQLite."""
        return advice(error)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        self._bell.close()

    def create(self, queue: str, *, lease: float, max_deliveries: int) -> None:
        """Make the queue; received more often than `max_deliveries`, a message is dead."""
        admin.create(self._database, queue, max_deliveries)

    def delete(self, queue: str) -> None:
        """Delete the queue and its dead letters."""
        admin.delete(self._database, queue)
        self._known.discard(queue)

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the queues in use."""
        return [name for name in admin.names(self._database) if name.startswith(prefix)]

    def stats(self, queue: str) -> QueueStats:
        """Count the queue's messages, exactly; the age is that of the next one to receive."""
        return admin.stats(self._database, queue, self._times.now())

    def peek(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at waiting messages without taking them."""
        return admin.peek(self._database, queue, count, self._times.now())

    def purge(self, queue: str) -> Purged:
        """Delete every message, also the leased ones."""
        return admin.purge(self._database, queue)

    def peek_dead(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at dead letters."""
        return admin.peek_dead(self._database, queue, count)

    def redrive(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Send dead letters to their queue again, in one transaction."""
        failures = admin.take_dead(self._database, queue, messages, redrive_at=self._times.now())
        self._bell.ring(queue)
        return failures

    def delete_dead(self, queue: str, messages: Sequence[Peeked]) -> Sequence[Failure]:
        """Delete dead letters."""
        return admin.take_dead(self._database, queue, messages, redrive_at=None)

    def purge_dead(self, queue: str) -> Purged:
        """Delete every dead letter."""
        return admin.purge_dead(self._database, queue)

    def _know(self, queue: str) -> None:
        if self._openings != self._database.openings:
            self._known.clear()
            self._openings = self._database.openings
        if queue not in self._known:
            self._database.execute(_KNOW, (queue,))
            self._known.add(queue)

    def _is_new(self, queue: str, key: str, now: float) -> bool:
        self._database.execute(_FORGET, (now,))
        values = (queue, key, now + LIMITS.dedup_window, now)
        return self._database.execute(_SEEN, values).rowcount == 1

    def _first(self, queue: str) -> float:
        """Return the time from which on the queue's next message can be received."""
        rows = self._database.read(_FIRST, (queue,))
        return rows[0][0] if rows else BLOCKED

    def _take(self, queue: str, count: int, lease: float) -> Sequence[Delivery]:
        now = self._times.now()
        # A look takes no write lock, so that idle receivers are in nobody's way.
        if queue in self._known and self._first(queue) > now and not self._times.check(now):
            return ()
        token = secrets.randbits(62) + 1
        with self._database as database:
            self._know(queue)
            self._times.note(now)
            values = (now + lease, token, queue, now, count)
            rows: list[_Row] = database.execute(_TAKE, values).fetchall()
            if any(row[3] > 1 for row in rows):
                rows = self._bury_worn(queue, rows, token)
        rows.sort()
        return [
            Delivery(
                queue=queue,
                id=id,
                body=body,
                receipt=(seq, token),
                attempts=attempts,
                lease=lease,
                group=group,
                sent_at=sent_at,
            )
            for seq, id, body, attempts, group, sent_at in rows
        ]

    def _bury_worn(self, queue: str, rows: list[_Row], token: int) -> list[_Row]:
        """Dead-letter messages that were received too often, and return the others."""
        limit = admin.max_deliveries(self._database, queue)
        worn = [row for row in rows if limit and row[3] > limit]
        bury = (_BURY, (self._times.now(), f"received {limit} times"))
        self._apply([(_UNCOUNT, ()), bury, (_ACK, ())], [(row[0], token) for row in worn])
        self._unblock((queue, row[4]) for row in worn)
        return [row for row in rows if row not in worn]

    def _settle(
        self, deliveries: Sequence[Delivery], statements: _Statements, *, gone: bool = False
    ) -> list[Failure]:
        """Apply the statements to each delivery's message; the last counts what it changed."""
        receipts = [cast("tuple[int, int]", delivery.receipt) for delivery in deliveries]
        lost: list[int] = []
        with self._database as database:
            if self._apply(statements, receipts) != len(receipts):
                # Some leases were lost: once more, one by one, to know which.
                database.restart()
                lost = [
                    index
                    for index, receipt in enumerate(receipts)
                    if self._apply(statements, [receipt]) != 1
                ]
            if gone:
                self._unblock((delivery.queue, delivery.group) for delivery in deliveries)
        reason = "the lease ended and the message is not yours any more"
        return [Failure(index=index, code=Code.LEASE_LOST, reason=reason) for index in lost]

    def _apply(self, statements: _Statements, receipts: Sequence[tuple[int, int]]) -> int:
        changed = 0
        for sql, values in statements:
            rows = [(*values, *receipt) for receipt in receipts] if values else receipts
            changed = self._database.executemany(sql, rows).rowcount
        return changed

    def _unblock(self, groups: Iterable[tuple[str, str | None]]) -> None:
        """Let each group's next message, if it has one, be received at its own time."""
        ends = {end for end in groups if end[1] is not None}
        if ends:
            self._database.executemany(_UNBLOCK, list(ends))

    def _ring(self, queues: Iterable[str]) -> None:
        for queue in set(queues):
            self._bell.ring(queue)


def _too_large(messages: Sequence[Outgoing]) -> list[Failure]:
    return [
        Failure(index=i, code=Code.TOO_LARGE, reason=f"{len(m.body)} bytes in one body")
        for i, m in enumerate(messages)
        if len(m.body) > LIMITS.body
    ]


def _row(queue: str, message: Outgoing, now: float) -> tuple[Any, ...]:
    due = now + message.delay
    return queue, due, due, now, message.id, message.group, message.body
