"""Fixtures under the names of `celery.contrib.pytest`: an app in memory, and a worker beside it.

    pytest_plugins = ("cloudq.contrib.celery.pytest",)

    def test_add(celery_app, celery_worker):
        @celery_app.task
        def add(a, b):
            return a + b

        assert add.delay(2, 2).get(timeout=5) == 4

`celery_config` and `celery_parameters` are overridden as for Celery: the settings of the app, and
the keyword arguments it is made with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudq.contrib.celery.app import Celery
from cloudq.messages.message import new_id
from cloudq.testing.kit.workers import Worker


@pytest.fixture(scope="session")
def celery_config() -> dict[str, Any]:
    """The settings of `celery_app`; override this fixture to change them."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> dict[str, Any]:
    """The keyword arguments of `celery_app`; override this fixture to change them."""
    return {}


@pytest.fixture
def celery_app(
    celery_config: dict[str, Any], celery_parameters: dict[str, Any]
) -> Iterator[Celery]:
    """An app for one test, in memory unless `celery_config` says otherwise."""
    yield from _app(celery_config, celery_parameters)


@pytest.fixture(scope="session")
def celery_session_app(
    celery_config: dict[str, Any], celery_parameters: dict[str, Any]
) -> Iterator[Celery]:
    """An app shared by all tests."""
    yield from _app(celery_config, celery_parameters)


@pytest.fixture
def celery_worker(celery_app: Celery) -> Iterator[Worker]:
    """A worker of `celery_app`, in a thread."""
    yield from _worker(celery_app)


@pytest.fixture(scope="session")
def celery_session_worker(celery_session_app: Celery) -> Iterator[Worker]:
    """A worker of `celery_session_app`, in a thread."""
    yield from _worker(celery_session_app)


def _app(config: dict[str, Any], parameters: dict[str, Any]) -> Iterator[Celery]:
    made: dict[str, Any] = {
        "main": "celery.tests",
        "broker": config.get("broker_url", f"memory://{new_id()}"),
        **parameters,
    }
    with Celery(**made) as app:
        app.conf.update(config)
        app.load()
        yield app


def _worker(app: Celery) -> Iterator[Worker]:
    with Worker(app) as running:
        yield running
