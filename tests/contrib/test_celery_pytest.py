"""The pytest plugin under Celery's names: its marks, and the fixtures that users override."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudq import ConfigurationError
from cloudq.contrib.celery import Celery
from cloudq.contrib.celery.testing import start_worker
from cloudq.testing.waiting import PATIENCE

pytest_plugins = ["pytester"]

_CONFTEST = """
import pytest
pytest_plugins = ("cloudq.contrib.celery.pytest",)

@pytest.fixture(scope="session")
def celery_config():
    return {"broker_url": "memory://own", "result_backend": "cache+memory://", "task_time_limit": 9}

@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"queues": ("celery", "high"), "perform_ping_check": False, "concurrency": 2}

@pytest.fixture(scope="session")
def celery_includes():
    return ["included"]

@pytest.fixture(scope="session")
def celery_class_tasks():
    from cloudq.contrib.celery import Task
    class Double(Task):
        name = "double"
        def run(self, a):
            return 2 * a
    return [Double]
"""
_TESTS = """
import pytest
from cloudq.contrib.celery import current_app, shared_task

@pytest.mark.celery(task_always_eager=True, task_time_limit=3)
def test_marked(celery_app):
    @celery_app.task
    def work():
        return 1
    assert work.delay().get(timeout=1) == 1
    assert celery_app.conf.task_time_limit == 3

@pytest.mark.celery(timezone="Europe/Vienna")
class TestMarked:
    def test_of_the_class(self, celery_app):
        assert (str(celery_app.conf.timezone), celery_app.conf.task_time_limit) == (
            "Europe/Vienna", 9,
        )

def test_worker(celery_app, celery_worker):
    @celery_app.task
    def work(a):
        return a
    celery_worker.reload()
    assert work.apply_async((5,), queue="high").get(timeout=20) == 5
    assert work.delay(6).get(timeout=20) == 6
    import sys
    assert "included" in sys.modules
    with open("included.py", "w") as file:
        file.write("WORD = 2")
    celery_worker.reload(["included"], reload=True)
    assert sys.modules["included"].WORD == 2

def test_session(celery_session_app, celery_session_worker):
    @shared_task(name="shared.one")
    def one():
        return 1
    assert current_app == celery_session_app
    assert one.delay().get(timeout=20) == 1
    assert celery_session_app.tasks["double"].delay(4).get(timeout=20) == 8

def test_current(celery_app, depends_on_current_app):
    assert current_app == celery_app
"""


def test_marks_and_overridden_fixtures_take_effect(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDQ_BROKER", raising=False)
    pytester.makeconftest(_CONFTEST)
    pytester.makepyfile(_TESTS)
    pytester.makepyfile(included="WORD = 1  # to be written again")
    ran = pytester.runpytest_subprocess("-p", "no:xdist", "--strict-markers", "-q")
    ran.assert_outcomes(passed=5)


def test_a_worker_may_be_started_by_hand(tmp_path: Path) -> None:
    app = Celery("shop", broker="memory://by-hand")
    work = app.task(name="work")(len)
    with start_worker(app, perform_ping_check=False, queues="celery,high") as worker:
        assert work.apply_async(("abc",), queue="high").get(timeout=PATIENCE) == 3
        assert worker.hostname
    with pytest.raises(ConfigurationError, match="gevent"), start_worker(app, pool="gevent"):
        pass
    with pytest.raises(ConfigurationError, match="consumer"), start_worker(app, consumer=object):
        pass
    with pytest.raises(KeyError), start_worker(app):
        raise KeyError
