import pytest
from weather.celery import app

pytest_plugins = ("celery.contrib.pytest",)


@pytest.fixture(scope="session")
def celery_config():
    return {
        "broker_url": "memory://",
        "result_backend": "cache+memory://",
        "task_default_queue": "weather",
    }


@pytest.fixture(scope="session")
def celery_includes():
    return ["weather.archive.tasks", "weather.reports.tasks", "weather.stations.tasks"]


@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"perform_ping_check": False, "shutdown_timeout": 30}


@pytest.fixture
def ledger_file(tmp_path, monkeypatch):
    from weather import ledger
    from weather.conf import settings

    settings.DEBUG  # noqa: B018 (loads them)
    monkeypatch.setattr(settings._module, "LEDGER", str(tmp_path / "ledger.db"))
    monkeypatch.setattr(ledger, "_ledger", None)


@pytest.fixture
def eager(ledger_file):
    before = app.conf.task_always_eager, app.conf.task_eager_propagates
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    app.set_current()
    yield
    app.conf.task_always_eager, app.conf.task_eager_propagates = before
