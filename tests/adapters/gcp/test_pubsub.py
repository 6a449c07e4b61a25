"""Pub/Sub passes the contracts, standard, ordered and exactly once, over Google's own emulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from cloudq_gcp.client import GRPC
from cloudq_gcp.pubsub import PubSub, PubSubWithTasks, open_broker
from localstack.servers import Endpoint
from tests.adapters.gcp.cloud_tasks_server import CloudTasksServer, serving_tasks
from tests.servers import skip_gap, unique

PROJECT = "cloudq-tests"

# Part of a test's name -> what the emulator does otherwise.
GAPS = {
    "ExactlyOnceByHttp": {
        "a_lost_lease_settles_nothing": "by HTTP the emulator names no lease that was lost",
        "one_refused_element_leaves": "by HTTP the emulator names no lease that was lost",
    },
    "FifoAdmin": {
        "purged_messages_are_gone": "the emulator has no seek on ordered subscriptions",
        "received_too_often": "the emulator's ordered subscriptions hang instead of dead-lettering",
    },
    "Ordering": {
        "a_released_message_keeps": "the emulator puts a nacked message behind its successors"
    },
}


@pytest.fixture
def address(pubsub: Endpoint, request: pytest.FixtureRequest) -> Address:
    """The URL of a project of the emulator."""
    for part, gaps in GAPS.items():
        if part in request.cls.__name__:
            skip_gap(request, gaps)
    return Address(scheme="pubsub", host=PROJECT, options={"emulator": f"127.0.0.1:{pubsub.port}"})


class BrokerFixtures:
    suffix: ClassVar[str] = ""
    own_lease: ClassVar[float] = 30
    options: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture
    def address(self, address: Address) -> Address:
        return Address(
            scheme=address.scheme, host=address.host, options={**address.options, **self.options}
        )

    @pytest.fixture
    def driver(self, address: Address) -> Iterator[PubSub]:
        driver = open_broker(address)
        yield driver
        driver.close()

    @pytest.fixture
    def another(self, address: Address) -> Iterator[PubSub]:
        another = open_broker(address)
        yield another
        another.close()

    @pytest.fixture
    def queue(self, driver: PubSub) -> Iterator[str]:
        name = unique() + self.suffix
        driver.create(name, lease=self.own_lease, max_deliveries=10)
        yield name
        driver.delete(name)

    @pytest.fixture
    def new_queue(self, driver: PubSub) -> Iterator[str]:
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
    reports_lost_leases = False


class TestStandardWithOwnLeases(BrokerFixtures, BrokerContract):
    """A pull leases for as long as most tests want."""

    own_lease = HELD
    reports_lost_leases = False


class TestExactlyOnceWithOwnLeases(BrokerFixtures, BrokerContract):
    own_lease = HELD
    options: ClassVar[Mapping[str, str]] = {"exactly_once": "true"}


class TestExactlyOnce(BrokerFixtures, BrokerContract):
    options: ClassVar[Mapping[str, str]] = {"exactly_once": "true"}


class TestFifo(BrokerFixtures, BrokerContract):
    suffix = ".fifo"
    reports_lost_leases = False


class TestFifoOrdering(BrokerFixtures, OrderingContract):
    own_lease = HELD
    suffix = ".fifo"


class TestExactlyOnceOrdering(BrokerFixtures, OrderingContract):
    suffix = ".fifo"
    options: ClassVar[Mapping[str, str]] = {"exactly_once": "true"}


class TestStandardAdmin(BrokerFixtures, QueueAdminContract):
    fewest_deliveries = 5


class TestFifoAdmin(BrokerFixtures, QueueAdminContract):
    suffix = ".fifo"
    fewest_deliveries = 5


class TestExactlyOnceAdmin(BrokerFixtures, QueueAdminContract):
    fewest_deliveries = 5
    options: ClassVar[Mapping[str, str]] = {"exactly_once": "true"}


class ByHttp(BrokerFixtures):
    """In a process that was forked from one that used gRPC."""

    @pytest.fixture(autouse=True)
    def grpc_is_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GRPC, "is_lost", True)


class TestStandardByHttp(ByHttp, BrokerContract):
    reports_lost_leases = False


class TestExactlyOnceByHttp(ByHttp, BrokerContract):
    options: ClassVar[Mapping[str, str]] = {"exactly_once": "true"}


class TestFifoOrderingByHttp(ByHttp, OrderingContract):
    suffix = ".fifo"


class TestStandardAdminByHttp(ByHttp, QueueAdminContract):
    fewest_deliveries = 5


@pytest.fixture(scope="module")
def cloud_tasks(pubsub: Endpoint) -> Iterator[CloudTasksServer]:
    """A Cloud Tasks of our own: Google has no emulator of it."""
    with serving_tasks() as server:
        yield server


class TasksFixtures(BrokerFixtures):
    @pytest.fixture
    def address(self, address: Address, cloud_tasks: CloudTasksServer) -> Address:
        options = {
            "tasks": "europe-west1/cloudq",
            "tasks_endpoint": f"127.0.0.1:{cloud_tasks.port}",
        }
        return Address(
            scheme=address.scheme, host=address.host, options={**address.options, **options}
        )

    @pytest.fixture
    def driver(self, address: Address) -> Iterator[PubSubWithTasks]:
        driver = open_broker(address)
        assert isinstance(driver, PubSubWithTasks)
        yield driver
        driver.close()

    @pytest.fixture
    def another(self, address: Address) -> Iterator[PubSubWithTasks]:
        another = open_broker(address)
        assert isinstance(another, PubSubWithTasks)
        yield another
        another.close()

    @pytest.fixture
    def other_queue(self, driver: PubSubWithTasks) -> Iterator[str]:
        name = unique("other") + self.suffix
        driver.create(name, lease=30, max_deliveries=10)
        yield name
        driver.delete(name)


class TestTasks(TasksFixtures, BrokerContract):
    reports_lost_leases = False


class TestTasksAdmin(TasksFixtures, QueueAdminContract):
    fewest_deliveries = 5


class TestTasksScheduling(TasksFixtures, SchedulingContract):
    pass


class TestTasksFifoScheduling(TasksFixtures, SchedulingContract):
    suffix = ".fifo"
