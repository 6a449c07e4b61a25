"""Fixtures of the Service Bus stand-in's tests: the SDK on a server of this test process."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from localstack.servers import Endpoint
from tests.localstack.servicebus.bus import Bus

# The SDK tells of every link that is refused; here most are refused on purpose.
logging.getLogger("azure.servicebus").setLevel(logging.CRITICAL)


class Brisk:
    """The module `time`, with short sleeps only."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not for long."""
        time.sleep(min(seconds, 0.01))


@pytest.fixture(scope="package", autouse=True)
def brisk() -> Iterator[None]:
    """The SDK sleeps 50 ms between the frames it reads while it opens a link, and up to 1 s when it
    closes one. That is most of what these tests would wait for; nothing else of it is touched.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in ("_servicebus_sender", "_servicebus_receiver", "_pyamqp.client"):
            patch.setattr(f"azure.servicebus.{module}.time", Brisk())
        yield


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
