"""The SQLite file itself: taken away under a worker, its mode, its clock, its errors, its rest."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.driver import Address, Change, Code, Item, Key
from cloudq.errors import BrokerError, ConfigurationError
from cloudq.testing import outgoing
from cloudq_local import sqlite_tidy, wake
from cloudq_local.items import Refusal
from cloudq_local.memory_queue import MemoryQueue
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_broker import SQLiteBroker
from cloudq_local.sqlite_errors import advice, error_code
from cloudq_local.sqlite_file import Database
from cloudq_local.wake import Bell

HOUR = 3600.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def address(file: Path) -> Address:
    return Address(scheme="sqlite", path=str(file), options={"synchronous": "off"})


@pytest.fixture
def broker(address: Address) -> Iterator[SQLiteBroker]:
    with closing(open_broker(address)) as driver:
        yield driver


def taken(broker: SQLiteBroker, queue: str = "q") -> list[bytes]:
    return [d.body for d in broker.receive(queue, count=10, wait=0.0, lease=60.0)]


def remove(file: Path) -> None:
    for each in file.parent.glob(file.name + "*"):
        each.unlink()


# ---- the file is taken away


def test_a_deleted_file_is_noticed_and_made_anew(
    broker: SQLiteBroker, file: Path, address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    broker.send("q", [outgoing(body=b"old")])
    remove(file)
    with caplog.at_level(logging.WARNING):
        broker.send("q", [outgoing(body=b"new")])
    assert "was deleted while it was in use" in caplog.text
    with closing(open_broker(address)) as other:
        assert taken(other) == [b"new"]
        assert other.list() == ["q"]


def test_a_file_that_was_replaced_is_the_one_in_use(
    broker: SQLiteBroker, file: Path, address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    taken(broker)
    remove(file)
    with closing(open_broker(address)) as other:
        other.send("q", [outgoing(body=b"new")])
        with caplog.at_level(logging.WARNING):
            assert taken(broker) == [b"new"]
        assert "was replaced while it was in use" in caplog.text
        # The old connection is closed by now: that must not take the new file's log along.
        other.send("q", [outgoing(body=b"more")])
    assert taken(broker) == [b"more"]


def test_a_moved_file_is_left_behind(broker: SQLiteBroker, file: Path, address: Address) -> None:
    broker.send("q", [outgoing(body=b"old")])
    file.rename(file.with_name("kept.db"))
    broker.send("q", [outgoing(body=b"new")])
    assert taken(broker) == [b"new"]


def test_a_moved_file_is_whole_and_each_of_two_who_used_it_takes_the_new_one(
    broker: SQLiteBroker, file: Path, address: Address
) -> None:
    with closing(open_broker(address)) as other:
        broker.send("q", [outgoing(body=b"old")])
        other.send("q", [outgoing(body=b"older")])
        file.rename(kept := file.with_name("kept.db"))
        broker.send("q", [outgoing(body=b"new")])
        other.send("q", [outgoing(body=b"newer")])
        assert taken(broker) == [b"new", b"newer"]
    with closing(open_broker(replace(address, path=str(kept)))) as moved:
        assert taken(moved) == [b"old", b"older"]


def test_without_its_folder_every_call_says_so_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with CloudQ("x", broker=f"sqlite:///{folder}/q.db", backend=None) as app:
        app.broker.driver.send("q", [outgoing()])
        shutil.rmtree(folder)
        for _ in range(2):
            with pytest.raises(BrokerError, match=r"its folder back, .* cannot open .*q\.db"):
                app.broker.receive("q", count=1, wait=0.0, lease=1.0)
        folder.mkdir()
        assert not app.broker.receive("q", count=1, wait=0.0, lease=1.0)


def test_results_are_stored_in_the_file_that_is_there(file: Path, address: Address) -> None:
    with closing(open_backend(address)) as store, closing(open_backend(address)) as other:
        store.put([Item(key=Key("a", "-"), fields={"n": 1})])
        remove(file)
        store.update(Key("a", "-"), Change(set={"n": 2}))
        assert other.get([Key("a", "-")], consistent=True)[Key("a", "-")].fields == {"n": 2}


# ---- its mode


def test_a_new_file_is_for_its_user_alone(broker: SQLiteBroker, file: Path) -> None:
    broker.send("q", [outgoing()])
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in file.parent.iterdir()}
    assert modes == dict.fromkeys(("queue.db", "queue.db-wal", "queue.db-shm"), 0o600)


def test_the_mode_of_a_file_that_is_there_is_left_as_it_is(file: Path, address: Address) -> None:
    file.touch()
    file.chmod(0o640)
    with closing(open_broker(address)) as driver:
        driver.send("q", [outgoing()])
        assert stat.S_IMODE(file.stat().st_mode) == 0o640


# ---- the clock


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def on_clock(file: Path, clock: Clock) -> SQLiteBroker:
    database = Database(file, synchronous="off", busy_timeout=1.0)
    return SQLiteBroker(database, Bell(file), clock=clock)


def test_a_clock_that_is_set_back_hides_no_message(file: Path) -> None:
    clock = Clock()
    with closing(on_clock(file, clock)) as broker:
        broker.send("q", [outgoing(body=b"waits"), outgoing(body=b"late", delay=60.0)])
        clock.now -= HOUR
        assert taken(broker) == [b"waits"]
        clock.now += 61
        assert taken(broker) == [b"waits", b"late"]  # the lease of the first has ended as well


def test_a_process_that_starts_after_the_clock_was_set_back_sees_what_waits(file: Path) -> None:
    clock = Clock()
    with closing(on_clock(file, clock)) as broker:
        broker.send("q", [outgoing(body=b"waits")])
    clock.now -= HOUR
    with closing(on_clock(file, clock)) as broker:
        broker.send("q", [outgoing(body=b"newer")])
        assert taken(broker) == [b"newer"]
        assert b"waits" in taken(broker)


def test_a_lease_is_no_longer_for_a_clock_that_was_set_back(file: Path) -> None:
    clock = Clock()
    with closing(on_clock(file, clock)) as broker:
        broker.send("q", [outgoing(body=b"leased")])
        assert taken(broker) == [b"leased"]
        clock.now -= HOUR
        assert taken(broker) == []
        clock.now += 61
        assert taken(broker) == [b"leased"]


def test_a_small_step_back_moves_nothing(file: Path) -> None:
    clock = Clock()
    with closing(on_clock(file, clock)) as broker:
        broker.send("q", [outgoing(delay=2.0)])
        clock.now -= 1.0
        assert taken(broker) == []
        clock.now += 3.0
        assert len(taken(broker)) == 1


def test_a_clock_that_is_set_back_hides_no_message_in_memory() -> None:
    clock = Clock()
    queue = MemoryQueue(name="q", clock=clock)
    queue.receive(1, 0.0, 60.0)
    queue.send([outgoing(body=b"waits"), outgoing(body=b"late", delay=60.0)])
    queue.receive(0, 0.0, 60.0)
    clock.now -= HOUR
    assert [d.body for d in queue.receive(5, 0.0, 60.0)] == [b"waits"]
    clock.now += 61
    assert [d.body for d in queue.receive(5, 0.0, 60.0)] == [b"waits", b"late"]


# ---- errors


def test_errors_end_in_advice_for_a_file(file: Path) -> None:
    with CloudQ("x", broker=f"sqlite:///{file}?busy_timeout=0", backend=None) as app:
        assert not app.broker.receive("q", count=1, wait=0.0, lease=1.0)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BrokerError, match="another process keeps the file locked") as busy:
                app.send_task("f")
        assert "slow down" not in str(busy.value)
        held = app.broker.driver
        assert isinstance(held, SQLiteBroker)
        database = held._database  # pyright: ignore[reportPrivateUsage]
        with database.lock, database:
            pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.read(f"PRAGMA max_page_count={pages}")
        with pytest.raises(BrokerError, match="its disk is full: free some space") as full:
            app.send_task("f", ["x" * 100_000])
        assert "region" not in str(full.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (sqlite3.SQLITE_CANTOPEN, "this user's rights"),
        (sqlite3.SQLITE_READONLY, "may not write"),
        (sqlite3.SQLITE_IOERR_WRITE, "its disk"),
        (sqlite3.SQLITE_NOTADB, "save what can be read"),
        (sqlite3.SQLITE_TOOBIG, "one row"),
    ],
)
def test_each_kind_of_error_has_its_advice(code: int, says: str) -> None:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    assert says in (advice(error) or "")
    assert advice(ValueError("x")) is None


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FULL]
)
def test_what_may_be_mended_is_waited_for(code: int) -> None:
    error = sqlite3.DatabaseError("x")
    error.sqlite_errorcode = code
    assert error_code(error) is Code.UNREACHABLE


# ---- what has expired


def test_an_idle_store_is_rid_of_what_has_expired(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_tidy, "EVERY", 0.0)
    with closing(open_backend(address)) as store:
        for first in range(0, 2560, 256):
            old = [Item(key=Key(f"{first + n}"), fields={}, expires=9e9) for n in range(256)]
            store.put(old)
        database = store.database
        with database.lock, database:
            database.execute("UPDATE items SET expires = 1.0")
        for beat in range(3):
            store.put([Item(key=Key("worker#1"), fields={"beat": beat}, expires=9e9)])
        assert database.read("SELECT count(*) FROM items")[0][0] == 1


# ---- wake-ups


@pytest.mark.parametrize("squatter", ["file", "link", "open to others"])
def test_a_squatted_folder_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squatter: str
) -> None:
    monkeypatch.setattr(wake.tempfile, "gettempdir", lambda: str(tmp_path))
    root = tmp_path / f"cloudq-{os.getuid()}"
    if squatter == "file":
        root.touch()
    elif squatter == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        root.symlink_to(tmp_path / "elsewhere")
    else:
        root.mkdir()
        root.chmod(0o777)
    says = {
        "file": "is no directory",
        "link": "is a symbolic link",
        "open to others": "has mode 777",
    }
    with pytest.raises(ConfigurationError, match=f"{says[squatter]}.*set TMPDIR"):
        Bell(tmp_path / "queue.db")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake.tempfile, "gettempdir", lambda: str(tmp_path))
    root = tmp_path / f"cloudq-{os.getuid()}"
    root.mkdir(mode=0o700)
    os.chown(root, 12345, 12345)
    with pytest.raises(ConfigurationError, match="belongs to user 12345"):
        Bell(tmp_path / "queue.db")


# ---- what is no file of ours


def _a_pipe(file: Path) -> None:
    os.mkfifo(file)


def _a_folder(file: Path) -> None:
    file.mkdir()


def _a_device(file: Path) -> None:
    file.symlink_to("/dev/null")


def _a_text(file: Path) -> None:
    file.write_text("no database " * 100)


def _a_loop(file: Path) -> None:
    file.symlink_to(file)


def _of_another_program(file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE queues (x)")


def _without_a_version(file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE cloudq_schema (version)")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_a_pipe, "is no regular file: name another"),
        (_a_folder, "is a directory: name a file"),
        (_a_device, "is no regular file: name another"),
        (_a_text, "the file is not a SQLite database: name another"),
        (_a_loop, "Too many levels of symbolic links: may this user write to it"),
        (_of_another_program, "SQLite refused it - table queues already exists"),
        (_without_a_version, "has schema 0 and this release reads schema 1"),
    ],
)
def test_what_is_no_file_of_ours_is_refused_with_its_name_and_advice(
    file: Path, address: Address, make: Callable[[Path], None], says: str
) -> None:
    make(file)
    with pytest.raises(ConfigurationError, match=says) as refused:
        open_broker(address)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot open .*File name too long|NUL in it"):
        open_broker(Address(scheme="sqlite", path=f"{tmp_path}/{name}", options={}))


@pytest.mark.parametrize(
    ("make", "says"),
    [(_a_folder, "is a directory"), (_a_pipe, "no regular file"), (_a_text, "not a database")],
)
def test_a_file_that_gave_way_to_something_else_is_a_refusal_of_the_driver(
    broker: SQLiteBroker, file: Path, make: Callable[[Path], None], says: str
) -> None:
    broker.send("q", [outgoing()])
    remove(file)
    make(file)
    with pytest.raises(Refusal, match=rf"cannot open .*{says}"):
        broker.stats("q")


def test_a_name_with_half_of_a_character_is_refused_with_a_sentence(file: Path) -> None:
    with (
        CloudQ("x", broker=f"sqlite:///{file}", backend=None) as app,
        pytest.raises(BrokerError, match="half of a character"),
    ):
        app.broker.receive("\udcff", count=1, wait=0.0, lease=1.0)
