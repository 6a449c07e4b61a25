"""A SQLite file settles: what has expired goes, its space is used again, its log is cut."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from cloudq.driver import Address, Item, Key
from cloudq.testing import outgoing
from cloudq_local import sqlite_log, sqlite_tidy
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_backend import SQLiteBackend
from cloudq_local.sqlite_broker import SQLiteBroker
from cloudq_local.sqlite_log import ROOM, WriteAheadLog
from cloudq_local.sqlite_tidy import GIVEN_BACK, KEPT
from tests.worker.harness import until

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
QUEUE = "queue"
PAGE = 4096
# The last transaction may end beyond the limit; it is cut to what it wrote.
LIMIT = ROOM + 100 * PAGE


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Address(
        scheme="sqlite", path=str(tmp_path / "growing.db"), options={"synchronous": "off"}
    )


@pytest.fixture
def store(address: Address, clock: Clock) -> Iterator[SQLiteBackend]:
    with closing(open_backend(address)) as opened:
        opened._clock = clock  # pyright: ignore[reportPrivateUsage]
        yield opened


@pytest.fixture
def broker(address: Address, clock: Clock) -> Iterator[SQLiteBroker]:
    with closing(open_broker(address)) as opened:
        opened._times._clock = clock  # pyright: ignore[reportPrivateUsage]
        yield opened


@pytest.fixture
def tidies_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_tidy, "EVERY", 0.0)


def pages(address: Address) -> int:
    """The number of pages of the database, whether or not they are in the file itself yet."""
    with closing(sqlite3.connect(address.path)) as database:
        return int(database.execute("PRAGMA page_count").fetchone()[0])


def rows(address: Address, table: str) -> int:
    with closing(sqlite3.connect(address.path)) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def log_of(address: Address) -> int:
    return Path(f"{address.path}-wal").stat().st_size


def send(broker: SQLiteBroker, count: int, *, size: int = 100) -> None:
    for _ in range(0, count, 250):
        broker.send(QUEUE, [outgoing(body=b"x" * size) for _ in range(250)])


def take(broker: SQLiteBroker) -> int:
    taken = broker.receive(QUEUE, count=250, wait=0, lease=60)
    broker.ack(taken)
    return len(taken)


# ---- the log


def test_the_log_is_cut_after_a_reader_has_left(address: Address, broker: SQLiteBroker) -> None:
    """While one reads, SQLite cannot begin its log anew, and it grows."""
    send(broker, 2000)
    with closing(sqlite3.connect(address.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM messages").fetchone() == (2000,)
        send(broker, 20_000, size=500)
        assert log_of(address) > 2 * ROOM
        reader.execute("COMMIT")
    send(broker, 8000, size=500)
    assert log_of(address) <= LIMIT


def test_the_log_is_cut_after_a_large_transaction(address: Address, broker: SQLiteBroker) -> None:
    send(broker, 12_000, size=1000)
    broker.purge(QUEUE)
    assert log_of(address) > 2 * ROOM
    send(broker, 8000, size=500)
    assert log_of(address) <= LIMIT


def read_without_a_gap(address: Address, ends: Event) -> None:
    """Read as many do at once: before one has ended the next has begun."""
    with ExitStack() as stack:
        connect = partial(sqlite3.connect, address.path, isolation_level=None, timeout=60)
        first, second = (stack.enter_context(closing(connect())) for _ in range(2))
        first.execute("BEGIN")
        while not ends.is_set():
            first.execute("SELECT count(*) FROM queues").fetchone()
            second.execute("BEGIN")
            second.execute("SELECT count(*) FROM queues").fetchone()
            time.sleep(0.001)
            first.execute("COMMIT")
            first, second = second, first


def test_the_log_is_cut_while_many_read_and_write(
    address: Address, broker: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_log, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(broker._database, "_log", WriteAheadLog(address.path))  # pyright: ignore[reportPrivateUsage]
    send(broker, 250)
    ends = Event()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_without_a_gap, address, ends)
        try:
            for _ in range(3):
                until(lambda: grown(broker, address), what="the log becomes long")
                until(lambda: not grown(broker, address), what="the log is cut")
        finally:
            ends.set()
        reading.result()


def grown(broker: SQLiteBroker, address: Address) -> bool:
    """Write some more, and tell whether the log is longer than SQLite's own limit by half."""
    send(broker, 250, size=1000)
    return log_of(address) > 1.5 * ROOM


# ---- what has expired


@pytest.mark.usefixtures("tidies_always")
def test_dead_letters_go_when_their_time_is_over(
    address: Address, broker: SQLiteBroker, clock: Clock
) -> None:
    broker.send(QUEUE, [outgoing() for _ in range(10)])
    broker.dead_letter(broker.receive(QUEUE, count=10, wait=0, lease=60), reason="no good")
    clock.now += 13 * 86_400
    broker.send(QUEUE, [outgoing() for _ in range(5)])
    broker.dead_letter(broker.receive(QUEUE, count=5, wait=0, lease=60), reason="no good")
    assert rows(address, "dead") == 15
    clock.now += 86_400
    broker.send(QUEUE, [outgoing()])
    assert take(broker) == 1
    assert rows(address, "dead") == 5, "those of two weeks ago are gone"


@pytest.mark.usefixtures("tidies_always")
@pytest.mark.parametrize(("keep", "left"), [("60", 0), ("0", 10)])
def test_dead_letters_are_kept_for_as_long_as_the_address_says(
    address: Address, clock: Clock, keep: str, left: int
) -> None:
    named = replace(address, options={"keep_dead": keep})
    with closing(open_broker(named)) as broker, closing(open_backend(named)) as store:
        broker._times._clock = store._clock = clock  # pyright: ignore[reportPrivateUsage]
        broker.send(QUEUE, [outgoing() for _ in range(10)])
        broker.dead_letter(broker.receive(QUEUE, count=10, wait=0, lease=60), reason="no good")
        clock.now += 61
        store.put([Item(key=Key("worker"), fields={})])
        assert len(broker.peek_dead(QUEUE, count=20)) == left


@pytest.mark.usefixtures("tidies_always")
def test_keys_against_doubles_go_where_no_more_are_sent(
    address: Address, broker: SQLiteBroker, clock: Clock
) -> None:
    broker.send(QUEUE, [outgoing(dedup=f"key {n}") for n in range(200)])
    assert rows(address, "dedup") == 200
    clock.now += 301
    take(broker)
    assert rows(address, "dedup") == 0


# ---- the file


def test_a_file_settles_in_which_all_expires(
    address: Address, broker: SQLiteBroker, store: SQLiteBackend, clock: Clock
) -> None:
    """Messages come and go, and results, claims, events and joins expire, round after round."""
    dice = random.Random(16)
    sizes: list[int] = []
    for number in range(300 if FULL else 60):
        broker.send(QUEUE, [outgoing(body=dice.randbytes(300)) for _ in range(200)])
        broker.send(QUEUE, [outgoing(dedup=f"{number}.{n}") for n in range(20)])
        taken = broker.receive(QUEUE, count=250, wait=0, lease=60)
        items = [
            Item(
                key=Key(f"{kind}#{dice.randbytes(16).hex()}", "-"),
                fields={"value": dice.randbytes(dice.randrange(400)).hex()},
                expires=clock.now + dice.choice([30.0, 60.0, 100.0]),
            )
            for kind in ("task", "claim", "events", "join")
            for _ in range(50)
        ]
        store.put(items)
        broker.ack(taken)
        clock.now += 10
        sizes.append(pages(address))
    third = len(sizes) // 3
    print(f"pages after each round: {sizes[:: third // 4]}")
    assert max(sizes[2 * third :]) <= 1.05 * max(sizes[:third])


@pytest.mark.drill
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("tidies_always")
def test_after_a_burst_its_space_is_used_again_and_given_back(
    address: Address, broker: SQLiteBroker, store: SQLiteBackend, clock: Clock
) -> None:
    """Half of the burst is messages that are taken, half is results that expire."""
    count, size = (500_000, 300) if FULL else (2500, 1500)
    peaks: list[int] = []
    for _ in range(2):
        expires = clock.now + 1000
        for first in range(0, count, 250):
            broker.send(QUEUE, [outgoing(body=b"x" * size) for _ in range(250)])
            # As the ids of tasks, these are in the order of their times.
            keys = [Key(f"task#{clock.now:.0f}-{first + n:08}") for n in range(250)]
            store.put([Item(key=key, fields={"v": "x" * size}, expires=expires) for key in keys])
        peaks.append(pages(address))
        while take(broker):
            pass
        clock.now += 2000
        while store.database.read("SELECT 1 FROM items WHERE expires <= ? LIMIT 1", [clock.now]):
            store.put([Item(key=Key("worker"), fields={})])
    assert rows(address, "messages") == 0
    assert peaks[1] <= 1.05 * peaks[0], "the second burst takes the space of the first"
    for _ in range(2 + peaks[0] // GIVEN_BACK):
        store.put([Item(key=Key("worker"), fields={})])
    with store.database.lock:
        store.database.patiently("PRAGMA wal_checkpoint")
    left = pages(address)
    print(
        f"{2 * count:,} rows: {peaks[0]:,} pages, a second time {peaks[1]:,}, emptied {left:,}; "
        f"file {Path(address.path).stat().st_size:,} bytes, log {log_of(address):,}"
    )
    assert left <= max(1.5 * KEPT, peaks[0] // 2)
    assert log_of(address) <= LIMIT
