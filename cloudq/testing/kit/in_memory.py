"""Runs an app on services in memory for a block, whatever it is configured for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from cloudq import settings
from cloudq.app import CloudQ
from cloudq.driver import BackendDriver, BrokerDriver, VirtualTime
from cloudq.driver import loader as plugins
from cloudq.driver.immutable import immutable
from cloudq.errors import ConfigurationError
from cloudq.messages.message import new_id
from cloudq.runtime import Services
from cloudq.testing.kit.clock import VirtualClock
from cloudq.testing.kit.faults import FaultPlan


@immutable
class InMemoryServices(Services):
    """In-memory services of an app under test, with the test's clock and faults if any."""

    time: VirtualClock | None = None
    faults: FaultPlan | None = None


def in_memory_services(app: CloudQ) -> InMemoryServices | None:
    """Return the app's in-memory services; None if it uses its own."""
    services = app.runtime.services
    return services if isinstance(services, InMemoryServices) else None


@contextmanager
def in_memory(
    app: CloudQ,
    *,
    clock: VirtualClock | None = None,
    faults: FaultPlan | None = None,
    **values: Any,
) -> Generator[CloudQ]:
    """Put the app on a broker and a store in memory, new and empty, for a block.

    An app without a result store stays without one. `clock` makes it go by virtual time,
    `faults` stands before the drivers, `values` are settings for the block. Afterwards the app is
    as it was, and what it had opened before is opened again at its next use.
    Raises `ConfigurationError` for settings that cannot be.
    """
    url = f"memory://{new_id()}"
    runtime = app.runtime
    services, conf = runtime.services, runtime.conf
    backend = "none" if conf.backend_url is None else url
    given: dict[str, Any] = {"broker": url, "backend": backend, **settings.plain_names(values)}
    inside = settings.load(conf.values() | given)
    opened: list[VirtualTime] = []
    app.close()
    runtime.conf = inside
    runtime.services = _services(clock, faults, opened)
    try:
        yield app
    finally:
        app.close()
        if clock is not None:
            for driver in opened:
                clock.leave(driver)
        runtime.services, runtime.conf = services, conf


def _no_sleep(seconds: float) -> None:
    """Return at once: the test moves the clock."""


def _services(
    clock: VirtualClock | None, faults: FaultPlan | None, opened: list[VirtualTime]
) -> InMemoryServices:
    def timed(driver: Any, url: str) -> None:
        if clock is None:
            return
        if not isinstance(driver, VirtualTime):
            driver.close()
            raise ConfigurationError(f"{url} cannot go by virtual time: use memory://")
        clock.drive(driver)
        opened.append(driver)

    def open_broker(url: str) -> BrokerDriver:
        driver = plugins.open_broker(url)
        timed(driver, url)
        return driver if faults is None else faults.broker(driver)

    def open_backend(url: str) -> BackendDriver:
        driver = plugins.open_backend(url)
        timed(driver, url)
        return driver if faults is None else faults.store(driver)

    if clock is None:
        return InMemoryServices(faults=faults, open_broker=open_broker, open_backend=open_backend)
    return InMemoryServices(
        clock=clock,
        sleep=_no_sleep,
        time=clock,
        faults=faults,
        open_broker=open_broker,
        open_backend=open_backend,
    )
