"""The inbox of a SQLite file amid links, late processes, other files, and interruptions."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cloudq.driver import Address, Item, Key
from cloudq.errors import SoftTimeLimitExceeded
from cloudq.testing import outgoing
from cloudq.testing.waiting import PATIENCE
from cloudq_local import sqlite_inbox
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_broker import SQLiteBroker
from tests.adapters.local.inboxes import QUEUE, address_in, inbox_of, opened, received, rows, sent


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return address_in(tmp_path)


@pytest.fixture
def inbox(address: Address) -> Path:
    return inbox_of(address)


@pytest.fixture
def driver(address: Address) -> Iterator[SQLiteBroker]:
    with closing(opened(address)) as driver:
        yield driver


@pytest.fixture
def another(driver: SQLiteBroker, address: Address) -> Iterator[SQLiteBroker]:
    with closing(opened(address)) as another:
        yield another


def is_unlocked(inbox: Path) -> bool:
    with inbox.open("rb") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


# ---- other names, other users, other files


def test_all_names_of_a_file_have_one_inbox(
    driver: SQLiteBroker, address: Address, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(address.path)
    with closing(opened(replace(address, path=str(link)))) as linked:
        ids = sent(driver) + sent(linked) + sent(driver)
        assert received(linked) == ids
        ids = sent(driver) + sent(linked)
        assert received(driver) == ids


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_an_inbox_that_root_makes_is_the_user_s(address: Address, inbox: Path) -> None:
    with closing(open_broker(address)) as root:
        os.chown(address.path, 12345, 12345)
        root.send(QUEUE, [outgoing()])
        sent(root)
        assert (inbox.stat().st_uid, inbox.stat().st_gid) == (12345, 12345)


def test_who_cannot_tell_boots_apart_takes_in_what_others_append(
    driver: SQLiteBroker, address: Address, inbox: Path
) -> None:
    with closing(open_broker(address)) as unaware:
        unaware._inbox._boot, unaware._inbox.appends = None, False
        ids = sent(driver, 3)
        head = inbox.read_bytes()[:56]
        ids += sent(unaware)
        assert received(unaware) == ids
        ids = sent(driver)
        assert inbox.read_bytes()[:56] == head
        assert received(unaware) == ids


def test_after_the_inbox_of_another_file_came_messages_are_appended_again(
    driver: SQLiteBroker, address: Address, inbox: Path, tmp_path: Path
) -> None:
    sent(driver)
    received(driver)
    other = replace(address, path=str(tmp_path / "other.db"))
    with closing(opened(other)) as stranger:
        sent(stranger)
        inbox.unlink()
        shutil.copy(f"{other.path}-inbox", inbox)
    assert received(driver) == []
    ids = sent(driver, 2)
    assert rows(address) == 0
    assert received(driver) == ids


def replaced(address: Address) -> tuple[SQLiteBroker, list[str]]:
    """Put another file in place of one that is in use, and send to the new one."""
    path = Path(address.path)
    for each in path.parent.glob(f"{path.name}*"):
        each.rename(each.with_name(f"old.{each.name}"))
    new = opened(address)
    return new, sent(new)


def test_who_had_begun_before_the_file_was_replaced_takes_nothing_in_from_the_new_inbox(
    driver: SQLiteBroker, address: Address, inbox: Path
) -> None:
    sent(driver)
    with driver._database.lock, driver._database.unsynced():
        file = driver._inbox.there()
        assert file is not None
        inbox.rename(inbox.with_name("kept"))
        new, ids = replaced(address)
        with closing(new):
            # The new one's is in the place of the old: a file that was written over.
            os.pwrite(file, inbox.read_bytes(), 0)
            assert driver._inbox.insert(file) is None
            assert received(new) == ids


def test_the_inbox_of_a_newer_file_is_not_begun_anew(
    driver: SQLiteBroker, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(driver)
    new, ids = replaced(address)
    with closing(new), monkeypatch.context() as patch:
        driver._inbox._close()
        patch.setattr(driver._database, "check", lambda: None)  # it was replaced a moment later
        driver.send(QUEUE, [outgoing()])
        assert received(new) == ids


# ---- late processes, and losses


@pytest.mark.parametrize("dies", [False, True])
def test_what_is_said_late_is_not_said_of_a_newer_beginning(
    driver: SQLiteBroker,
    another: SQLiteBroker,
    address: Address,
    inbox: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies: bool,
) -> None:
    sent(driver)
    said, say = list[tuple[int, sqlite_inbox._Taken]](), driver._inbox.say
    with monkeypatch.context() as patch:
        patch.setattr(driver._inbox, "say", lambda *what: said.append(what))
        received(driver)
        patch.setattr(sqlite_inbox, "_LONG", 0)
        received(another)
    if dies:  # before it has written the new head
        os.truncate(inbox, 0)
    else:
        sent(another)
        received(another)
    before = inbox.read_bytes()
    say(*said[0])
    assert inbox.read_bytes() == before
    with closing(opened(address)) as later:
        ids = sent(later, 2)
        assert received(later) == ids


def test_a_head_of_zeros_is_a_loss_of_power(
    driver: SQLiteBroker, address: Address, inbox: Path
) -> None:
    sent(driver)
    received(driver)
    inbox.write_bytes(bytes(200))
    with closing(opened(address)) as later:
        ids = sent(later, 2)
        assert received(later) == ids
        assert inbox.read_bytes()[:6] == b"cloudq"


# ---- interruptions


@pytest.mark.parametrize("act", [sent, received], ids=["send", "receive"])
def test_who_is_interrupted_with_the_inbox_locked_unlocks_it(
    driver: SQLiteBroker,
    inbox: Path,
    act: Callable[[SQLiteBroker], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = sent(driver)
    lock = driver._inbox._lock

    def interrupted(file: int) -> None:
        lock(file)
        raise SoftTimeLimitExceeded

    with monkeypatch.context() as patch:
        patch.setattr(driver._inbox, "_lock", interrupted)
        with pytest.raises(SoftTimeLimitExceeded):
            act(driver)
    assert is_unlocked(inbox)
    assert received(driver) == ids


def test_a_handler_of_a_signal_that_raises_has_nothing_sent_twice(
    driver: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(driver)
    write = sqlite_inbox._write

    def interrupted(file: int, data: bytes, at: int) -> None:
        write(file, data, at)
        raise TimeoutError("of a library")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_inbox, "_write", interrupted)
        with pytest.raises(TimeoutError, match="of a library"):
            sent(driver)
    assert len(received(driver)) == 2


def test_a_time_limit_that_comes_while_a_sender_takes_in_is_raised(
    driver: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(sqlite_inbox, "_FULL", 0)
    with monkeypatch.context() as patch:
        patch.setattr(driver._inbox, "transaction", interrupted)
        with pytest.raises(SoftTimeLimitExceeded):
            sent(driver)
    assert len(received(driver)) == 1


def test_who_is_interrupted_as_it_waits_for_its_turn_keeps_no_lock(driver: SQLiteBroker) -> None:
    """As by a soft time limit, which comes when a thread gets the lock that it waits for."""
    sending, caught = threading.Event(), list[BaseException]()

    def send() -> None:
        try:
            sending.set()
            driver.send(QUEUE, [outgoing(group="g")])
        except SoftTimeLimitExceeded as error:
            caught.append(error)

    for _ in range(20):
        caught.clear()
        sending.clear()
        thread = threading.Thread(target=send, daemon=True)
        with driver._database.lock:
            thread.start()
            assert sending.wait(PATIENCE)
            assert thread.ident is not None
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SoftTimeLimitExceeded)
            )
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert driver._database.lock.acquire(timeout=1)
        driver._database.lock.release()


def test_a_transaction_whose_end_was_cut_off_is_undone(address: Address) -> None:
    with closing(open_backend(address)) as store, closing(open_backend(address)) as other:
        item = Item(key=Key("a"), fields={"n": 1})
        with store.database.lock:
            store.database.begin()
            store.write(store.database, store.rows([item])[0])
        assert store.get([item.key], consistent=True) == {}
        assert not other.put([item])


# ---- the clock


def test_unscheduling_after_the_clock_was_set_back_ends(
    driver: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (handle,) = driver.schedule(QUEUE, [outgoing(delay=60)])
    assert isinstance(handle, str)
    clock = driver._times._clock
    monkeypatch.setattr(driver._times, "_clock", lambda: clock() - 1_000)
    ended = list[object]()
    thread = threading.Thread(
        target=lambda: ended.append(driver.unschedule(QUEUE, [handle])), daemon=True
    )
    thread.start()
    thread.join(PATIENCE)
    assert ended == [[]]
