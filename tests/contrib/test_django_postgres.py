"""Connections to a real PostgreSQL are cared for: killed between tasks, aged, and not shared."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from tests.contrib.postgres import running

SETTINGS = """
SECRET_KEY = "x" * 50
INSTALLED_APPS = ["cloudq.contrib.django", "bank"]
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "cloudq",
    "HOST": "127.0.0.1", "OPTIONS": {"application_name": "bank"}, "PORT": "%s", "CONN_MAX_AGE": %s,
}}
USE_TZ = True
CLOUDQ = {"BROKER": "sqlite:///q.db", "MAX_RETRIES": 0}
"""
TASKS = """
from asgiref.sync import sync_to_async
from cloudq import shared_task
from django.db import connection, transaction

def one(statement="select pg_backend_pid()"):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]

@shared_task
def backend() -> int: return one()

@shared_task
async def abackend() -> int: return await sync_to_async(one)()

@shared_task
def dies_amid() -> int:
    return one("select pg_terminate_backend(pg_backend_pid())")

@shared_task
def leaves_open() -> int:
    transaction.set_autocommit(False)
    return one()
"""


class Project(Protocol):
    def __call__(self, folder: Path, *, age: object) -> None:
        """Make a project in a folder."""
        ...


@pytest.fixture(scope="module")
def postgres() -> Iterator[dict[str, Any]]:
    with running() as given:
        yield given


@pytest.fixture
def project(postgres: dict[str, Any]) -> Project:
    def make(folder: Path, *, age: object) -> None:
        (folder / "bank").mkdir()
        (folder / "bank" / "__init__.py").write_text("")
        (folder / "bank" / "tasks.py").write_text(TASKS)
        (folder / "settings.py").write_text(SETTINGS % (postgres["port"], age))
        (folder / "manage.py").write_text(
            "import os, sys\n"
            'os.environ["DJANGO_SETTINGS_MODULE"] = "settings"\n'
            "from django.core.management import execute_from_command_line\n"
            "execute_from_command_line(sys.argv)\n"
        )

    return make


def _run(folder: Path, program: str) -> str:
    """Run a program in the project; returns what it printed."""
    setup = """
    import os, django
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    django.setup()
    from bank.tasks import *
    from cloudq.contrib.django import app
    from cloudq.testing import worker
    def kill(pid):
        import psycopg, django.conf
        port = django.conf.settings.DATABASES["default"]["PORT"]
        url = f"postgresql://cloudq@127.0.0.1:{port}/postgres"
        with psycopg.connect(url) as admin:
            assert admin.execute("select pg_terminate_backend(%s, 10000)", [pid]).fetchone()[0]
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(setup) + textwrap.dedent(program)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("age", [0, 600, None])
@pytest.mark.parametrize("kind", ["backend", "abackend"])
def test_a_task_after_its_backend_was_killed_gets_a_new_one(
    tmp_path: Path, project: Project, age: object, kind: str
) -> None:
    project(tmp_path, age=age)
    _run(
        tmp_path,
        f"""
        with worker(app, threads=1) as running:
            pids = []
            for _ in range(4):
                pids.append({kind}.delay().get(timeout=30))
                running.run_until_idle()
                if {age!r} != 0 and {kind!r} == "backend":
                    kill(pids[-1])  # it is still open
            assert len(set(pids)) == 4, pids
            assert running.failures == []
        """,
    )


def test_a_connection_is_kept_for_its_age_and_closed_at_once_without(
    tmp_path: Path, project: Project
) -> None:
    program = """
        with worker(app, threads=1) as running:
            print(len({backend.delay().get(timeout=30) for _ in range(4)}))
        """
    kept, closed = tmp_path / "kept", tmp_path / "closed"
    for folder, age, backends in ((kept, 600, "1"), (closed, 0, "4")):
        folder.mkdir()
        project(folder, age=age)
        assert _run(folder, program).strip() == backends


def test_one_that_died_amid_a_task_fails_that_task_alone(tmp_path: Path, project: Project) -> None:
    project(tmp_path, age=None)
    _run(
        tmp_path,
        """
        with worker(app, threads=1) as running:
            before = backend.delay().get(timeout=30)
            error = dies_amid.delay().get(timeout=30, propagate=False)
            assert type(error).__name__ in ("OperationalError", "TaskFailure"), repr(error)
            assert backend.delay().get(timeout=30) != before
        """,
    )


def test_processes_of_a_worker_share_no_connection_that_loading_opened(
    tmp_path: Path, project: Project, postgres: dict[str, Any]
) -> None:
    project(tmp_path, age=None)
    tasks = tmp_path / "bank" / "tasks.py"
    tasks.write_text(tasks.read_text() + "\nAT_IMPORT = one()\n")
    log = tmp_path / "log"
    command = [sys.executable, "manage.py", "cloudq", "worker", "--processes=2", "--threads=1"]
    with log.open("wb") as file, subprocess.Popen(command, cwd=tmp_path, stderr=file) as worker:
        try:
            out = _run(
                tmp_path,
                """
                from cloudq import group
                print(AT_IMPORT, *group(backend.s() for _ in range(20))().get(timeout=60))
                """,
            )
            own, *pids = out.split()
            # Those of the two processes: not the worker's, nor of what they are forked from.
            eventually(lambda: backends(postgres) == len(set(pids)))
        finally:
            worker.terminate()
    assert own not in pids
    assert len(set(pids)) <= 2
    assert "not forked" not in log.read_text()


def backends(postgres: dict[str, Any]) -> int:
    """Count the connections of the project."""
    with psycopg.connect(**postgres) as admin:
        row = admin.execute(
            "select count(*) from pg_stat_activity where application_name = 'bank'"
        ).fetchone()
    assert row is not None
    return row[0]
