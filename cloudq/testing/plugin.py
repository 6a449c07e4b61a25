"""The pytest plugin: fixtures for tests of apps; nothing of cloudq is imported before one is used.

It is loaded at every start of pytest wherever cloudq is installed, also for projects that test
something else: hence the imports inside of the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cloudq.app import CloudQ
    from cloudq.testing.kit.clock import VirtualClock
    from cloudq.testing.kit.faults import FaultPlan
    from cloudq.testing.kit.workers import Worker

# What a test that has one of these is about happens between the call and the worker.
_OVER_A_BROKER = frozenset({"cloudq_worker", "cloudq_clock", "cloudq_faults"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini setting `cloudq_app`."""
    parser.addini("cloudq_app", 'the app of the fixture cloudq_app: "package.module:app"')


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `cloudq`."""
    config.addinivalue_line(
        "markers",
        'cloudq(app="package.module:app", threads=4, **settings): the app of the fixture '
        "cloudq_app, the threads of cloudq_worker, and settings above those of cloudq_config",
    )


@pytest.fixture
def cloudq_config() -> dict[str, Any]:
    """Settings of `cloudq_app`; define a fixture of this name to change them."""
    return {}


@pytest.fixture
def cloudq_clock() -> VirtualClock:
    """The time that `cloudq_app` goes by; it stands still until the test advances it."""
    from cloudq.testing.kit.clock import VirtualClock

    return VirtualClock()


@pytest.fixture
def cloudq_faults() -> FaultPlan:
    """The faults in the services of `cloudq_app`: none, until the test declares some."""
    from cloudq.testing.kit.faults import FaultPlan

    return FaultPlan()


@pytest.fixture
def cloudq_app(request: pytest.FixtureRequest, cloudq_config: dict[str, Any]) -> Iterator[CloudQ]:
    """The app under test, on services in memory that are new and empty for each test.

    It is the one that the marker `cloudq(app=...)` or the ini setting `cloudq_app` names, else a
    new one without tasks. Its tasks run at the call, unless the test has a worker, a clock or
    faults: then they go through the broker.
    """
    from cloudq.testing.kit.in_memory import in_memory

    options = _options(request)
    used = set(request.fixturenames)
    clock = request.getfixturevalue("cloudq_clock") if "cloudq_clock" in used else None
    faults = request.getfixturevalue("cloudq_faults") if "cloudq_faults" in used else None
    marked = {name: value for name, value in options.items() if name not in ("app", "threads")}
    values = {"task_always_eager": not used & _OVER_A_BROKER, **cloudq_config, **marked}
    with in_memory(_app(request, options), clock=clock, faults=faults, **values) as app:
        yield app


@pytest.fixture
def cloudq_worker(request: pytest.FixtureRequest, cloudq_app: CloudQ) -> Iterator[Worker]:
    """A worker for `cloudq_app`, in threads of this process; it is stopped after the test."""
    from cloudq.testing.kit.workers import Worker

    with Worker(cloudq_app, threads=_options(request).get("threads", 4)) as running:
        yield running


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The arguments of the markers, the nearest one's above the others'."""
    found: dict[str, Any] = {}
    for marker in request.node.iter_markers("cloudq"):
        if marker.args:
            raise pytest.UsageError('@pytest.mark.cloudq takes names only: cloudq(app="mod:app")')
        found = dict(marker.kwargs) | found
    return found


def _app(request: pytest.FixtureRequest, options: dict[str, Any]) -> CloudQ:
    from cloudq.app import CloudQ
    from cloudq.app.loading import load_app

    named = options.get("app") or request.config.getini("cloudq_app")
    if not named:
        return CloudQ("test", broker="memory://")
    if isinstance(named, CloudQ):
        return named
    return load_app(str(named), {})
