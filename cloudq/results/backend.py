"""The portable result store over a driver: records, claims, waiting, and helpful errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from cloudq.clock import Clock, real_time
from cloudq.driver import (
    BackendDriver,
    Change,
    Check,
    Code,
    ConditionFailed,
    Failure,
    Item,
    Key,
    Op,
    Page,
    Watch,
    Watcher,
)
from cloudq.driver.advice import explain
from cloudq.driver.forks import Driven, renew_after_fork
from cloudq.errors import BackendError, CloudQError
from cloudq.results.call_marks import is_older
from cloudq.results.events import History
from cloudq.results.looker import Looker, polling
from cloudq.results.record import (
    RECORD_FIELDS,
    TERMINAL,
    DelayedMessage,
    Record,
    State,
    from_item,
    key,
    to_fields,
    to_item,
)

log = logging.getLogger("cloudq.backend")

_NO_TABLE = (
    'there is no such table: "cloudq queues create --store" makes it, '
    "or check the name, the region and the account"
)

_OUTAGES = frozenset({Code.THROTTLED, Code.UNREACHABLE})
# What belongs to one state and not to the next, say how far a try had come.
_OF_A_STATE = frozenset({"custom", "meta"})
# A revocation is kept for longer than any message waits without being looked at.
_REVOKED = 31 * 86_400.0
# How often a record that changes meanwhile is looked at again before it is replaced.
_RACES = 10
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_TRIES = 3
_NEVER = frozenset({Code.INVALID, Code.TOO_LARGE})


class Backend(Driven[BackendDriver]):
    """Stores the records of tasks in one table. Safe to use from many threads.

    `reopen` gives another driver, for a process that was forked from the driver's. Every method
    raises `BackendError` when the store refuses or cannot be reached.
    """

    def __init__(
        self,
        driver: BackendDriver,
        *,
        url: str,
        expires: float = 86_400.0,
        history: History | None = None,
        clock: Clock = real_time,
        reopen: Callable[[], BackendDriver] | None = None,
    ) -> None:
        super().__init__(driver, reopen)
        self.history = history
        self.clock = clock
        self.url = url
        self.expires = expires
        self._failing_since: float | None = None
        self.looker = Looker(self.records, self._wakened)
        renew_after_fork(self, Backend._in_child)

    def _in_child(self) -> None:
        """Open a driver anew, and forget the thread that looks for coroutines."""
        self._drop()
        self.looker = Looker(self.records, self._wakened)

    @property
    def pause(self) -> float:
        """Seconds until a call that the store has refused is worth another try.

        One where an error came alone; as many as it has answered nothing, and 30 at most.
        """
        since = self._failing_since
        down = 0.0 if since is None else self.clock() - since
        return min(max(down, _SHORTEST_PAUSE), _LONGEST_PAUSE)

    # ---- records

    def records(self, ids: Sequence[str], *, consistent: bool = True) -> dict[str, Record]:
        """Return the stored records of these tasks, read in batches."""
        found = self.get([key(task_id) for task_id in ids], consistent=consistent)
        return {
            item_key.partition.removeprefix("task#"): from_item(item)
            for item_key, item in found.items()
        }

    def record(self, task_id: str) -> Record | None:
        return self.records([task_id]).get(task_id)

    def store(self, records: Sequence[Record]) -> dict[str, Failure]:
        """Write records whole, in batches, over whatever was there; the refused ones by task id.

        For deliveries whose lease is known to hold: nobody else can be writing.
        """
        expires = self.clock() + self.expires
        items = [to_item(record, expires) for record in records]
        return {records[i].id: failure for i, failure in self.put(items).items()}

    def advance(self, record: Record) -> Record | None:
        """Write a record unless a later delivery or a terminal state is there already.

        A record of a later call of the same id stands in the way too; one of an earlier call is
        replaced, whatever its state. Returns None when it was written, else the record that
        stands in the way.
        """
        fields = to_fields(record)
        own = [] if record.call is None else [_no_later_call(record.call)]
        change = Change(
            set=fields,
            # What an earlier state has left, say a retry's error, is not part of the end.
            remove=(RECORD_FIELDS if record.terminal else _OF_A_STATE) - fields.keys(),
            expires=self.clock() + self.expires,
            when=(
                *own,
                Check(field="fence", op=Op.LE, value=record.fence, or_absent=True),
                *(
                    Check(field="state", op=Op.NE, value=str(state), or_absent=True)
                    for state in sorted(TERMINAL)
                ),
            ),
        )
        try:
            self.update(key(record.id), change)
        except ConditionFailed as error:
            # A store that does not say what is there is not proof that the record was written.
            standing = error.current or Item(key=key(record.id), fields={})
            return self._replace_older(record, standing)
        return None

    def _replace_older(self, record: Record, standing: Item) -> Record | None:
        """Write a record over one of an earlier call, as long as that is what stands there."""
        fields = to_fields(record)
        for _ in range(_RACES):
            if not standing.fields or not is_older(from_item(standing), record.call):
                break
            change = Change(
                set=fields,
                remove=RECORD_FIELDS - fields.keys(),
                expires=self.clock() + self.expires,
                when=tuple(_unchanged(standing, name) for name in ("state", "fence", "call")),
            )
            try:
                self.update(key(record.id), change)
                return None
            except ConditionFailed as error:
                standing = error.current or Item(key=key(record.id), fields={})
        return from_item(standing)

    def revoke(self, task_id: str, *, due: float = 0.0) -> Record | None:
        """Mark a task so that no worker starts it; return its record, None if it has ended already.

        The mark is kept for a month, or for a month after it is `due` (epoch seconds).
        """
        change = Change(
            set={"revoked": True},
            # It may wait for its time much longer than results are kept; its end replaces this.
            expires=max(self.clock(), due) + max(self.expires, _REVOKED),
            when=tuple(
                Check(field="state", op=Op.NE, value=str(state), or_absent=True)
                for state in sorted(TERMINAL)
            ),
        )
        try:
            return from_item(self.update(key(task_id), change))
        except ConditionFailed:
            return None

    def note(self, record: Record, body: bytes = b"") -> None:
        """Record an event, if events of its state are recorded; a failure is only logged."""
        items = self.history.items(record, body) if self.history is not None else []
        if not items:
            return
        try:
            failures = self.put(items)
        except BackendError as error:
            log.warning("an event of task %s is not recorded: %s", record.id, error)
            return
        if failures:
            reason = next(iter(failures.values())).reason
            log.warning("an event of task %s is not recorded: %s", record.id, reason)

    def note_scheduled(self, places: Mapping[str, tuple[str, str, str, float]]) -> None:
        """Remember where delayed messages wait: task id -> task, queue, handle, due (epoch s).

        The tasks must be new: nothing may be recorded of them yet.
        """
        items = [
            to_item(
                Record(
                    id=id,
                    state=State.PENDING,
                    task=task,
                    queue=queue,
                    scheduled=DelayedMessage(queue=queue, handle=handle),
                ),
                due + self.expires,
            )
            for id, (task, queue, handle, due) in places.items()
        ]
        failures = self.put(items)
        if failures:
            first = next(iter(failures.values()))
            raise BackendError(f"{len(failures)} records: {first.reason}", code=first.code)

    def note_named(self, places: Mapping[str, tuple[str, str, str, float]]) -> None:
        """As `note_scheduled`, for tasks that may have a record; a run's record stays."""
        for id, (task, queue, handle, due) in places.items():
            change = Change(
                set={
                    "state": str(State.PENDING),
                    "task": task,
                    "queue": queue,
                    "scheduled": DelayedMessage(queue=queue, handle=handle).to_text(),
                },
                # A revocation may be there, and must be when it is due.
                expires=due + max(self.expires, _REVOKED),
                when=(Check(field="state", op=Op.EQ, value=str(State.PENDING), or_absent=True),),
            )
            with suppress(ConditionFailed):
                self.update(key(id), change)

    # ---- items

    def get(self, keys: Sequence[Key], *, consistent: bool = True) -> Mapping[Key, Item]:
        found: dict[Key, Item] = {}
        for start in range(0, len(keys), self.driver.limits.get):
            batch = keys[start : start + self.driver.limits.get]
            with self.trying("read", keys[0].partition):
                found.update(self.driver.get(batch, consistent=consistent))
        return found

    def put(self, items: Sequence[Item]) -> dict[int, Failure]:
        """Write whole items, in batches; return what was refused, by index.

        Raises `BackendError` when no batch was written, and for an error that is no outage; else
        a batch that was not written is refused.
        """
        failed: dict[int, Failure] = {}
        size = self.driver.limits.put
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            try:
                with self.trying("write", items[0].key.partition):
                    failures = self.driver.put(batch)
            except BackendError as error:
                last = start + size >= len(items)
                if error.code not in _OUTAGES or (last and len(failed) == start):
                    raise
                code, reason = Code(error.code), str(error)
                failures = [Failure(index=i, code=code, reason=reason) for i in range(len(batch))]
            failed |= {start + failure.index: failure for failure in failures}
        return failed

    def update(self, key: Key, change: Change) -> Item:
        """Change one item atomically. Raises `cloudq.driver.ConditionFailed` as well."""
        with self.trying("write", key.partition):
            return self.driver.update(key, change)

    def insist(self, key: Key, change: Change) -> Item:
        """Change an item as `update` does, and try again at once what the store refuses.

        For changes that come to the same when they are made twice: an answer may be lost.
        """
        for _ in range(_TRIES - 1):
            try:
                return self.update(key, change)
            except BackendError as error:
                if error.code in _NEVER:
                    raise
                log.warning("tried again at once: %s", error)
        return self.update(key, change)

    def query(self, partition: str, *, after: str | None = None, limit: int = 100) -> Page:
        with self.trying("read", partition):
            return self.driver.query(partition, after=after, limit=limit)

    def delete(self, keys: Sequence[Key]) -> None:
        for start in range(0, len(keys), self.driver.limits.put):
            with self.trying("delete", keys[0].partition):
                failures = self.driver.delete(keys[start : start + self.driver.limits.put])
            if failures:
                first = failures[0]
                raise BackendError(f"{len(failures)} items: {first.reason}", code=first.code)

    def sweep(self) -> int | None:
        """Delete expired items; how many, None where the store does that by itself."""
        from cloudq.driver import Sweeping

        if not isinstance(self.driver, Sweeping):
            return None
        with self.trying("delete what has expired", "*"):
            return self.driver.sweep()

    # ---- waiting

    @property
    def wakes(self) -> bool:
        """Tell whether the store wakes its readers."""
        return isinstance(self.driver, Watch)

    def watch(self) -> Watcher:
        """Return a waiter for changes: the driver's own, else one that polls ever slower.

        A wake-up is a hint. Who waits looks every `LOOK_EVERY` seconds besides, since the writer
        may be where it cannot wake anybody: in another container, or with another TMPDIR.
        """
        return self._wakened() or _Clock()

    def _wakened(self) -> Watcher | None:
        """Return the driver's own waiter, None where the store wakes nobody."""
        driver = self.driver
        return driver.watch() if isinstance(driver, Watch) else None

    def ended(self, verb: str, name: str, error: BaseException | None) -> None:
        """Note how a request ended. Raises `BackendError` in place of what the driver raised."""
        if error is None or isinstance(error, ConditionFailed):
            self._failing_since = None
        elif isinstance(error, Exception) and not isinstance(error, CloudQError):
            if self._failing_since is None:
                self._failing_since = self.clock()
            code = self.driver.error_code(error)
            tried = f"{verb} {name!r} in {self.url}"
            text = explain(tried, code, error, missing=_NO_TABLE, driver=self.driver)
            raise BackendError(text, code=code) from error


def _no_later_call(call: str) -> Check:
    return Check(field="call", op=Op.LE, value=call, or_absent=True)


def _unchanged(item: Item, name: str) -> Check:
    value = item.fields.get(name)
    if value is None:
        return Check(field=name, op=Op.ABSENT)
    return Check(field=name, op=Op.EQ, value=value)


class _Clock:
    """Polls at growing intervals, for stores that cannot notify."""

    def __init__(self) -> None:
        self._backoff = polling()

    def wait(self, timeout: float) -> bool:
        time.sleep(max(0.0, min(self._backoff.failed(), timeout)))
        return True

    def wake(self) -> None:
        """Do nothing: the next look is soon."""

    def close(self) -> None:
        """Do nothing: a poller holds nothing open."""
