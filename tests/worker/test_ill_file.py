"""A SQLite file that is locked, damaged or robbed of its log: workers wait, and tell it."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cloudq import AsyncResult
from cloudq.errors import BackendError, PublishError
from cloudq.testing.waiting import PATIENCE
from cloudq_local.recover import recover
from tests.worker.harness import Place, Worker, until
from tests.worker.test_full_disk import is_idle

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
ONE = ("--processes", "1", "--threads", "2")
DAMAGED = "python -m cloudq_local.recover FILE NEW"


@pytest.fixture
def file(sqlite_place: Place) -> Path:
    return sqlite_place.folder / "cloudq.db"


def two_that_run(place: Place) -> tuple[Worker, list[AsyncResult[str]]]:
    """Start a worker, and two calls that wait in it, with two behind them in the queue."""
    worker = place.start(*ONE)
    held = [place.app.send_task("drill_tasks.hold", [f"h{n}"]) for n in range(4)]
    until(lambda: len(place.entries()) == 2, what="two run")
    return worker, held


def checkpoint(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def header(file: Path) -> None:
    checkpoint(file)
    with file.open("r+b") as pages:
        pages.write(random.Random(1).randbytes(100))


def pages(file: Path) -> None:
    """Damage each page, so that none can be read."""
    checkpoint(file)
    with file.open("r+b") as pages:
        for at in range(0, file.stat().st_size, 512):
            pages.seek(at)
            pages.write(random.Random(at).randbytes(64))


def half(file: Path) -> None:
    checkpoint(file)
    os.truncate(file, file.stat().st_size // 2)


def nothing(file: Path) -> None:
    checkpoint(file)
    os.truncate(file, 0)


def log(file: Path) -> None:
    """Cut the log off, with what is in it."""
    os.truncate(f"{file}-wal", 0)


@pytest.mark.skipif(not FULL, reason="CLOUDQ_DRILL=full runs it")
def test_locked_by_another_for_longer_than_is_waited(sqlite_place: Place, file: Path) -> None:
    """Each caller is told; what has run waits to be recorded, and runs once."""
    sqlite_place.broker += "?busy_timeout=0.5"
    sqlite_place.backend += "?busy_timeout=0.5"
    worker, held = two_that_run(sqlite_place)
    with closing(sqlite3.connect(file, isolation_level=None, timeout=PATIENCE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        sqlite_place.let_go()
        until(lambda: "wait to be recorded" in worker.log(), what="results wait")
        assert "another process keeps the file locked" in worker.log()
        assert not held[0].ready()
        assert is_idle(worker)
        other.execute("ROLLBACK")
    assert [result.get(timeout=PATIENCE) for result in held] == [f"h{n}" for n in range(4)]
    assert set(sqlite_place.counts().values()) == {1}
    assert worker.stop() == 0


@pytest.mark.parametrize("damage", [header, pages, half, nothing, log] if FULL else [header])
def test_damaged_it_is_told_and_a_saved_file_is_taken(
    sqlite_place: Place, file: Path, damage: Callable[[Path], None]
) -> None:
    """No result is claimed that is not recorded; the worker waits, and takes the file saved."""
    worker, held = two_that_run(sqlite_place)
    damage(file)
    sqlite_place.let_go()
    until(lambda: DAMAGED in worker.log(), what=f"it tells what to do: {worker.log()}")
    assert is_idle(worker)
    states: set[str] = set()
    with suppress(BackendError):
        states.update(each.state for each in held)
    assert states <= {"PENDING", "SUCCESS"}
    with suppress(PublishError):  # where damage is not on its way, a call is sent
        sqlite_place.app.send_task("drill_tasks.pid")
    counts = recover(file, new := file.with_name("saved.db"))
    for end in ("-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)
    new.rename(file)
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=2 * PATIENCE)
    if damage is header:
        assert [result.get(timeout=PATIENCE) for result in held] == [f"h{n}" for n in range(4)]
    assert worker.process.poll() is None
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    print(f"\n{damage.__name__}: saved {counts}; calls that ran: {len(sqlite_place.counts())}")
    assert worker.stop() in (0, 1)


@pytest.mark.skipif(not FULL, reason="CLOUDQ_DRILL=full runs it")
def test_its_log_deleted_all_is_saved_and_work_goes_on(sqlite_place: Place, file: Path) -> None:
    """Two workers and a caller let go of the log, and go on with a new one."""
    worker, held = two_that_run(sqlite_place)
    other = sqlite_place.start(*ONE)
    until(lambda: len(sqlite_place.entries()) == 4, what="all four run")
    for end in ("-wal", "-shm"):
        file.with_name(file.name + end).unlink()
    for each in (worker, other):
        until(lambda each=each: "was deleted while it was in use" in each.log(), what="it is told")
    sqlite_place.let_go()

    def all_ended() -> bool:
        with suppress(BackendError):  # until it is opened anew
            return all(result.ready() for result in held)
        return False

    until(all_ended, what="all are recorded")
    assert [result.get() for result in held] == [f"h{n}" for n in range(4)]
    assert set(sqlite_place.counts().values()) == {1}
    for each in (worker, other):
        assert each.stop() == 0
        assert "Traceback" not in each.log()
    sqlite_place.app.close()
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM messages").fetchall() == [(0,)]
