"""Service Bus passes the contracts, plain and with sessions, over a server that speaks AMQP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from cloudq.driver import Address
from cloudq.testing import (
    BrokerContract,
    OrderingContract,
    QueueAdminContract,
    SchedulingContract,
)
from cloudq.testing.waiting import HELD
from cloudq_azure.servicebus import ServiceBus, open_broker
from localstack.servers import Endpoint
from tests.servers import unique


def address_of(endpoint: Endpoint, **options: str) -> Address:
    """The URL of a stand-in, taken apart."""
    url = endpoint.environment["CLOUDQ_BROKER"]
    found = re.fullmatch(r"servicebus://(.+)\?emulator=true&admin=(.+)", url)
    assert found is not None
    given = {"emulator": "true", "admin": found[2], **options}
    return Address(scheme="servicebus", host=found[1], options=given, url=url)


@pytest.fixture(scope="session")
def driver(servicebus: Endpoint) -> Iterator[ServiceBus]:
    """One for all tests: closing takes the SDK a second, and queues are a test's own."""
    driver = open_broker(address_of(servicebus))
    yield driver
    driver.close()


@pytest.fixture(scope="session")
def another(servicebus: Endpoint) -> Iterator[ServiceBus]:
    """A second one."""
    another = open_broker(address_of(servicebus))
    yield another
    another.close()


class BrokerFixtures:
    suffix: ClassVar[str] = ""

    @pytest.fixture
    def driver(self, request: pytest.FixtureRequest, driver: ServiceBus) -> ServiceBus:
        return driver

    @pytest.fixture
    def another(self, another: ServiceBus) -> ServiceBus:
        return another

    @pytest.fixture
    def leasing(self, driver: ServiceBus) -> Iterator[Callable[[float], str]]:
        made: list[str] = []

        def make(lease: float) -> str:
            made.append(unique() + self.suffix)
            driver.create(made[-1], lease=lease, max_deliveries=10)
            return made[-1]

        yield make
        for name in made:
            driver.delete(name)

    @pytest.fixture
    def queue(self, leasing: Callable[[float], str]) -> str:
        return leasing(HELD)

    @pytest.fixture
    def other_queue(self, leasing: Callable[[float], str]) -> str:
        return leasing(HELD)

    @pytest.fixture
    def ordered_queue(self, queue: str) -> str:
        return queue

    @pytest.fixture
    def new_queue(self, driver: ServiceBus) -> Iterator[str]:
        name = unique("new") + self.suffix
        yield name
        if name in driver.list(name):
            driver.delete(name)

    @pytest.fixture
    def missing_queue(self) -> str:
        return unique("missing") + self.suffix


class TestPlain(BrokerFixtures, BrokerContract):
    pass


class TestSessions(BrokerFixtures, BrokerContract):
    suffix = ".fifo"


class TestOrdering(BrokerFixtures, OrderingContract):
    suffix = ".fifo"


class TestPlainAdmin(BrokerFixtures, QueueAdminContract):
    counts_leased_as_ready = True


class TestSessionsAdmin(BrokerFixtures, QueueAdminContract):
    counts_leased_as_ready = True
    suffix = ".fifo"


class TestPlainScheduling(BrokerFixtures, SchedulingContract):
    schedules_releases = True


class TestSessionsScheduling(BrokerFixtures, SchedulingContract):
    suffix = ".fifo"
