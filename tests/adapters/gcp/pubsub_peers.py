"""Pub/Sub's emulator as tests meet it: behind a wire, by a driver, and by the SDK's own clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import grpc
import pytest
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport
from google.pubsub_v1.types import PubsubMessage, Subscription

from cloudq.driver import Address, Code
from cloudq_gcp.pubsub import PubSub, open_broker
from localstack.servers import Endpoint
from tests.adapters.gcp.grpc_wire import Wire, wired
from tests.servers import unique

PROJECT = "cloudq-tests"
TOPICS = f"projects/{PROJECT}/topics"
SUBSCRIPTIONS = f"projects/{PROJECT}/subscriptions"


@contextmanager
def opened(address: Address, **options: str) -> Iterator[PubSub]:
    """A driver for the length of the block."""
    driver = open_broker(replace(address, options={**address.options, **options}))
    try:
        yield driver
    finally:
        driver.close()


def code_of(driver: PubSub, call: Callable[[], object]) -> Code:
    """The code of the error that a call raises."""
    with pytest.raises(Exception) as caught:
        call()
    return driver.error_code(caught.value)


class Raw:
    """The SDK's own clients on the emulator."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.topics = PublisherClient(transport=PublisherGrpcTransport(channel=self.channel))
        self.subscriptions = SubscriberClient(
            transport=SubscriberGrpcTransport(channel=self.channel)
        )

    def topic(self, name: str) -> None:
        self.topics.create_topic(name=f"{TOPICS}/{name}")

    def subscription(self, name: str, topic: str) -> None:
        self.subscriptions.create_subscription(
            name=f"{SUBSCRIPTIONS}/{name}", topic=f"{TOPICS}/{topic}"
        )

    def found(self, name: str) -> Subscription:
        return self.subscriptions.get_subscription(subscription=f"{SUBSCRIPTIONS}/{name}")

    def publish(self, name: str, message: PubsubMessage) -> str:
        return self.topics.publish(topic=f"{TOPICS}/{name}", messages=[message]).message_ids[0]


class OnEmulator:
    """The fixtures of tests on the emulator."""

    @pytest.fixture
    def wire(self, pubsub: Endpoint) -> Iterator[Wire]:
        """A wire to the emulator."""
        with wired(f"127.0.0.1:{pubsub.port}") as wire:
            yield wire

    @pytest.fixture
    def address(self, wire: Wire) -> Address:
        """The URL of the emulator behind the wire."""
        options = {"emulator": f"127.0.0.1:{wire.port}"}
        return Address(scheme="pubsub", host=PROJECT, options=options)

    @pytest.fixture
    def driver(self, address: Address) -> Iterator[PubSub]:
        """A driver on the emulator."""
        with opened(address) as driver:
            yield driver

    @pytest.fixture(params=["", ".fifo"])
    def queue(self, driver: PubSub, wire: Wire, request: pytest.FixtureRequest) -> Iterator[str]:
        """A new queue with its dead letters, of each kind."""
        yield from _made(driver, wire, unique() + request.param)

    @pytest.fixture
    def plain(self, driver: PubSub, wire: Wire) -> Iterator[str]:
        """A new queue without order."""
        yield from _made(driver, wire, unique())

    @pytest.fixture
    def raw(self, pubsub: Endpoint) -> Iterator[Raw]:
        """The SDK on the emulator."""
        raw = Raw(pubsub.port)
        yield raw
        raw.channel.close()

    @pytest.fixture
    def bare(self, raw: Raw) -> str:
        """A queue that somebody made without dead letters."""
        name = unique("bare")
        raw.topic(name)
        raw.subscription(name, name)
        return name


def _made(driver: PubSub, wire: Wire, name: str) -> Iterator[str]:
    driver.create(name, lease=30, max_deliveries=5)
    wire.calls.clear()
    yield name
    wire.answer = None
    driver.delete(name)
