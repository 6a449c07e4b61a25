"""The SQLite broker and backend pass the contracts."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudq.driver import Address, Change, Item, Key
from cloudq.testing import (
    BackendContract,
    BrokerContract,
    OrderingContract,
    QueueAdminContract,
    SchedulingContract,
    UpdateContract,
    outgoing,
)
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_backend import SQLiteBackend
from cloudq_local.sqlite_broker import SQLiteBroker
from cloudq_local.sqlite_delayed import LOOK


@pytest.fixture
def address(tmp_path: Path) -> Address:
    path = str(tmp_path / "queue.db")
    return Address(scheme="sqlite", path=path, options={"synchronous": "normal"})


class BrokerFixtures:
    tick = 0.3
    creates_queues = True

    @pytest.fixture
    def driver(self, address: Address) -> Iterator[SQLiteBroker]:
        driver = open_broker(address)
        yield driver
        driver.close()

    @pytest.fixture
    def another(self, address: Address) -> Iterator[SQLiteBroker]:
        another = open_broker(address)
        yield another
        another.close()

    @pytest.fixture
    def queue(self) -> str:
        return "queue"

    @pytest.fixture
    def ordered_queue(self) -> str:
        return "ordered"

    @pytest.fixture
    def other_queue(self) -> str:
        return "other"

    @pytest.fixture
    def new_queue(self) -> str:
        return "new"


class TestSQLiteBroker(BrokerFixtures, BrokerContract):
    pass


class TestSQLiteOrdering(BrokerFixtures, OrderingContract):
    pass


class TestSQLiteAdmin(BrokerFixtures, QueueAdminContract):
    pass


class TestSQLiteScheduling(BrokerFixtures, SchedulingContract):
    pass


def test_another_process_takes_a_delayed_message_back(tmp_path: Path) -> None:
    driver = open_broker(Address(scheme="sqlite", path=str(tmp_path / "queue.db")))
    stays, goes = outgoing(delay=60), outgoing(delay=60)
    _, handle = driver.schedule("queue", [stays, goes])
    program = (
        "import sys\n"
        "from cloudq.driver import Address\n"
        "from cloudq_local.sqlite import open_broker\n"
        "driver = open_broker(Address(scheme='sqlite', path=sys.argv[1]))\n"
        "sys.exit(len(driver.unschedule('queue', sys.argv[2:])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "queue.db"), str(handle)]
    assert subprocess.run(command, check=False).returncode == 0
    assert [message.id for message in driver.scheduled("queue", count=10)] == [stays.id]
    # It is no longer there, for that process either.
    assert subprocess.run(command, check=False).returncode == 1
    driver.close()


def test_a_place_that_is_given_out_again_is_not_taken_for_the_first(tmp_path: Path) -> None:
    driver = open_broker(Address(scheme="sqlite", path=str(tmp_path / "queue.db")))
    (first,) = driver.schedule("queue", [outgoing(delay=60)])
    assert not driver.unschedule("queue", [str(first)])
    (second,) = driver.schedule("queue", [outgoing(delay=60)])
    assert str(first).partition(".")[0] == str(second).partition(".")[0]
    assert len(driver.unschedule("queue", [str(first)])) == 1
    assert not driver.unschedule("queue", [str(second)])
    driver.close()


def test_a_file_of_an_earlier_release_lists_its_delayed_messages(tmp_path: Path) -> None:
    path = str(tmp_path / "queue.db")
    open_broker(Address(scheme="sqlite", path=path)).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX messages_delayed")
    driver = open_broker(Address(scheme="sqlite", path=path))
    (handle,) = driver.schedule("queue", [message := outgoing(delay=60)])
    assert [seen.id for seen in driver.scheduled("queue", count=10)] == [message.id]
    assert not driver.unschedule("queue", [str(handle)])
    driver.close()


def test_a_listing_reads_only_what_is_delayed(tmp_path: Path) -> None:
    driver = open_broker(Address(scheme="sqlite", path=str(tmp_path / "queue.db")))
    driver.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {LOOK}", ("queue", 0.0, 0, 10)).fetchall()
    assert ["messages_delayed (queue=? AND rowid>?)" in line[-1] for line in plan] == [True]


class BackendFixtures:
    expiry = 0.2

    @pytest.fixture
    def driver(self, address: Address) -> Iterator[SQLiteBackend]:
        driver = open_backend(address)
        yield driver
        driver.close()

    @pytest.fixture
    def another(self, address: Address) -> Iterator[SQLiteBackend]:
        another = open_backend(address)
        yield another
        another.close()


class TestSQLiteBackend(BackendFixtures, BackendContract):
    def test_a_check_tells_of_a_file_that_cannot_be_read(
        self, driver: SQLiteBackend, address: Address
    ) -> None:
        driver.check_store()
        with contextlib.closing(sqlite3.connect(address.path)) as database:
            database.execute("DROP TABLE items")
        with pytest.raises(sqlite3.Error, match="no such table"):
            driver.check_store()


class TestSQLiteUpdate(BackendFixtures, UpdateContract):
    pass


SPOILT = {
    b"": {},
    b"{": {},
    b"null": {},
    b"[1]": {},
    b'"text"': {},
    b"\xff": {},
    b'{"a":"\\ud800"}': {},
    b'{"a":' * 2000 + b"1" + b"}" * 2000: {},
    "written as text": {},
    5: {},
    b'{"a":{"b":5},"n":1}': {"n": 1},
    b'{"a":{"b":"a"},"n":1}': {"n": 1},
    b'{"a":{"s":[[1]]},"n":1}': {"n": 1},
    b'{"a":{"n":"x"},"n":1}': {"n": 1},
    b'{"a":{"n":5},"n":1}': {"n": 1},
    b'{"a":{"n":"1","b":""},"n":1}': {"n": 1},
    b'{"a":{},"b":{"n":"2"}}': {"b": 2},
}


@pytest.mark.parametrize("blob", SPOILT, ids=lambda blob: repr(blob)[:30])
def test_a_row_that_another_program_spoilt_blocks_no_other(
    address: Address, blob: bytes | str | int
) -> None:
    key, other = Key("p", "a"), Key("p", "b")
    with contextlib.closing(open_backend(address)) as backend:
        backend.put([Item(key=key, fields={}), Item(key=other, fields={"n": 1})])
        with contextlib.closing(sqlite3.connect(address.path, isolation_level=None)) as database:
            database.execute("UPDATE items SET fields = ? WHERE sort = 'a'", (blob,))
        assert backend.get([key], consistent=True)[key].fields == SPOILT[blob]
        page = backend.query("p", after=None, limit=5)
        assert [item.fields for item in page.items] == [SPOILT[blob], {"n": 1}]
        written = backend.update(key, Change(set={"a": 1}))
        assert written.fields == {**SPOILT[blob], "a": 1}
        assert backend.get([key], consistent=True)[key].fields == written.fields
