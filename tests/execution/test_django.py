"""Django's connections are cared for around each task, as around a request, and no others are.

Each test is a process of its own, since Django is configured once in a process: a fork of one
that has imported Django and cloudq.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

# Runs the programs that its lines name, each in a fork and a folder; tells how each has ended.
FORKS = """
import gc, json, os, sys, traceback
import asgiref.sync, django, django.db, django.db.backends.sqlite3.base, django.test.utils
import cloudq.contrib.celery, cloudq.testing, cloudq_local.memory
gc.freeze()
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if not pid:
        try:
            os.chdir(request["folder"])
            exec(compile(request["program"], "program", "exec"), {"__name__": "__main__"})
        except BaseException:
            with open("failed", "w") as file:
                traceback.print_exc(file=file)
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

SETUP = """
import asyncio
import sys
import threading
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": "app.sqlite", "CONN_MAX_AGE": %s,
    }},
    INSTALLED_APPS=["django.contrib.contenttypes"], USE_TZ=True, DEBUG=%s,
)
django.setup()
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from cloudq import CloudQ, chain
from cloudq.testing import drain, run_until_idle, worker

app = CloudQ("django", broker="memory://django", max_retries=0)

def one():
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        return cursor.fetchone()[0]

@app.task
def query(): return one()

@app.task
def cut():
    connection.ensure_connection()
    connection.connection.close()

@app.task
async def aquery(): return await sync_to_async(one)()

@app.task
async def acut(): await sync_to_async(cut.function)()

@app.task
def opened(): return connection.connection is not None

def run(*tasks, threads=1):
    with worker(app, threads=threads) as running:
        results = []
        for task in tasks:
            results.append(task.delay())
            running.run_until_idle()
        return [result.get(timeout=5, propagate=False) for result in results]
"""


class Program(Protocol):
    def __call__(self, folder: Path, text: str, *, age: object = 0, debug: bool = False) -> None:
        """Run a program after Django's set-up; it fails by an assertion."""
        ...


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    command = [sys.executable, "-W", "ignore", "-c", FORKS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as forks:

        def run(folder: Path, text: str, *, age: object = 0, debug: bool = False) -> None:
            request = {"folder": str(folder), "program": SETUP % (age, debug) + text}
            assert forks.stdin is not None
            assert forks.stdout is not None
            print(json.dumps(request), file=forks.stdin, flush=True)
            code = forks.stdout.readline().strip()
            failed = folder / "failed"
            assert code == "0", failed.read_text() if failed.exists() else f"ended with {code}"

        yield run


@pytest.mark.parametrize(
    ("kind", "breaks"), [("query", "cut"), ("aquery", "acut"), ("aquery", "cut"), ("query", "acut")]
)
def test_a_connection_that_was_cut_is_opened_anew(
    tmp_path: Path, kind: str, breaks: str, program: Program
) -> None:
    program(tmp_path, f"assert run({kind}, {breaks}, {kind}, {kind})[2:] == [1, 1]")


def test_a_broken_one_is_found_before_the_next_query_whatever_its_age(
    tmp_path: Path, program: Program
) -> None:
    text = """
from django.db.backends.sqlite3.base import DatabaseWrapper

def is_usable(self):  # SQLite's own always says yes; those of servers ask the server
    try:
        self.connection.execute("select 1")
    except Exception:
        return False
    return True

DatabaseWrapper.is_usable = is_usable
assert run(query, cut, query, query) == [1, None, 1, 1]
"""
    program(tmp_path, text, age=None)


def test_the_age_of_connections_is_heeded(tmp_path: Path, program: Program) -> None:
    program(tmp_path, "assert run(query, opened) == [1, False]", age=0)
    program(tmp_path, "assert run(query, opened) == [1, True]", age=None)
    text = """
import time
from django.db.backends.base import base
found = run(query, opened)
assert found == [1, True], found
clock = time.monotonic
base.time.monotonic = lambda: clock() + 100
"""
    program(tmp_path, text, age=50)


def test_a_transaction_that_is_left_open_does_not_reach_the_next_task(
    tmp_path: Path, program: Program
) -> None:
    text = """
@app.task
def leaves():
    one()
    transaction.set_autocommit(False)

@app.task
def finds(): return transaction.get_autocommit()

assert run(leaves, finds) == [None, True]
"""
    program(tmp_path, text, age=None)


@pytest.mark.parametrize("end", ["return", "raise ValueError", "connection.connection.close()"])
def test_an_atomic_block_that_is_left_open_does_not_reach_the_next_task(
    tmp_path: Path, end: str, program: Program
) -> None:
    text = f"""
@app.task
def leaves():
    transaction.atomic().__enter__()
    with connection.cursor() as cursor:
        cursor.execute("create table begun (id int)")
    {end}

@app.task
def finds():
    tables = connection.introspection.table_names()
    return connection.in_atomic_block, transaction.get_autocommit(), tables

found = run(leaves, finds, query)
assert found[1:] == [[False, True, []], 1], found
"""
    program(tmp_path, text, age=None)


def test_a_cut_connection_that_calls_itself_usable_costs_one_task(
    tmp_path: Path, program: Program
) -> None:
    text = """
found = run(query, cut, query, query)
assert found[0] == 1 and isinstance(found[2], Exception) and found[3] == 1, found
"""
    program(tmp_path, text, age=None)


def test_a_test_case_s_transaction_is_left_alone(tmp_path: Path, program: Program) -> None:
    text = """
with transaction.atomic():
    one()
    used = connection.connection
    query.delay(); cut_off = opened.delay(); aquery.delay()
    for settlement in run_until_idle(app):
        assert settlement.error is None, settlement
    assert connection.connection is used
    assert cut_off.get(timeout=0) is True
    query.delay()
    [settlement] = drain(app)
    assert settlement.error is None
    assert connection.connection is used
    one()
"""
    program(tmp_path, text)


def test_an_eager_call_keeps_its_caller_s_connections(tmp_path: Path, program: Program) -> None:
    text = """
app.configure(task_always_eager=True)
one()
used = connection.connection
for task in (query, aquery):
    assert task.delay().get() == 1
    assert task.apply().get() == 1
    assert connection.connection is used
assert chain(query.si(), query.si()).delay().get() == 1
assert connection.connection is used

async def view():
    await sync_to_async(one)()
    used = await sync_to_async(lambda: connection.connection)()
    assert (await sync_to_async(query.delay)()).get() == 1
    assert await sync_to_async(lambda: connection.connection)() is used

asyncio.run(view())
"""
    program(tmp_path, text)


def test_coroutines_at_once_have_connections_of_their_own(tmp_path: Path, program: Program) -> None:
    text = """
seen = []
both = threading.Barrier(2, timeout=20)

def meet():
    one()
    both.wait()
    seen.append((id(connection.connection), threading.get_ident()))
    both.wait()
    return one()

@app.task
async def meets():
    return await sync_to_async(meet)()

with worker(app, threads=2) as running:
    results = [meets.delay(), meets.delay()]
    running.run_until_idle()
    assert [result.get(timeout=10) for result in results] == [1, 1]
assert len(set(seen)) == 2, seen
"""
    program(tmp_path, text, age=None)


def test_what_coroutines_have_opened_is_closed(tmp_path: Path, program: Program) -> None:
    text = """
kept = []

@app.task
async def keeps():
    def take():
        one()
        kept.append(connections["default"])
    await sync_to_async(take)()

@app.task
async def fails():
    await keeps.function()
    raise ValueError

found = run(keeps, fails)
assert isinstance(found[1], ValueError)
assert [each.connection for each in kept] == [None, None], kept
"""
    program(tmp_path, text, age=None)


def test_the_log_of_queries_does_not_grow(tmp_path: Path, program: Program) -> None:
    text = """
@app.task
def logged():
    one()
    return len(connection.queries)

assert run(logged, logged, logged) == [1, 1, 1]
"""
    program(tmp_path, text, age=None, debug=True)


def test_caches_are_closed_after_each_task(tmp_path: Path, program: Program) -> None:
    text = """
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
closed = []
LocMemCache.close = lambda self: closed.append(1)

@app.task
def caches(): cache.set("a", 1)

run(caches, caches)
assert len(closed) == 2, closed
"""
    program(tmp_path, text)


def test_hooks_arguments_and_celery_s_names_find_working_connections(
    tmp_path: Path, program: Program
) -> None:
    text = """
from cloudq.contrib.celery import Celery, Task
after = []

class Kept(Task):
    def on_success(self, *args): after.append(one())
    def before_start(self, *args): after.append(one())

layer = Celery("layer", broker="memory://layer", backend="memory://layer")

@layer.task(base=Kept)
def spoils():
    cut.function()

app = layer
found = run(spoils, spoils)
assert after[0] == 1 and after[-1] == 1, after
"""
    program(tmp_path, text)


def test_a_task_that_sets_django_up_is_cleaned_up_after(tmp_path: Path) -> None:
    text = """
from cloudq import CloudQ
from cloudq.testing import run_until_idle
import sys

app = CloudQ("late", broker="memory://late")

@app.task
def sets_up():
    import django
    from django.conf import settings
    settings.configure(DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": "late.sqlite", "CONN_MAX_AGE": 0}})
    django.setup()
    from django.db import connection
    connection.ensure_connection()

sets_up.delay()
assert "django" not in sys.modules and "asgiref" not in sys.modules
[settlement] = run_until_idle(app)
assert settlement.error is None
from django.db import connection
assert connection.connection is None
"""
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
