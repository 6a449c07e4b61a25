"""The SQLite broker and backend pass the contracts."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudq.driver import Address
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
    pass


class TestSQLiteUpdate(BackendFixtures, UpdateContract):
    pass
