"""The in-process broker and backend pass the contracts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from cloudq.driver import Address, Item, Key
from cloudq.errors import ConfigurationError
from cloudq.testing import (
    BackendContract,
    BrokerContract,
    OrderingContract,
    QueueAdminContract,
    SchedulingContract,
    UpdateContract,
    collect,
    outgoing,
)
from cloudq_local.memory import open_backend, open_broker
from cloudq_local.memory_backend import MemoryBackend
from cloudq_local.memory_broker import MemoryBroker


@pytest.fixture
def address() -> Address:
    return Address(scheme="memory", host=uuid.uuid4().hex)


class BrokerFixtures:
    tick = 0.3
    creates_queues = True

    @pytest.fixture
    def driver(self, address: Address) -> Iterator[MemoryBroker]:
        driver = open_broker(address)
        yield driver
        driver.close()

    @pytest.fixture
    def another(self, address: Address) -> Iterator[MemoryBroker]:
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


class TestMemoryBroker(BrokerFixtures, BrokerContract):
    pass


class TestMemoryOrdering(BrokerFixtures, OrderingContract):
    pass


class TestMemoryAdmin(BrokerFixtures, QueueAdminContract):
    pass


class TestMemoryScheduling(BrokerFixtures, SchedulingContract):
    pass


class BackendFixtures:
    expiry = 0.2

    @pytest.fixture
    def driver(self, address: Address) -> Iterator[MemoryBackend]:
        driver = open_backend(address)
        yield driver
        driver.close()

    @pytest.fixture
    def another(self, address: Address) -> Iterator[MemoryBackend]:
        another = open_backend(address)
        yield another
        another.close()


class TestMemoryBackend(BackendFixtures, BackendContract):
    pass


class TestMemoryUpdate(BackendFixtures, UpdateContract):
    pass


def test_what_it_held_is_gone_when_the_last_driver_closes(address: Address) -> None:
    first, second = open_broker(address), open_broker(address)
    first.send("queue", [outgoing()])
    first.close()
    first.close()
    assert len(collect(second, "queue", 1, lease=0)) == 1
    second.close()
    third = open_broker(address)
    assert third.list() == []
    third.close()


def test_names_do_not_share(address: Address) -> None:
    mine, other = open_backend(address), open_backend(Address(scheme="memory", host="other"))
    mine.put([Item(key=Key("a"), fields={})])
    assert not other.get([Key("a")], consistent=True)
    mine.close()
    other.close()


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no option 'size': it takes none"):
        open_broker(Address(scheme="memory", options={"size": "1"}))
