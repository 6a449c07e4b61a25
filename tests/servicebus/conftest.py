"""Fixtures of the Service Bus stand-in's tests: the SDK on a server of this test process."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from localstack.servers import Endpoint
from tests.servicebus.bus import Bus

# The SDK tells of every link that is refused; here most are refused on purpose.
logging.getLogger("azure.servicebus").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def shared_bus(servicebus: Endpoint) -> Iterator[Bus]:
    """The SDK's clients, opened once."""
    admin = re.search(r"admin=[^&]*:(\d+)", servicebus.environment["CLOUDQ_BROKER"])
    assert admin is not None
    bus = Bus(servicebus.port, int(admin[1]))
    yield bus
    bus.close()


@pytest.fixture
def bus(shared_bus: Bus) -> Iterator[Bus]:
    """A server without faults; what a test opens is closed after it."""
    shared_bus.control("DELETE", "_faults")
    yield shared_bus
    shared_bus.control("DELETE", "_faults")
    shared_bus.settle()
