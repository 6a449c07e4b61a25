"""The log of a SQLite file, deleted while it is in use, or left behind by a file that was moved."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cloudq.driver import Address, Item, Key
from cloudq.testing import outgoing
from cloudq.testing.waiting import eventually
from cloudq_local import sqlite_log_watch
from cloudq_local.items import Refusal
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_backend import SQLiteBackend
from cloudq_local.sqlite_broker import SQLiteBroker


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture(params=["full", "normal"])
def address(request: pytest.FixtureRequest, file: Path) -> Address:
    return Address(scheme="sqlite", path=str(file), options={"synchronous": request.param})


@pytest.fixture
def broker(address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[SQLiteBroker]:
    monkeypatch.setattr(sqlite_log_watch, "_LOOKED_EVERY", 0.0)
    monkeypatch.setattr(sqlite_log_watch, "_ALONE", 0.2)
    with closing(open_broker(address)) as driver:
        yield driver


@pytest.fixture
def backend(broker: SQLiteBroker, address: Address) -> Iterator[SQLiteBackend]:
    with closing(open_backend(address)) as driver:
        yield driver


def beside(file: Path, end: str) -> Path:
    return file.with_name(file.name + end)


def log_of(file: Path) -> None:
    beside(file, "-wal").unlink()


def index_of(file: Path) -> None:
    beside(file, "-shm").unlink()


def both_of(file: Path) -> None:
    log_of(file)
    index_of(file)


def waiting(file: Path) -> set[str]:
    """The ids of messages in the file, as a process sees them that has nothing to do with ours."""
    with closing(sqlite3.connect(file)) as another:
        return {id for (id,) in another.execute("SELECT id FROM messages")}


@pytest.mark.parametrize("delete", [log_of, index_of, both_of])
def test_what_is_in_a_deleted_log_is_saved_and_the_file_opened_anew(
    broker: SQLiteBroker,
    backend: SQLiteBackend,
    file: Path,
    delete: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = [outgoing() for _ in range(20)]
    for message in sent:
        broker.send("q", [message])
    key = Key("a", "b")
    backend.put([Item(key=key, fields={"n": 1})])  # and is idle from then on
    delete(file)
    with pytest.raises(
        Refusal, match="what was in it is saved in the file, which is opened anew"
    ) as refused:
        broker.stats("q")
    assert broker.advice(refused.value) == "try again in a moment"
    assert "was deleted while it was in use" in caplog.text
    with suppress(Refusal):  # it may have opened it anew by now
        broker.stats("q")

    def goes_on() -> bool:
        with suppress(Refusal):
            return broker.stats("q").ready == len(sent)
        return False

    eventually(goes_on)
    broker.send("q", [late := outgoing()])
    assert eventually(lambda: seen(backend, key)) == {"n": 1}
    assert {each.id for each in broker.peek("q", count=50)} == {m.id for m in (*sent, late)}
    assert waiting(file) == {m.id for m in (*sent, late)}


def seen(backend: SQLiteBackend, key: Key) -> object:
    with suppress(Refusal):
        return backend.get([key], consistent=True)[key].fields
    return None


def test_a_copy_put_in_the_place_of_a_file_is_not_given_its_log(
    broker: SQLiteBroker, file: Path
) -> None:
    broker.send("q", [kept := outgoing()])
    with closing(sqlite3.connect(file)) as another:
        another.execute("VACUUM INTO ?", (f"{file}.copy",))
    for _ in range(50):
        broker.send("q", [outgoing()])
    os.replace(f"{file}.copy", file)
    assert [each.id for each in broker.peek("q", count=100)] == [kept.id]
    broker.send("q", [late := outgoing()])
    assert waiting(file) == {kept.id, late.id}
    with closing(sqlite3.connect(file)) as another:
        assert another.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
