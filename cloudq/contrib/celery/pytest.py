"""Fixtures under the names of `celery.contrib.pytest`: an app in memory, and a worker beside it.

    pytest_plugins = ("cloudq.contrib.celery.pytest",)

    def test_add(celery_app, celery_worker):
        @celery_app.task
        def add(a, b):
            return a + b

        assert add.delay(2, 2).get(timeout=5) == 4

The fixtures that are there to be overridden are Celery's, and `@pytest.mark.celery(...)` changes
the settings of one test's app.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import pytest

from cloudq.app.shared_task import APPS
from cloudq.contrib.celery.app import Celery
from cloudq.contrib.celery.testing import TestWorker, start_worker
from cloudq.errors import ConfigurationError
from cloudq.messages.message import new_id


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "celery(**settings): override settings of celery_app for one test"
    )


@pytest.fixture(scope="session")
def celery_config() -> dict[str, Any]:
    """The settings of `celery_app`; override this fixture to change them."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> dict[str, Any]:
    """The keyword arguments of `celery_app`; override this fixture to change them."""
    return {}


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """The modules that a worker imports; override this fixture to name some."""
    return ()


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """The tasks written as classes that the session's app gets; override this fixture."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """The pool of the worker, "solo" or "threads"; override this fixture to change it."""
    return "solo"


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """The keyword arguments of `start_worker`; override this fixture to change them."""
    return {}


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """False. The library configures no logging, and pytest shows what is logged."""
    return False


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """False. A trap for the use of a current app is refused: shared tasks need one."""
    return False


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for one test, in memory unless `celery_config` says otherwise."""
    config = {**celery_config, **_marked(request)}
    yield from _app(config, celery_parameters, trapped=use_celery_app_trap)


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app shared by all tests; it is the current one."""
    config = {**celery_config, **_marked(request)}
    for app in _app(config, celery_parameters, trapped=use_celery_app_trap):
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        try:
            yield app
        finally:
            APPS.set_default(None)
            APPS.set_current(None)


@pytest.fixture
def celery_worker(
    celery_app: Celery,
    celery_includes: Sequence[str],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorker]:
    """A worker of `celery_app`, in a thread."""
    _include(celery_includes)
    with start_worker(celery_app, pool=celery_worker_pool, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Celery,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorker]:
    """A worker of `celery_session_app`, in a thread."""
    _include(celery_includes)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with start_worker(
        celery_session_app, pool=celery_worker_pool, **celery_worker_parameters
    ) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> Iterator[None]:
    """Make `celery_app` the current app for one test."""
    celery_app.set_current()
    yield
    APPS.set_current(None)


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    mark = request.node.get_closest_marker("celery")
    if mark is None:
        return {}
    if mark.args:
        raise pytest.UsageError("@pytest.mark.celery takes settings by name: celery(timezone=...)")
    return dict(mark.kwargs)


def _include(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(module)


def _app(
    config: Mapping[str, Any], parameters: Mapping[str, Any], *, trapped: bool
) -> Iterator[Celery]:
    if trapped:
        raise ConfigurationError(
            "use_celery_app_trap: shared tasks and current_app need a current app, so it cannot "
            "be trapped: leave the fixture as it is"
        )
    made: dict[str, Any] = {
        "main": "celery.tests",
        "broker": config.get("broker_url", f"memory://{new_id()}"),
        **parameters,
    }
    with Celery(**made) as app:
        app.conf.update(config)
        app.load()
        yield app
