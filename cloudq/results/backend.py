"""The portable result store over a driver: records, claims, waiting, and helpful errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cloudq.clock import Clock, real_time
from cloudq.driver import (
    BackendDriver,
    Change,
    Code,
    ConditionFailed,
    Failure,
    Item,
    Key,
    ManyUpdates,
    Page,
    Watch,
    Watcher,
)
from cloudq.driver.advice import explain
from cloudq.driver.forks import Driven, renew_after_fork
from cloudq.driver.log import Log
from cloudq.errors import BackendError, CloudQError
from cloudq.messages.ids import IS_PLACED, Place, SeriesIds, place_in_series, place_of
from cloudq.messages.message import new_id
from cloudq.results.bundles import BundleStore
from cloudq.results.call_marks import is_older
from cloudq.results.changes import advance, claim_of, make, replacement, revocation
from cloudq.results.events import History
from cloudq.results.large import LargeValues
from cloudq.results.looker import LOOK_EVERY, Looker
from cloudq.results.pauses import Pauses, Poller, UsualTimes
from cloudq.results.record import Record, from_item, key, to_item
from cloudq.results.series import SeriesStore

if TYPE_CHECKING:  # loaded where there are encryption keys
    from cloudq.results.sealing import Sealing

log = Log("cloudq.backend")

_NO_TABLE = (
    'there is no such table: "cloudq queues create --store" makes it, '
    "or check the name, the region and the account"
)

_OUTAGES = frozenset({Code.THROTTLED, Code.UNREACHABLE})
LONGEST_MARK = 31 * 86_400.0
"""Seconds for which a revocation is kept: no message waits for longer without being looked at."""
# How often a record that changes meanwhile is looked at again before it is replaced.
_RACES, _TRIES, _SHORTEST_PAUSE, _LONGEST_PAUSE = 10, 3, 1.0, 30.0
# The first pause between looks for what comes with a heartbeat, say the reply to a command.
_SOON = 0.05
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
        large: LargeValues | None = None,
        reopen: Callable[[], BackendDriver] | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        super().__init__(driver, reopen)
        self.sealing = sealing
        self.history = history
        self.large = large or LargeValues()
        self.clock, self.url, self.expires = clock, url, expires
        self._failing_since: float | None = None
        self.usual = UsualTimes()
        self.bundles = BundleStore(self)
        self.series = SeriesStore(self)
        self._ids = SeriesIds()
        self.new_id = self._ids.next if driver.limits.bills_kilobytes else new_id
        """Makes the id of a call whose end will be recorded here."""
        self.looker = Looker(self._looked_at, self._wakened)
        renew_after_fork(self, Backend._in_child)

    def _in_child(self) -> None:
        """Open a driver anew, and forget the thread that looks for coroutines."""
        self._drop()
        self.looker = Looker(self._looked_at, self._wakened)

    @property
    def pause(self) -> float:
        """Seconds until a call that the store has refused is worth another try.

        One where an error came alone; as many as it has answered nothing, and 30 at most.
        """
        since = self._failing_since
        down = 0.0 if since is None else self.clock() - since
        return min(max(down, _SHORTEST_PAUSE), _LONGEST_PAUSE)

    # ---- records

    def records(
        self, ids: Sequence[str], *, consistent: bool = True, own: bool = False
    ) -> dict[str, Record]:
        """Return the stored records of these tasks, read in batches.

        Of a call in a bundle or series, the end; with `own`, also what it has recorded while it
        runs, and of a call whose id another had before it.
        """
        self._ids.until = 0.0
        placed = [id for id in ids if id[IS_PLACED] == "8"]
        if not placed:
            return self._records_apart(ids, consistent=consistent)
        bundled = {id: place for id in placed if (place := place_of(id))}
        rest = placed if len(bundled) < len(placed) else ()
        series = {id: place for id in rest if (place := place_in_series(id))}
        if not bundled:
            return self.series.records(ids, series, consistent=consistent, own=own)
        others = [id for id in ids if id not in series]
        found = self.bundles.records(others, bundled, consistent=consistent, own=own)
        if series:
            found |= self.series.records([*series], series, consistent=consistent, own=own)
        return found

    def _records_apart(self, ids: Sequence[str], *, consistent: bool) -> dict[str, Record]:
        found = self.get([key(task_id) for task_id in ids], consistent=consistent)
        return {
            item_key.partition.removeprefix("task#"): from_item(item)
            for item_key, item in found.items()
        }

    def _looked_at(self, ids: Sequence[str], own: bool) -> dict[str, Record]:
        """Read records for those who look again: what was just written may come with the next."""
        return self.records(ids, consistent=False, own=own)

    def record(self, task_id: str) -> Record | None:
        return self.records([task_id], own=True).get(task_id)

    def store(self, records: Sequence[Record]) -> dict[str, Failure]:
        """Write records whole, in batches, over whatever was there; the refused ones by task id.

        For deliveries whose lease is known to hold: nobody else can be writing.
        """
        loose = [record for record in records if not self._ends_in_bundle(record)]
        self.series.leave(loose)
        return self.store_apart(loose)

    def _ends_in_bundle(self, record: Record) -> bool:
        """Record the end of a call in a bundle there; return False for any other record."""
        if not record.terminal or (place := place_of(record.id)) is None:
            return False
        self.bundles.end(place, record)
        return True

    def store_apart(self, records: Sequence[Record]) -> dict[str, Failure]:
        """Do as `store`, with an item for each."""
        expires = self.clock() + self.expires
        items = [to_item(record, expires) for record in records]
        return {records[i].id: failure for i, failure in self.put(items).items()}

    def advance(self, record: Record) -> Record | None:
        """Write a record unless a later delivery or a terminal state is there already.

        A record of a later call of the same id stands in the way too; one of an earlier call is
        replaced, whatever its state. Returns None when it was written, else the record that
        stands in the way.
        """
        place = place_of(record.id) if record.terminal else None
        if place is None:
            # One in a series has no mark, so it is not in the way of a later call of its id.
            is_end = record.terminal and record.call is None
            ended = self.series.end_of(record.id) if is_end else None
            self.series.leave([record])
            return ended or self.advance_apart(record)
        return self.advance_apart(claim_of(record)) or self.bundles.end(place, record)

    def advance_apart(self, record: Record) -> Record | None:
        """Do as `advance`, with an item for the record."""
        try:
            make(self, key(record.id), advance(record, self.clock() + self.expires))
        except ConditionFailed as error:
            # A store that does not say what is there is not proof that the record was written.
            standing = error.current or Item(key=key(record.id), fields={})
            return self._replace_older(record, standing)
        return None

    def _replace_older(self, record: Record, standing: Item) -> Record | None:
        """Write a record over one of an earlier call, as long as that is what stands there."""
        for _ in range(_RACES):
            if not standing.fields or not is_older(from_item(standing), record.call):
                break
            try:
                change = replacement(record, standing, self.clock() + self.expires)
                self.update(key(record.id), change)
                return None
            except ConditionFailed as error:
                standing = error.current or Item(key=key(record.id), fields={})
        return from_item(standing)

    def revoke(self, task_id: str, *, due: float = 0.0) -> Record | None:
        """Mark a task so that no worker starts it; return its record, None if it has ended already.

        The mark is kept for a month, or for a month after it is `due` (epoch seconds).
        """
        if (place := place_of(task_id)) is not None:
            return self._revoke_bundled(task_id, place)
        known = self.record(task_id) if place_in_series(task_id) is not None else None
        return None if known is not None and known.terminal else self._revoke(task_id, due)

    def _revoke_bundled(self, task_id: str, place: Place) -> Record | None:
        """Mark a call in its bundle, and where its end lies apart, there."""
        standing, own = self.bundles.with_own(task_id, place)
        standing = self.bundles.revoke(standing, place.number, keep=max(self.expires, LONGEST_MARK))
        known = standing.record(place.number)
        if known is not None and known.terminal:
            is_later = own is not None and is_older(known, own.call)
            return self._revoke(task_id, 0.0) if is_later else None
        return self._revoke(task_id, 0.0) if standing.is_apart(place.number) else known

    def _revoke(self, task_id: str, due: float) -> Record | None:
        try:
            return from_item(make(self, key(task_id), self._revocation(due)))
        except ConditionFailed:
            return None

    def revoke_together(self, task_ids: Sequence[str]) -> dict[str, Record]:
        """Mark tasks as `revoke` does, at the price of one where the store can; those it marked.

        Where it cannot, none: they are to be revoked one by one.
        """
        marked: dict[str, Record] = {}
        if any(id[IS_PLACED] == "8" and (place_of(id) or place_in_series(id)) for id in task_ids):
            return marked
        driver, change = self.driver, self._revocation(0.0)
        if isinstance(driver, ManyUpdates):
            for start in range(0, len(task_ids), driver.limits.put):
                batch = task_ids[start : start + driver.limits.put]
                with self.trying("write", batch[0]):
                    items = driver.update_all([(key(id), change) for id in batch])
                found = {id: item for id, item in zip(batch, items, strict=True) if item}
                marked |= {id: from_item(self._opened(item)) for id, item in found.items()}
        return marked

    def _revocation(self, due: float) -> Change:
        # It may wait for its time much longer than results are kept; its end replaces this.
        return revocation(max(self.clock(), due) + max(self.expires, LONGEST_MARK))

    def reopen(self, record: Record) -> None:
        """Replace the end of a task that is to run again by this record, of no end."""
        if (place := place_of(record.id)) is not None:
            self.bundles.forget(place.bundle, place.number)
        self.store([record])

    def forget(self, task_id: str) -> None:
        """Delete the record of a task, and its value in the payload store."""
        if self.large.payloads() is not None:
            self.large.forget(self.record(task_id))
        if (place := place_of(task_id)) is not None:
            self.bundles.forget(place.bundle, place.number)
        elif (place := place_in_series(task_id)) is not None:
            self.series.forget(task_id, place)
            return
        self.delete([key(task_id)])

    def note(self, record: Record, body: bytes = b"") -> None:
        """Record an event, if events of its state are recorded; a failure is only logged."""
        items = self.history.items(record, body) if self.history is not None else []
        self._note(items, f"an event of task {record.id} is")

    def write_ends(self, *, due: bool = False) -> None:
        """Write the ends that wait to be logged, with `due` if it is time; a failure is logged."""
        if (ends := self.history and self.history.ends) and (item := ends.take(due=due)):
            self._note([item], "ends are")

    def _note(self, items: Sequence[Item], what: str) -> None:
        try:
            for failure in (self.put(items) if items else {}).values():
                log.warning("%s not recorded: %s", what, failure.reason)
        except BackendError as error:
            log.warning("%s not recorded: %s", what, error)

    # ---- items

    def get(self, keys: Sequence[Key], *, consistent: bool = True) -> Mapping[Key, Item]:
        found: dict[Key, Item] = {}
        for start in range(0, len(keys), self.driver.limits.get):
            batch = keys[start : start + self.driver.limits.get]
            with self.trying("read", keys[0].partition):
                found.update(self.driver.get(batch, consistent=consistent))
        return {key: self._opened(item) for key, item in found.items()} if self.sealing else found

    def _opened(self, item: Item) -> Item:
        return item if self.sealing is None else self.sealing.opened(item)

    def put(self, items: Sequence[Item]) -> dict[int, Failure]:
        """Write whole items, in batches; return what was refused, by index.

        Raises `BackendError` when no batch was written, and for an error that is no outage; else
        a batch that was not written is refused.
        """
        items = items if self.sealing is None else self.sealing.items(items)
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
        update, sealing = self._update, self.sealing
        return update(key, change) if sealing is None else sealing.updated(key, change, update)

    def _update(self, key: Key, change: Change) -> Item:
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
            page = self.driver.query(partition, after=after, limit=limit)
        return page if self.sealing is None else self.sealing.page(page)

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
        return self.power(Watch) is not None

    def watch(self) -> Watcher:
        """Return a waiter for changes: the driver's own, else one that polls ever slower.

        A wake-up is a hint. Who waits looks every `LOOK_EVERY` seconds besides, since the writer
        may be where it cannot wake anybody: in another container, or with another TMPDIR.
        """
        return self._wakened() or Poller(Pauses(_SOON, _SOON, LOOK_EVERY))

    def _wakened(self) -> Watcher | None:
        """Return the driver's own waiter, None where the store wakes nobody."""
        driver = self.power(Watch)
        return None if driver is None else driver.watch()

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
