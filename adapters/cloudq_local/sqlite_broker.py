"""The broker driver over the queues of a SQLite file."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from cloudq.driver import (
    BackendDriver,
    Code,
    Delivery,
    Failure,
    Item,
    Limits,
    Outgoing,
    Peeked,
    Purged,
    QueueStats,
    Scheduled,
)
from cloudq_local import sqlite_admin as admin
from cloudq_local import sqlite_delayed as delayed
from cloudq_local import sqlite_statements as sql
from cloudq_local.sqlite_backend import TOPIC, SQLiteBackend
from cloudq_local.sqlite_clock import Times
from cloudq_local.sqlite_errors import advice, error_code
from cloudq_local.sqlite_file import Database
from cloudq_local.sqlite_inbox import Inbox
from cloudq_local.sqlite_messages import LIMITS, Statements, apply, insert, row, too_large
from cloudq_local.sqlite_tidy import Tidy
from cloudq_local.wake import LONGEST_WAIT, Bell

_Row = tuple[int, str, bytes, int, str | None, float]  # what sql.TAKE returns


class SQLiteBroker:
    """A `BrokerDriver`, `QueueAdmin` and `Scheduling` over one file, for many processes at once."""

    def __init__(
        self, database: Database, bell: Bell, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._bell = bell
        self._inbox = Inbox(database)
        self._times = Times(database, clock, self._inbox.transaction)
        self._tidy = Tidy()
        self._known: set[str] = set()
        self._openings = database.openings
        self._quiet: set[str] = set()  # queues in which there was nothing to take a moment ago

    def limits(self, queue: str) -> Limits:
        """Return the same limits for every queue."""
        return LIMITS

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        """Add messages in one transaction; one whose body is over the limit is a `Failure`."""
        now = self._times.now()
        if len(messages) == 1 and self._is_plain(queue, messages[0], now):
            message = messages[0]
            if message.delay or not self._inbox.append(queue, message, now):
                self._whole().write(sql.SEND, row(queue, message, now))
            self._bell.ring(queue)
            return ()
        failures = too_large(messages)
        if failures:
            messages = [m for m in messages if len(m.body) <= LIMITS.body]
        with self._whole().lock, self._database as database:
            self._know(queue, now)
            fresh = [m for m in messages if m.dedup is None or self._is_new(queue, m.dedup, now)]
            rows = [row(queue, m, now) for m in fresh]
            if any(m.group is not None for m in fresh):
                database.executemany(sql.SEND_GROUPED, rows)
            else:
                insert(database, rows)
        self._bell.ring(queue)
        return failures

    def schedule(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[str | Failure]:
        """Add messages; the handle of each, which names none if its dedup key kept it out."""
        refused = {failure.index: failure for failure in too_large(messages)}
        now = self._times.now()
        sent: list[str | Failure] = []
        with self._whole().lock, self._database as database:
            self._know(queue, now)
            for index, m in enumerate(messages):
                if index in refused:
                    sent.append(refused[index])
                elif m.dedup is None or self._is_new(queue, m.dedup, now):
                    seq = database.execute(sql.SEND_GROUPED, row(queue, m, now)).lastrowid
                    sent.append(delayed.handle(seq or 0, m.id))
                else:
                    sent.append(delayed.handle(0, m.id))
        self._bell.ring(queue)
        return sent

    def unschedule(self, queue: str, handles: Sequence[str]) -> Sequence[Failure]:
        """Take messages back whose times have not come, in one transaction."""
        now = self._times.now()
        with self._database.lock, self._database as database:
            failures, groups = delayed.take(database, queue, handles, now)
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
        if wait <= 0:
            return self._take(queue, count, lease)[0]
        ear = self._bell.listening(queue)
        if ear is None and queue not in self._quiet:
            taken, _ = self._take(queue, count, lease)
            if taken:
                return taken
        ear = ear or self._bell.listen(queue)
        is_woken = False
        try:
            # Listen first and look then: what is sent in between rings.
            while True:
                taken, first = self._take(queue, count, lease)
                left = deadline - time.monotonic()
                if taken or left <= 0:
                    return taken
                is_woken = ear.wait(min(left, LONGEST_WAIT, first - self._times.now()))
        finally:
            # One that was woken hears; where messages wait for their receiver none need ring.
            ear.close(lingers=is_woken)

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Failure]:
        """Delete for good; a lease lost to someone else is a `Failure`."""
        failures = self._settle(deliveries, [(sql.ACK, ())], gone=True)
        self._ring(delivery.queue for delivery in deliveries if delivery.group is not None)
        return failures

    def is_beside(self, store: BackendDriver) -> bool:
        """Tell whether a store is in the same file, and as durable."""
        if not isinstance(store, SQLiteBackend):
            return False
        ours, theirs = self._database, store.database
        return (ours.path, ours.synchronous) == (theirs.path, theirs.synchronous)

    def settle(
        self, store: BackendDriver, items: Sequence[Item], deliveries: Sequence[Delivery]
    ) -> bool:
        """Write items to the store beside and ack, in one transaction: all, or False and nothing.

        It is False where an item is over the limit, or a lease was lost.
        """
        assert isinstance(store, SQLiteBackend)
        rows, failures = store.rows(items)
        if failures:
            return False
        receipts = _receipts(deliveries)
        with self._database.lock, self._database as database:
            if apply(database, [(sql.ACK, ())], receipts) != len(receipts):
                database.undo()
                return False
            self._unblock((delivery.queue, delivery.group) for delivery in deliveries)
            store.write(database, rows)
        self._bell.ring(TOPIC)
        self._ring(delivery.queue for delivery in deliveries if delivery.group is not None)
        return True

    def release(self, deliveries: Sequence[Delivery], *, after: float) -> Sequence[Failure]:
        """End the leases: the messages can be received again `after` seconds from now."""
        failures = self._settle(deliveries, [(sql.RELEASE, (self._times.now() + after,))])
        self._ring(delivery.queue for delivery in deliveries)
        return failures

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        """Make the leases end `lease` seconds from now."""
        extend = (sql.EXTEND, (self._times.now() + lease,))
        failures = self._settle(deliveries, [extend], synced=False)
        # A waiter sleeps until the lease's old end, which may be the later one.
        self._ring(delivery.queue for delivery in deliveries)
        return failures

    def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Move to the queue's dead letters, with the reason, in one transaction."""
        statements = [(sql.BURY, (self._times.now(), reason)), (sql.ACK, ())]
        failures = self._settle(deliveries, statements, gone=True)
        self._ring(delivery.queue for delivery in deliveries if delivery.group is not None)
        return failures

    def copy_to_dead(self, deliveries: Sequence[Delivery], *, reason: str) -> Sequence[Failure]:
        """Put new messages among the dead letters, with the reason."""
        now = self._times.now()
        rows = [
            (d.queue, d.id, d.body, d.group, d.attempts, d.sent_at or now, now, reason)
            for d in deliveries
        ]
        with self._database.lock, self._database as database:
            database.executemany(sql.ADD_DEAD, rows)
        return []

    def error_code(self, error: Exception) -> Code:
        """Return the code of SQLite's errors."""
        return error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error of SQLite."""
        return advice(error)

    def close(self) -> None:
        """Close the file."""
        self._inbox.close()
        self._database.close()
        self._bell.close()

    def create(self, queue: str, *, lease: float, max_deliveries: int) -> None:
        """Make the queue; received more often than `max_deliveries`, a message is dead."""
        admin.create(self._database, queue, max_deliveries)

    def delete(self, queue: str) -> None:
        """Delete the queue and its dead letters."""
        admin.delete(self._whole(), queue)
        self._known.discard(queue)

    def list(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the queues in use."""
        return [name for name in admin.names(self._whole()) if name.startswith(prefix)]

    def stats(self, queue: str) -> QueueStats:
        """Count the queue's messages, exactly; the age is that of the next one to receive."""
        return admin.stats(self._whole(), queue, self._times.now())

    def peek(self, queue: str, *, count: int) -> Sequence[Peeked]:
        """Look at waiting messages without taking them."""
        return admin.peek(self._whole(), queue, count, self._times.now())

    def purge(self, queue: str) -> Purged:
        """Delete every message, also the leased ones."""
        return admin.purge(self._whole(), queue)

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

    def _whole(self) -> Database:
        """Return the file, after all that was appended to its inbox is in it."""
        self._inbox.take_in()
        return self._database

    def _is_known(self, queue: str) -> bool:
        """Tell whether the file surely has the queue: a new one knows none."""
        if self._openings != self._database.openings:
            self._known.clear()
            self._openings = self._database.openings
        return queue in self._known

    def _is_plain(self, queue: str, message: Outgoing, now: float) -> bool:
        """Tell whether one statement sends the message."""
        return (
            message.group is None
            and message.dedup is None
            and len(message.body) <= LIMITS.body
            and self._openings == self._database.openings
            and queue in self._known
            and not self._times.notes(now)
        )

    def _know(self, queue: str, now: float) -> None:
        """Make the queue, note the time and tidy, each if need be. Needs a transaction."""
        if not self._is_known(queue):
            self._database.execute(sql.KNOW, (queue,))
            self._known.add(queue)
        self._times.note(now)
        self._tidy.run(self._database, now)

    def _is_new(self, queue: str, key: str, now: float) -> bool:
        self._database.execute(sql.FORGET, (now,))
        values = (queue, key, now + LIMITS.dedup_window, now)
        return self._database.execute(sql.SEEN, values).rowcount == 1

    def _look(self, queue: str, now: float) -> float:
        """Return the time from which on the queue's next message can be received."""
        ((first, latest),) = self._database.read(sql.LOOK, (queue,))
        if first > now and self._times.check(now, latest):
            ((first, latest),) = self._database.read(sql.LOOK, (queue,))
        return first

    def _take(self, queue: str, count: int, lease: float) -> tuple[Sequence[Delivery], float]:
        """Lease messages; also tell the time from which on the next can be received, if none."""
        now = self._times.now()
        # A look takes no write lock, so that idle receivers are in nobody's way.
        waits = self._inbox.waits()
        if not waits and queue in self._known and (first := self._look(queue, now)) > now:
            self._quiet.add(queue)
            return (), first
        self._quiet.discard(queue)
        token = secrets.randbits(62) + 1
        # After a power loss nobody works on what was leased, so a lease needs no sync.
        rows: list[_Row]
        if not waits and self._is_known(queue) and not self._times.notes(now):
            values = (now + lease, token, queue, now, count)
            rows = self._database.write(sql.TAKE, values, synced=False)
        else:
            with self._database.lock, self._inbox.transaction() as database:
                now = self._times.later(now)  # than what was appended meanwhile was sent
                self._know(queue, now)
                values = (now + lease, token, queue, now, count)
                rows = database.execute(sql.TAKE, values).fetchall()
        if any(row[3] > 1 for row in rows):
            rows = self._bury_worn(queue, rows, token)
        rows.sort()
        taken = [
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
        return taken, now

    def _bury_worn(self, queue: str, rows: list[_Row], token: int) -> list[_Row]:
        """Dead-letter messages that were received too often, and return the others."""
        limit = admin.max_deliveries(self._database, queue)
        worn = [row for row in rows if limit and row[3] > limit]
        if worn:
            bury = (sql.BURY, (self._times.now(), f"received {limit} times"))
            with self._database.lock, self._database:
                apply(
                    self._database,
                    [(sql.UNCOUNT, ()), bury, (sql.ACK, ())],
                    [(row[0], token) for row in worn],
                )
                self._unblock((queue, row[4]) for row in worn)
        return [row for row in rows if row not in worn]

    def _settle(
        self,
        deliveries: Sequence[Delivery],
        statements: Statements,
        *,
        gone: bool = False,
        synced: bool = True,
    ) -> list[Failure]:
        """Apply the statements to each delivery's message; the last counts what it changed."""
        receipts = _receipts(deliveries)
        lost: list[int] = []
        transaction = self._database if synced else self._database.unsynced()
        with self._database.lock, transaction as database:
            if apply(database, statements, receipts) != len(receipts):
                # Some leases were lost: once more, one by one, to know which.
                database.restart()
                lost = [
                    index
                    for index, receipt in enumerate(receipts)
                    if apply(database, statements, [receipt]) != 1
                ]
            if gone:
                self._unblock((delivery.queue, delivery.group) for delivery in deliveries)
        reason = "the lease ended and the message is not yours any more"
        return [Failure(index=index, code=Code.LEASE_LOST, reason=reason) for index in lost]

    def _unblock(self, groups: Iterable[tuple[str, str | None]]) -> None:
        """Let each group's next message, if it has one, be received at its own time."""
        ends = {end for end in groups if end[1] is not None}
        if ends:
            self._database.executemany(sql.UNBLOCK, list(ends))

    def _ring(self, queues: Iterable[str]) -> None:
        for queue in set(queues):
            self._bell.ring(queue)


def _receipts(deliveries: Sequence[Delivery]) -> list[tuple[int, int]]:
    return [cast("tuple[int, int]", delivery.receipt) for delivery in deliveries]
