"""All that can be read of a damaged SQLite file is saved, by the command that its errors name."""

from __future__ import annotations

import os
import random
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cloudq.driver import Address, Item, Key
from cloudq.testing import outgoing
from cloudq_local.recover import main, recover
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_errors import advice

COUNT = 100
PAGE = 4096


def filled(file: Path) -> set[str]:
    """Make a file with messages and items, as a stop of all that used it leaves it; their ids."""
    address = Address(scheme="sqlite", path=str(file), options={})
    sent = [outgoing(body=f"{n:03}".encode() * 500) for n in range(COUNT)]
    with closing(open_broker(address)) as broker, closing(open_backend(address)) as backend:
        for message in sent:
            broker.send("q", [message])
            key = Key(f"task#{message.id}", "record")
            backend.put([Item(key=key, fields={"id": message.id}, expires=9e9)])
        broker.create("other", lease=5, max_deliveries=7)
    return {message.id for message in sent}


def found(file: Path) -> tuple[set[str], set[str]]:
    """The ids of the messages that come, and those of the items."""
    address = Address(scheme="sqlite", path=str(file), options={})
    with closing(open_broker(address)) as broker, closing(open_backend(address)) as backend:
        came = {d.id for d in broker.receive("q", count=2 * COUNT, wait=0.0, lease=60.0)}
        backend.check_store()
        with closing(sqlite3.connect(file)) as database:
            keys = [Key(*key) for key in database.execute("SELECT partition, sort FROM items")]
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        items = backend.get(keys, consistent=True)
        return came, {str(item.fields["id"]) for item in items.values()}


def _nothing(file: Path) -> None:
    pass


def _header(file: Path) -> None:
    with file.open("r+b") as pages:
        pages.write(random.Random(1).randbytes(100))


def _first_page(file: Path) -> None:
    with file.open("r+b") as pages:
        pages.write(bytes(PAGE))


def _a_page_in_twenty(file: Path) -> None:
    with file.open("r+b") as pages:
        for page in range(25, file.stat().st_size // PAGE, 20):
            pages.seek(page * PAGE)
            pages.write(random.Random(page).randbytes(PAGE))


def _the_last_fifth(file: Path) -> None:
    os.truncate(file, file.stat().st_size * 4 // 5)


@pytest.mark.parametrize(
    ("damage", "messages", "items"),
    [
        (_nothing, COUNT, COUNT),
        (_header, COUNT, COUNT),
        (_first_page, COUNT, COUNT),
        (_a_page_in_twenty, 60, 1),
        (_the_last_fifth, 50, 1),
    ],
)
def test_what_can_be_read_is_saved(
    tmp_path: Path, damage: Callable[[Path], None], messages: int, items: int
) -> None:
    file, new = tmp_path / "old.db", tmp_path / "new.db"
    sent = filled(file)
    damage(file)
    before = file.read_bytes()
    counts = recover(file, new)
    assert file.read_bytes() == before
    came, stored = found(new)
    print(damage.__name__, counts, len(came), len(stored))
    assert came <= sent
    assert stored <= sent
    assert len(came) >= messages
    assert len(stored) >= items
    assert sorted(path.name for path in tmp_path.iterdir() if "new" in path.name) == ["new.db"]


def test_what_was_appended_and_not_taken_in_is_saved(tmp_path: Path) -> None:
    file, new = tmp_path / "old.db", tmp_path / "new.db"
    sent = filled(file)
    address = Address(scheme="sqlite", path=str(file), options={"synchronous": "normal"})
    broker = open_broker(address)
    broker.send("q", [outgoing()])
    broker.send("q", [late := outgoing()])
    assert file.with_name("old.db-inbox").stat().st_size
    recover(file, new)
    assert found(new)[0] >= {*sent, late.id}
    broker.close()


def test_it_is_the_command_that_the_error_names(tmp_path: Path) -> None:
    file, new = tmp_path / "old.db", tmp_path / "new.db"
    sent = filled(file)
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _header(file)
    told = ""
    with closing(sqlite3.connect(file)) as database:
        try:
            database.execute("SELECT * FROM items")
        except sqlite3.DatabaseError as error:
            told = advice(error) or ""
    command = told.partition('"')[2].partition('"')[0]
    words = [sys.executable, *shlex.split(command)[1:-2], str(file), str(new)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"saved in {new}: {COUNT} messages, 0 dead, {COUNT} items\n"
    assert found(new)[0] == sent


def test_it_refuses_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.db"
    assert main(["one"]) == 2
    assert main([str(file), str(tmp_path / "new.db")]) == 1
    file.touch()
    assert main([str(file), str(file)]) == 1
    said = capsys.readouterr().err
    assert "usage: python -m cloudq_local.recover FILE NEW" in said
    assert f"there is no file {file}" in said
    assert f"{file} is there already: name a new file" in said
