"""The backend for Django 6's tasks keeps Django's promises, on memory and SQLite."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings

from cloudq import CloudQ
from cloudq.testing import drain, in_memory
from cloudq.testing.kit.clock import VirtualClock

pytestmark = pytest.mark.skipif(
    django.VERSION < (6,), reason=f"django.tasks is of Django 6, and this is {django.__version__}"
)
BACKEND = {"BACKEND": "cloudq.contrib.django.CloudQBackend"}
NAME = "tests.contrib.django_tasks"


def configured() -> None:
    """Configure Django, unless another test of this process has."""
    if not settings.configured:
        settings.configure(
            SECRET_KEY="x" * 50,
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        )
    if not import_module("django.apps").apps.ready:
        django.setup()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Any]:
    """A project on SQLite; the module of its tasks."""
    configured()
    override: Any = import_module("django.test.utils").override_settings
    with override(
        INSTALLED_APPS=["cloudq.contrib.django"],
        USE_TZ=True,
        CLOUDQ={"BROKER": f"sqlite:///{tmp_path}/q.db", "PRIORITY_QUEUES": ["mail", "default"]},
        TASKS={"default": {**BACKEND, "QUEUES": ["default", "mail"]}},
    ):
        sys.modules.pop(NAME, None)
        yield import_module(NAME)
        current().close()
    sys.modules.pop(NAME, None)


def current() -> CloudQ:
    return import_module("cloudq.contrib.django").app


@pytest.fixture
def told(project: Any) -> Iterator[list[tuple[str, str, str]]]:
    """Names of the signals that Django sent, each with the task's name and the status."""
    signals: Any = import_module("django.tasks.signals")
    found: list[tuple[str, str, str]] = []
    receivers: dict[str, Any] = {}
    for name in ("task_enqueued", "task_started", "task_finished"):

        def receive(sender: Any, task_result: Any, *, name: str = name, **more: Any) -> None:
            assert sender.__name__ == "CloudQBackend"
            found.append((name, task_result.task.name, str(task_result.status)))

        receivers[name] = receive
        getattr(signals, name).connect(receive)
    yield found
    for name, receive in receivers.items():
        getattr(signals, name).disconnect(receive)


def test_a_result_goes_from_ready_to_successful(project: Any) -> None:
    result = project.add.enqueue(1, y=2)
    assert (result.status, result.args, result.kwargs) == ("READY", [1], {"y": 2})
    assert result.enqueued_at is not None
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    drain(current())
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 3, 1)
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert project.add.get_result(result.id) == result


def test_a_failure_has_its_error(project: Any) -> None:
    result = project.fail.enqueue("gone")
    drain(current())
    result.refresh()
    assert result.status == "FAILED"
    assert result.errors[0].exception_class is LookupError
    assert "gone" in result.errors[0].traceback
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


def test_a_value_that_json_has_not_fails_the_task(project: Any) -> None:
    result = project.odd.enqueue()
    drain(current())
    result.refresh()
    assert result.errors[0].exception_class is TypeError


def test_arguments_that_json_has_not_are_refused_and_nothing_is_sent(project: Any) -> None:
    with pytest.raises(TypeError):
        project.add.enqueue(object(), 1)
    assert drain(current()) == []


def test_signals_tell_the_whole_way(project: Any, told: list[tuple[str, str, str]]) -> None:
    project.add.enqueue(1, 2)
    project.fail.enqueue("gone")
    drain(current())
    assert told == [
        ("task_enqueued", "add", "READY"),
        ("task_enqueued", "fail", "READY"),
        ("task_started", "add", "RUNNING"),
        ("task_finished", "add", "SUCCESSFUL"),
        ("task_started", "fail", "RUNNING"),
        ("task_finished", "fail", "FAILED"),
    ]


def test_a_revoked_task_has_failed_and_a_signal_says_so(
    project: Any, told: list[tuple[str, str, str]]
) -> None:
    result = project.add.enqueue(1, 2)
    current().AsyncResult(result.id).revoke()
    drain(current())
    result.refresh()
    assert result.status == "FAILED"
    assert result.errors[0].exception_class.__name__ == "TaskRevoked"
    assert told[-1] == ("task_finished", "add", "FAILED")


def test_coroutines_run_and_are_enqueued_from_coroutines(project: Any) -> None:
    async def main() -> Any:
        return await project.aadd.aenqueue(2, 3)

    result = asyncio.run(main())
    drain(current())

    async def read() -> Any:
        return await project.aadd.aget_result(result.id)

    assert asyncio.run(read()).return_value == 5


def test_a_task_gets_its_context(project: Any) -> None:
    result = project.told.enqueue("more")
    drain(current())
    result.refresh()
    assert result.return_value == [1, result.id, "RUNNING", ["more"], "more"]


def test_a_task_waits_for_its_time(project: Any) -> None:
    app, clock = current(), VirtualClock()
    with in_memory(app, clock=clock):
        due = datetime.fromtimestamp(
            app.runtime.clock() + 60, tz=import_module("zoneinfo").ZoneInfo("UTC")
        )
        result = project.add.using(run_after=due).enqueue(1, 2)
        assert result.task.run_after == due
        assert len(drain(app)) == 0
        clock.advance(61)
        assert len(drain(app)) == 1
        assert project.add.get_result(result.id).return_value == 3


def test_a_time_that_is_too_far_is_refused(project: Any) -> None:
    far = import_module("django.utils.timezone").now() + timedelta(days=5000)
    with pytest.raises(import_module("django.tasks.exceptions").InvalidTask, match="ten years"):
        project.add.using(run_after=far).enqueue(1, 2)


@pytest.mark.parametrize(("given", "made"), [(-100, 0), (-1, 2), (0, 5), (1, 7), (50, 8), (100, 9)])
def test_the_sign_of_a_priority_chooses_the_level(given: int, made: int) -> None:
    assert import_module("cloudq.contrib.django.task_backend").priority_of(given) == made


def test_a_priority_is_a_queue_and_a_queue_of_tasks_is_served(project: Any) -> None:
    app = current()
    assert {"mail-high", "mail", "mail-low", "default"} <= set(app.queues())
    project.mail.enqueue("a@example.com")
    project.mail.using(priority=-1).enqueue("b@example.com")
    with app.broker.asking("count", "mail") as admin:
        assert admin.stats("mail-high").ready == admin.stats("mail-low").ready == 1
    assert len(drain(app)) == 2


def test_what_the_settings_cannot_do_is_not_declared(project: Any) -> None:
    override: Any = import_module("django.test.utils").override_settings
    tasks: Any = import_module("django.tasks")
    backend = tasks.task_backends["default"]
    declared = "supports_defer", "supports_async_task", "supports_get_result", "supports_priority"
    assert [getattr(backend, name) for name in declared] == [True, True, True, True]
    with override(CLOUDQ={"BROKER": "memory://none", "BACKEND": "none"}):
        backend = tasks.task_backends["default"]
        assert [getattr(backend, name) for name in declared] == [True, True, False, False]
        with pytest.raises(import_module("django.tasks.exceptions").InvalidTask, match="priority"):
            project.add.using(priority=3)


def test_unknown_and_foreign_results_are_refused(project: Any) -> None:
    exceptions: Any = import_module("django.tasks.exceptions")
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        project.add.get_result("0198f1c2-7d2e-7c3a-9b1e-0c5d3f6a7b88")
    result = project.mail.enqueue("a@example.com")
    with pytest.raises(exceptions.TaskResultMismatch):
        project.add.get_result(result.id)
    with pytest.raises(exceptions.InvalidTask, match="not valid"):
        project.add.using(queue_name="nowhere")


def test_an_eager_app_has_the_result_at_once(project: Any) -> None:
    current().configure(task_always_eager=True)
    result = project.add.enqueue(1, 2)
    assert result.return_value == 3
    assert project.add.get_result(result.id).return_value == 3


def test_a_task_and_its_result_are_pickled(project: Any) -> None:
    result = project.mail.enqueue("a@example.com")
    assert pickle.loads(pickle.dumps(result)) == result


def test_a_wrong_option_is_told_by_the_check(project: Any) -> None:
    override: Any = import_module("django.test.utils").override_settings
    checks: Any = import_module("django.core.checks")
    assert checks.run_checks() == []
    with override(TASKS={"default": {**BACKEND, "OPTIONS": {"brokr": "x"}}}):
        assert [found.id for found in checks.run_checks()] == ["cloudq.E003"]
