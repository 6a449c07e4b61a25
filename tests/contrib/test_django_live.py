"""A Django project on real queues, with the processes of a worker: SQLite, and SQS's stand-in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from cloudq.testing import eventually
from localstack.servers import Endpoint
from tests.docs.blocks import Command, Shell
from tests.servers import unique

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import asyncio, json, os, time
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
django.setup()
from datetime import timedelta
from django.tasks import default_task_backend as backend
from django.utils import timezone
from cloudq.contrib.django import app
from letters import tasks


def ended(*results):
    for result in results:
        app.AsyncResult(result.id).get(timeout=120, propagate=False)
        result.refresh()
    return [(str(result.status), result.attempts) for result in results]


first = tasks.thank.enqueue(3)
failed = tasks.fail.enqueue()
later = tasks.thank.using(run_after=timezone.now() + timedelta(seconds=2)).enqueue(4)
awaited = asyncio.run(tasks.athank.aenqueue(5))
ends = ended(first, failed, later, awaited)
print(json.dumps({
    "ends": ends,
    "values": [one.return_value for one in (first, later, awaited)],
    "error": failed.errors[0].exception_class.__name__,
    "waited": (later.started_at - later.task.run_after).total_seconds() >= 0,
    "got": tasks.thank.get_result(first.id).worker_ids == first.worker_ids,
    "supports": [backend.supports_defer, backend.supports_async_task,
                 backend.supports_get_result, backend.supports_priority],
}))
"""
MORE = """

@task
def fail() -> None:
    raise LookupError("gone")


@task(queue_name="letters")
async def athank(orders: int) -> str:
    return f"{orders}"
"""
DYING = """

import os, time
from pathlib import Path
from typing import Any
from django.dispatch import receiver
from django.tasks.signals import task_finished


@task(takes_context=True)
def dies_once(context: Any) -> int:
    here = Path("died")
    if not here.exists():
        here.touch()
        os.kill(os.getpid(), 9)
    return context.attempt


@task
def hangs() -> None:
    time.sleep(600)


@receiver(task_finished)
def note(sender: Any, task_result: Any, **more: Any) -> None:
    with open("finished", "a") as file:
        print(task_result.task.name, task_result.status, len(task_result.errors), file=file)
"""
DEATHS = """
import json, os
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
django.setup()
from cloudq.contrib.django import app
from letters import tasks

results = tasks.dies_once.enqueue(), tasks.hangs.enqueue()
for result in results:
    app.AsyncResult(result.id).get(timeout=120, propagate=False)
    result.refresh()
died, hung = results
print(json.dumps([died.return_value, died.attempts, len(died.worker_ids), str(hung.status),
                  hung.errors[0].exception_class.__name__]))
"""
LAMBDA = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
from cloudq.contrib.django.project import app
from cloudq_aws import lambda_handler
handler = lambda_handler(app)

from letters import tasks
from tests.functions.aws.events import Context, EventSource

results = tasks.thank.enqueue(7), tasks.fail.enqueue(), tasks.athank.enqueue(8)
reported = []
for queue in ("letters", "default"):
    source = EventSource(app, os.environ["PREFIX"] + queue)
    event = source.take(2 if queue == "letters" else 1)
    reported += source.settle(handler(event, Context()))
for result in results:
    result.refresh()
print(json.dumps([reported, [str(result.status) for result in results], results[2].return_value]))
"""
NO_TASKS = f"django.tasks is of Django 6, and this is {django.__version__}"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A terminal in a copy of the example, with two tasks more."""
    folder = tmp_path / "shop"
    ignore = shutil.ignore_patterns("__pycache__", "*.sqlite3", "*.db")
    shutil.copytree(ROOT / "examples" / "django_shop", folder, ignore=ignore)
    with (folder / "letters" / "tasks.py").open("a") as file:
        file.write(MORE)
    (folder / "program.py").write_text(PROGRAM)
    with Shell(folder) as shell:
        shell.run(Command(line="python manage.py migrate -v0"))
        yield shell


def on_sqs(shell: Shell, aws: Endpoint) -> None:
    """Have the project use queues of its own in the stand-in, and make them."""
    prefix = unique("django-")
    given = {n: v for n, v in aws.environment.items() if not n.startswith("CLOUDQ_")}
    given["SHOP_BROKER"] = f"sqs://eu-west-1?prefix={prefix}"
    given |= {"PREFIX": prefix, "PYTHONPATH": str(ROOT)}
    given["SHOP_BACKEND"] = aws.environment["CLOUDQ_BACKEND"]
    shell.environment |= given
    queues = "default letters" if django.VERSION >= (6,) else "default"
    shell.run(Command(line=f"python manage.py cloudq queues create --store {queues}"))


def tasks_of_django_run(shell: Shell) -> None:
    shell.run(Command(line="python manage.py cloudq worker --processes 2"))
    shell.run(Command(line="python program.py > found.json"))
    found = json.loads((shell.folder / "found.json").read_text())
    assert found == {
        "ends": [["SUCCESSFUL", 1], ["FAILED", 1], ["SUCCESSFUL", 1], ["SUCCESSFUL", 1]],
        "values": ["Thank you for 3 orders!", "Thank you for 4 orders!", "5"],
        "error": "LookupError",
        "waited": True,
        "got": True,
        "supports": [True, True, True, False],
    }


@pytest.mark.skipif(django.VERSION < (6,), reason=NO_TASKS)
def test_djangos_tasks_run_from_sqlite(shell: Shell) -> None:
    tasks_of_django_run(shell)


@pytest.mark.skipif(django.VERSION < (6,), reason=NO_TASKS)
def test_a_task_whose_process_dies_is_told_of(shell: Shell) -> None:
    for file, text in (
        ("letters/tasks.py", DYING),
        ("shop/settings.py", "\nCLOUDQ_TASK_TIME_LIMIT = 3\nCLOUDQ_LEASE = 2\n"),
        ("deaths.py", DEATHS),
    ):
        with (shell.folder / file).open("a") as opened:
            opened.write(text)
    shell.run(Command(line="python manage.py cloudq worker --processes 2 --threads 1"))
    shell.run(Command(line="python deaths.py > found.json"))
    found = json.loads((shell.folder / "found.json").read_text())
    assert found == [2, 2, 2, "FAILED", "TimeLimitExceeded"]
    finished = shell.folder / "finished"
    eventually(lambda: finished.exists() and len(finished.read_text().splitlines()) == 2)
    assert sorted(finished.read_text().splitlines()) == ["dies_once SUCCESSFUL 0", "hangs FAILED 1"]


@pytest.mark.skipif(django.VERSION < (6,), reason=NO_TASKS)
def test_djangos_tasks_run_from_sqs(shell: Shell, aws: Endpoint) -> None:
    on_sqs(shell, aws)
    tasks_of_django_run(shell)


def test_calls_on_commit_run_from_sqs(shell: Shell, aws: Endpoint) -> None:
    on_sqs(shell, aws)
    shell.run(Command(line="python manage.py cloudq worker --processes 1"))
    shell.run(Command(line="python manage.py place 3 | grep 'charged 600 for 3 orders'"))


@pytest.mark.skipif(django.VERSION < (6,), reason=NO_TASKS)
def test_djangos_tasks_run_in_a_lambda_function(shell: Shell, aws: Endpoint) -> None:
    on_sqs(shell, aws)
    (shell.folder / "function.py").write_text(LAMBDA)
    shell.run(Command(line="python function.py > found.json"))
    found = json.loads((shell.folder / "found.json").read_text())
    assert found == [[], ["SUCCESSFUL", "FAILED", "SUCCESSFUL"], "8"]
