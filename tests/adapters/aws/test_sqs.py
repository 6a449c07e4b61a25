"""SQS passes the contracts, standard and FIFO, over a local server and over moto."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import ClassVar

import pytest
from moto import mock_aws

from cloudq.driver import Address
from cloudq.testing import BrokerContract, OrderingContract, QueueAdminContract
from cloudq_aws.sqs import SQS, open_broker
from tests.servers import skip_gap, unique

# Part of a test's name -> what a stand-in does otherwise; ministack runs them all.
LOST_LEASES = {
    "lost_lease": "it lets a lost lease settle, which SQS does not rule out",
    "one_refused_element": "it lets a lost lease settle, which SQS does not rule out",
}
GAPS: dict[str, dict[str, str]] = {
    "ministack": {},
    "other": LOST_LEASES,
    "moto": {
        **LOST_LEASES,
        "two_consumers": "moto hands one message to two threads that ask at once",
        "many_threads": "moto hands one message to two threads that ask at once",
        "dedup_key_keeps_a_second": "moto forgets a deduplication id with its message",
        "a_wait_ends_when_a_message_is_released": "moto's long poll does not see a release",
    },
}

# Another server, such as that of `localstack/up.py --localstack`, takes part by its URL.
OTHER = os.environ.get("CLOUDQ_TEST_SQS_ENDPOINT")


@pytest.fixture(scope="module", params=["ministack", "moto", *(["other"] if OTHER else [])])
def drivers(request: pytest.FixtureRequest) -> Iterator[tuple[str, SQS, SQS]]:
    """Each stand-in for SQS with two drivers for all tests, since to make a client takes 0.2 s."""
    with ExitStack() as stack:
        address = Address(scheme="sqs")
        if request.param == "moto":
            stack.enter_context(mock_aws())
        else:
            url = OTHER if request.param == "other" else request.getfixturevalue("aws").url
            address = Address(scheme="sqs", options={"endpoint_url": url})
        driver, another = (stack.enter_context(closing(open_broker(address))) for _ in range(2))
        yield request.param, driver, another


class BrokerFixtures:
    suffix: ClassVar[str] = ""

    @pytest.fixture
    def driver(self, request: pytest.FixtureRequest, drivers: tuple[str, SQS, SQS]) -> SQS:
        skip_gap(request, GAPS[drivers[0]])
        return drivers[1]

    @pytest.fixture
    def another(self, drivers: tuple[str, SQS, SQS]) -> SQS:
        return drivers[2]

    @pytest.fixture
    def queue(self, driver: SQS) -> Iterator[str]:
        name = unique() + self.suffix
        driver.create(name, lease=30, max_deliveries=10)
        yield name
        driver.delete(name)

    @pytest.fixture
    def new_queue(self, driver: SQS) -> Iterator[str]:
        name = unique("new") + self.suffix
        yield name
        if name in driver.list(name):
            driver.delete(name)

    @pytest.fixture
    def missing_queue(self) -> str:
        return unique("missing") + self.suffix

    @pytest.fixture
    def ordered_queue(self, queue: str) -> str:
        return queue


class TestStandard(BrokerFixtures, BrokerContract):
    pass


class TestFifo(BrokerFixtures, BrokerContract):
    suffix = ".fifo"


class TestFifoOrdering(BrokerFixtures, OrderingContract):
    suffix = ".fifo"


class TestStandardAdmin(BrokerFixtures, QueueAdminContract):
    pass


class TestFifoAdmin(BrokerFixtures, QueueAdminContract):
    suffix = ".fifo"
