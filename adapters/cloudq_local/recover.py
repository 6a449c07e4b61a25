"""Saves what can be read of a damaged SQLite file: `python -m cloudq_local.recover FILE NEW`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cloudq.errors import ConfigurationError
from cloudq_local.sqlite_file import Database
from cloudq_local.sqlite_inbox import Inbox

_USAGE = "usage: python -m cloudq_local.recover FILE NEW"
_PAGE = 4096
# Where a file has its size in pages; 0 stands for that which it has.
_SIZE_AT, _UNTOLD = 28, bytes(4)

# Columns by table, and how many of the first are its key.
_TABLES: Mapping[str, tuple[int, str]] = {
    "queues": (1, "name max_deliveries"),
    "messages": (1, "seq queue visible_at token attempts due sent_at id grp body"),
    "dead": (1, "seq queue id body grp attempts sent_at died_at reason"),
    "dedup": (2, "queue key until"),
    "items": (2, "partition sort expires fields"),
    "clock": (1, "one latest"),
    "inbox": (1, "one name generation position"),
}
_NUMBERED = ("messages", "dead")
# Places between rows that can be read, of which each is asked for by itself, at most.
_MOST_ASKED = 1_000_000


def recover(file: Path, new: Path) -> dict[str, int]:
    """Copy each row that can be read to a new file; how many there are, by table.

    Nothing may use the damaged file meanwhile; it is left as it is. Raises `ConfigurationError`.
    """
    if not file.is_file():
        raise ConfigurationError(f"there is no file {file}")
    if new.exists():
        raise ConfigurationError(f"{new} is there already: name a new file")
    with closing(Database(new, synchronous="full", busy_timeout=10.0)) as target:
        target.read("PRAGMA wal_checkpoint(TRUNCATE)")
        with TemporaryDirectory(dir=new.parent, prefix="recover-") as folder:
            copy = Path(folder, "copy.db")
            for end in ("", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{file}{end}", f"{copy}{end}")
            _mend(copy, new)
            with closing(sqlite3.connect(copy, isolation_level=None)) as source:
                source.text_factory = _text
                counts = {table: _copy(source, target, table) for table in _TABLES}
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{file}-inbox", f"{new}-inbox")
            with target.lock, Inbox(target).transaction():
                pass
    return counts


def _mend(copy: Path, new: Path) -> None:
    """Have a file opened whose size is not what it says, or whose first page is damaged.

    That says where the tables are, and a new file has them at the same places.
    """
    if _opens(copy):
        return
    with copy.open("r+b") as file, new.open("rb") as fresh:
        file.seek(_SIZE_AT)
        file.write(_UNTOLD)
        file.flush()
        if not _opens(copy):
            file.seek(0)
            page = fresh.read(_PAGE)
            file.write(page[:_SIZE_AT] + _UNTOLD + page[_SIZE_AT + len(_UNTOLD) :])


def _opens(file: Path) -> bool:
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as source:
        return bool(source.execute("SELECT 1 FROM sqlite_master WHERE name = 'items'").fetchone())
    return False


def _copy(source: sqlite3.Connection, target: Database, table: str) -> int:
    columns = _TABLES[table][1].split()
    put = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(columns))})"
    count = 0
    with target.lock, target:
        for row in _rows(source, table):
            with suppress(sqlite3.Error, OverflowError):  # it is no row of such a table
                target.execute(put, row)
                count += 1
    return count


def _rows(source: sqlite3.Connection, table: str) -> Iterator[Sequence[Any]]:
    """Yield the rows before damage, from the last one back those behind it, and those between."""
    size, names = _TABLES[table]
    columns = names.split()
    keys = columns[:size]
    seen: set[Sequence[Any]] = set()
    ends: list[Any] = []
    for order in ("ASC", "DESC"):
        by = ", ".join(f"{key} {order}" for key in keys)
        last = None
        for row in _readable(
            source, f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED ORDER BY {by}"
        ):
            if row[:size] in seen:
                return
            seen.add(last := row[:size])
            yield row
        ends.append(last)
    where = " AND ".join(f"{key} = ?" for key in keys)
    for key in _between(source, table, ends):
        if key not in seen:
            seen.add(key)
            one = f"SELECT {', '.join(columns)} FROM {table} WHERE {where}"
            yield from _readable(source, one, key)


def _between(
    source: sqlite3.Connection, table: str, ends: Sequence[Any]
) -> Iterator[Sequence[Any]]:
    """Yield keys of rows that may be in the damaged part of a table."""
    if table in _NUMBERED and None not in ends:
        (first,), (last,) = ends
        for seq in range(first + 1, min(last, first + _MOST_ASKED)):
            yield (seq,)
    elif table == "items":
        of_index = "SELECT partition, sort FROM items INDEXED BY items_expires"
        yield from _readable(source, f"{of_index} WHERE expires IS NOT NULL ORDER BY expires")


def _readable(
    source: sqlite3.Connection, sql: str, values: Sequence[Any] = ()
) -> Iterator[Sequence[Any]]:
    """Yield the rows of a query up to the first that cannot be read."""
    with suppress(sqlite3.Error):
        yield from source.execute(sql, values)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    if len(arguments) != 2:
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    file, new = (Path(os.path.abspath(argument)) for argument in arguments)
    try:
        counts = recover(file, new)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    told = ("messages", "dead", "items")
    saved = ", ".join(f"{counts[table]} {table}" for table in told)
    sys.stdout.write(f"saved in {new}: {saved}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
