"""The SQLite broker and backend pass the contracts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudq.driver import Address
from cloudq.testing import (
    BackendContract,
    BrokerContract,
    OrderingContract,
    QueueAdminContract,
    UpdateContract,
)
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_backend import SQLiteBackend
from cloudq_local.sqlite_broker import SQLiteBroker


@pytest.fixture
def address(tmp_path: Path) -> Address:
    path = str(tmp_path / "queue.db")
    return Address(scheme="sqlite", path=path, options={"synchronous": "normal"})


class BrokerFixtures:
    tick = 0.15
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
    def new_queue(self) -> str:
        return "new"


class TestSQLiteBroker(BrokerFixtures, BrokerContract):
    pass


class TestSQLiteOrdering(BrokerFixtures, OrderingContract):
    pass


class TestSQLiteAdmin(BrokerFixtures, QueueAdminContract):
    pass


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
