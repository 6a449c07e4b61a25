"""The write-ahead log: where commits are synced it is made long once, and holds what it held."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cloudq.driver import Address
from cloudq.testing import outgoing
from cloudq.testing.waiting import PATIENCE
from cloudq_local import sqlite_log
from cloudq_local.sqlite import open_broker
from cloudq_local.sqlite_log import WriteAheadLog

QUEUE = "queue"
LONG = 4_000_000


def address_of(file: Path, synchronous: str) -> Address:
    return Address(scheme="sqlite", path=str(file), options={"synchronous": synchronous})


def size_of(file: Path) -> int:
    return file.with_name(f"{file.name}-wal").stat().st_size


@pytest.mark.parametrize("synchronous", ["full", "normal", "off"])
def test_the_log_is_made_long_where_commits_are_synced(tmp_path: Path, synchronous: str) -> None:
    file = tmp_path / "queue.db"
    with closing(open_broker(address_of(file, synchronous))) as broker:
        broker.send(QUEUE, [outgoing()])
        assert size_of(file) < LONG, "not for those who write once or twice"
        for _ in range(20):
            broker.send(QUEUE, [outgoing()])
        assert (size_of(file) > LONG) is (synchronous == "full")
        long = size_of(file)
        for _ in range(1500):
            broker.send(QUEUE, [outgoing()])
        # SQLite begins it anew, and it grows no more.
        assert synchronous != "full" or size_of(file) == long


def test_two_who_write_make_it_long_and_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    address = address_of(file, "full")
    sent = [outgoing() for _ in range(60)]
    with closing(open_broker(address)) as one, closing(open_broker(address)) as two:
        for place, message in enumerate(sent):
            (one, two)[place % 2].send(QUEUE, [message])
        assert size_of(file) > LONG
        assert {seen.id for seen in two.peek(QUEUE, count=100)} == {each.id for each in sent}


def test_a_full_disk_keeps_it_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "full.db-wal"
    log.write_bytes(b"some frames")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(sqlite_log.os, "fdatasync", full)
    WriteAheadLog(str(tmp_path / "full.db")).make_room()
    assert log.read_bytes() == b"some frames"
    WriteAheadLog(str(tmp_path / "missing.db")).make_room()


def send_on(address: Address, pipe: Connection) -> None:
    """Send one message after the other, and tell of each that is sent, until killed."""
    broker = open_broker(address)
    while True:
        message = outgoing()
        broker.send(QUEUE, [message])
        pipe.send(message.id)


@pytest.mark.parametrize("kills", range(1, 30, 4))
def test_killed_around_the_moment_when_it_is_made_long_nothing_is_lost(
    tmp_path: Path, kills: int
) -> None:
    """The log is made long with the eighth message or so; two write at the same time."""
    file = tmp_path / "queue.db"
    context = get_context("spawn")
    pairs = [context.Pipe(duplex=False) for _ in range(2)]
    children = [
        context.Process(target=send_on, args=(address_of(file, "full"), theirs))
        for _, theirs in pairs
    ]
    for child in children:
        child.start()
    sent: set[str] = set()
    for _ in range(kills):
        assert pairs[0][0].poll(PATIENCE)
        sent.add(pairs[0][0].recv())
    for child in children:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    for child, (ours, theirs) in zip(children, pairs, strict=True):
        child.join()
        theirs.close()
        while ours.poll(0):
            try:
                sent.add(ours.recv())
            except EOFError:
                break
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {id for (id,) in database.execute("SELECT id FROM messages")}
    assert sent <= found
    assert len(found - sent) <= 2, "those of which the killed had not told yet"
