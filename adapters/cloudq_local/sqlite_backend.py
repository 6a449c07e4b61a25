"""The backend driver over the items of a SQLite file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from cloudq.driver import (
    Change,
    Code,
    ConditionFailed,
    Failure,
    Item,
    Key,
    Page,
    StoreLimits,
    Value,
    Watcher,
)
from cloudq_local.items import Refusal, changed, holds
from cloudq_local.sqlite_errors import advice, error_code
from cloudq_local.sqlite_fields import decode, encode
from cloudq_local.sqlite_file import Database
from cloudq_local.sqlite_tidy import ITEMS, Tidy
from cloudq_local.wake import Bell

LIMITS = StoreLimits(put=256, get=256, item=16 << 20, billed=False)

# No queue has this name, so that items and messages never ring for each other.
TOPIC = "\0items"

# Expired items are deleted after every so many written ones, up to twice as many, so that their
# number settles at any rate; and now and then, with all else that has expired.
SWEEP = 64

_PUT = (
    "INSERT INTO items (partition, sort, expires, fields) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (partition, sort)"
    " DO UPDATE SET expires = excluded.expires, fields = excluded.fields"
)
_GET = "SELECT expires, fields FROM items WHERE partition = ? AND sort = ?"
# One statement for many keys: SQLite's module lets go of the interpreter's lock in each statement,
# and where another thread computes it gets that back after 5 ms.
_GET_MANY = (
    "SELECT k.key, i.expires, i.fields FROM json_each(?) k CROSS JOIN items i"
    " ON i.partition = json_extract(k.value, '$[0]') AND i.sort = json_extract(k.value, '$[1]')"
)
_DELETE = "DELETE FROM items WHERE partition = ? AND sort = ?"
# Sort keys are never empty, so the empty text stands before the first.
_QUERY = (
    "SELECT sort, expires, fields FROM items WHERE partition = ? AND sort > ?"
    " AND (expires IS NULL OR expires > ?) ORDER BY sort LIMIT ?"
)

Row = tuple[str, str, float | None, bytes]
"""Partition, sort key, expiry and fields of an item."""


class SQLiteBackend:
    """A `BackendDriver`, `ManyUpdates`, `Watch` and `StoreAdmin` over one file."""

    limits = LIMITS

    def __init__(
        self, database: Database, bell: Bell, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self._bell = bell
        self._clock = clock
        self._unswept = 0
        self._tidy = Tidy()

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        """Write whole items in one transaction; one that is over the limit is a `Failure`."""
        rows, failures = self.rows(items)
        if rows:
            with self.database.lock, self.database as database:
                self.write(database, rows)
            self._bell.ring(TOPIC)
        return failures

    def rows(self, items: Sequence[Item]) -> tuple[list[Row], list[Failure]]:
        """Make the rows of items, and the failures of those that are over the limit."""
        rows: list[Row] = []
        failures: list[Failure] = []
        for index, item in enumerate(items):
            blob = encode(item.fields)
            if len(blob) > LIMITS.item:
                reason = f"an item of {len(blob)} bytes"
                failures.append(Failure(index=index, code=Code.TOO_LARGE, reason=reason))
                continue
            rows.append((item.key.partition, item.key.sort, item.expires, blob))
        return rows, failures

    def write(self, database: Database, rows: Sequence[Row]) -> None:
        """Write rows by this connection to the file. Needs a transaction; rings nobody."""
        database.executemany(_PUT, rows)
        self._sweep(database, len(rows))

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        """Read items, always as they are now."""
        if not keys:
            return {}
        now = self._clock()
        found: dict[Key, Item] = {}
        for index, expires, fields in self._rows(keys):
            if expires is None or expires > now:
                key = keys[index]
                found[key] = Item(key=key, fields=decode(fields), expires=expires)
        return found

    def _rows(self, keys: Sequence[Key]) -> Iterable[tuple[int, float | None, bytes]]:
        """Return the place among the keys, the expiry and the fields of each that is there."""
        text = json.dumps(keys) if len(keys) > 1 else ""
        if text and "\\u0000" not in text:  # else SQLite would read the text that far
            return self.database.read(_GET_MANY, (text,))
        found = [self.database.read(_GET, key) for key in keys]
        return [(index, *rows[0]) for index, rows in enumerate(found) if rows]

    def update(self, key: Key, change: Change) -> Item:
        """Change one item atomically and return it as it now is. Raises `ConditionFailed`."""
        with self.database.lock, self.database as database:
            item = self._changed(database, key, change)
            self._sweep(database, 1)
        self._bell.ring(TOPIC)
        return item

    def update_all(self, changes: Sequence[tuple[Key, Change]]) -> Sequence[Item | None]:
        """Change items in one transaction; None where a check did not hold."""
        items: list[Item | None] = []
        with self.database.lock, self.database as database:
            for key, change in changes:
                try:
                    items.append(self._changed(database, key, change))
                except ConditionFailed:
                    items.append(None)
            self._sweep(database, len(changes))
        self._bell.ring(TOPIC)
        return items

    def _changed(self, database: Database, key: Key, change: Change) -> Item:
        """Change one item, in a transaction. Raises `ConditionFailed`, having written nothing."""
        current = self._item(key, database.execute(_GET, key).fetchone())
        fields: Mapping[str, Value] = current.fields if current else {}
        if not all(holds(check, fields) for check in change.when):
            raise ConditionFailed(current)
        after = changed(fields, change)
        blob = encode(after)
        if len(blob) > LIMITS.item:
            raise Refusal(f"an item of {len(blob)} bytes", code=Code.TOO_LARGE)
        kept = current.expires if current else None
        expires = kept if change.keep_expires else change.expires
        database.execute(_PUT, (*key, expires, blob))
        return Item(key=key, fields=after, expires=expires)

    def query(self, partition: str, *, after: str | None, limit: int) -> Page:
        """Return items in the order of their sort keys."""
        values = (partition, after or "", self._clock(), limit + 1)
        items = [
            Item(key=Key(partition, sort), fields=decode(blob), expires=expires)
            for sort, expires, blob in self.database.read(_QUERY, values)
        ]
        if len(items) <= limit:
            return Page(items=items)
        return Page(items=items[:limit], next=items[limit - 1].key.sort)

    def delete(self, keys: Sequence[Key]) -> Sequence[Failure]:
        """Delete items in one transaction; one that is not there is deleted already."""
        with self.database.lock, self.database as database:
            database.executemany(_DELETE, keys)
        return ()

    def error_code(self, error: Exception) -> Code:
        """Return the code of SQLite's errors and of our own `Refusal`."""
        return error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error of SQLite."""
        return advice(error)

    def close(self) -> None:
        """Close the file."""
        self.database.close()
        self._bell.close()

    def watch(self) -> Watcher:
        """Return a listener that is woken by every write, of any process of this user."""
        return self._bell.listen(TOPIC)

    def create_store(self) -> None:
        """Do nothing: opening the file has made it."""

    def check_store(self) -> None:
        """Raise SQLite's error when the file cannot be read."""
        self.database.read("SELECT 1 FROM items LIMIT 1")

    def _item(self, key: Key, row: tuple[float | None, bytes] | None) -> Item | None:
        if row is None or (row[0] is not None and row[0] <= self._clock()):
            return None
        return Item(key=key, fields=decode(row[1]), expires=row[0])

    def _sweep(self, database: Database, written: int) -> None:
        self._unswept += written
        if self._unswept >= SWEEP:
            database.execute(ITEMS, (self._clock(), 2 * self._unswept))
            self._unswept = 0
        self._tidy.run(database, self._clock())
