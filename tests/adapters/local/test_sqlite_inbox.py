"""Messages that are appended to the inbox of a SQLite file are delivered as if they were in it."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudq.driver import Address, Code
from cloudq.testing import outgoing
from cloudq.testing.waiting import PATIENCE
from cloudq_local import sqlite_inbox
from cloudq_local.items import Refusal
from cloudq_local.sqlite import open_broker
from cloudq_local.sqlite_broker import SQLiteBroker
from tests.adapters.local.inboxes import QUEUE, address_in, inbox_of, opened, received, rows, sent
from tests.adapters.local.test_sqlite_processes import process


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
def another(address: Address) -> Iterator[SQLiteBroker]:
    with closing(open_broker(address)) as another:
        yield another


def test_a_plain_message_is_appended_and_then_taken_in(
    driver: SQLiteBroker, another: SQLiteBroker, address: Address, inbox: Path
) -> None:
    ids = sent(driver, 3)
    assert inbox.stat().st_mode & 0o777 == 0o600
    assert inbox.stat().st_size > 3 * 10
    assert rows(address) == 0
    assert received(another) == ids
    assert received(driver) == []


@pytest.mark.parametrize(
    "look",
    [
        lambda driver: driver.stats(QUEUE).ready,
        lambda driver: len(driver.peek(QUEUE, count=10)),
        lambda driver: driver.purge(QUEUE).count,
    ],
)
def test_all_who_look_see_what_was_appended(
    driver: SQLiteBroker, another: SQLiteBroker, look: Callable[[SQLiteBroker], int]
) -> None:
    sent(driver, 3)
    assert look(another) == 3


def test_what_a_deleted_queue_had_is_gone(driver: SQLiteBroker, another: SQLiteBroker) -> None:
    sent(driver, 3)
    another.delete(QUEUE)
    assert received(driver) == []


def test_one_sender_s_messages_keep_their_order(driver: SQLiteBroker) -> None:
    ids = sent(driver, 2)
    together = [outgoing(), outgoing()]
    driver.send(QUEUE, together)
    ids += [message.id for message in together] + sent(driver, 2)
    ids += sent(driver, size=100_000)  # too large to be appended
    ids += sent(driver)
    assert received(driver) == ids


def test_synced_and_other_processes_share_a_file(driver: SQLiteBroker, address: Address) -> None:
    with closing(open_broker(replace(address, options={}))) as synced:
        ids = sent(driver, 2) + sent(synced, 2)
        assert sorted(received(synced)) == sorted(ids)
        ids = sent(synced, 2) + sent(driver, 2)
        assert sorted(received(driver)) == sorted(ids)


def test_a_sender_that_closes_leaves_a_whole_database(
    driver: SQLiteBroker, address: Address
) -> None:
    with closing(open_broker(address)) as sender:
        sender.send(QUEUE, [outgoing()])
        sent(sender, 3)
    assert rows(address) == 4


def test_what_was_rolled_back_is_taken_in_again(driver: SQLiteBroker) -> None:
    ids = sent(driver, 3)
    with pytest.raises(ZeroDivisionError), driver._database.lock, driver._inbox.transaction():
        raise ZeroDivisionError
    assert received(driver) == ids


def test_a_long_inbox_begins_anew(
    driver: SQLiteBroker, another: SQLiteBroker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_inbox, "_LONG", 2_000)
    for _ in range(10):
        ids = sent(driver, 50)
        assert received(another) == ids
        assert inbox.stat().st_size < 2_000
        ids = sent(another, 5)
        assert received(driver) == ids


def test_a_sender_takes_in_what_nobody_else_has(
    driver: SQLiteBroker, address: Address, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_inbox, "_LONG", 1_000)
    monkeypatch.setattr(sqlite_inbox, "_FULL", 2_000)
    ids = sent(driver, 200)
    assert inbox.stat().st_size < 3_000
    assert rows(address) > 150
    assert received(driver) == ids


def test_a_death_between_the_commit_and_the_new_beginning_repeats_nothing(
    driver: SQLiteBroker, another: SQLiteBroker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sent(driver, 50)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_inbox, "_LONG", 0)
        patch.setattr(driver._inbox, "say", lambda *_: None)  # what a dead process says
        assert received(driver) == ids
    before = inbox.stat().st_size
    assert received(another) == []
    ids = sent(driver, 3)
    assert inbox.stat().st_size > before
    assert received(another) == ids


@pytest.mark.parametrize("cut", [1, 3, 9, 30])
def test_half_a_record_of_a_dead_sender_costs_nothing_else(
    driver: SQLiteBroker, inbox: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    ids = sent(driver, 2)
    dead = sent(driver)
    os.truncate(inbox, inbox.stat().st_size - cut)
    ids += sent(driver, 2)
    assert received(driver) == ids
    assert dead[0] not in ids
    assert "part of a message is left out" in caplog.text


def test_an_inbox_that_was_deleted_is_made_anew(
    driver: SQLiteBroker, another: SQLiteBroker, inbox: Path
) -> None:
    sent(driver)
    received(another)
    inbox.unlink()
    ids = sent(driver, 2)
    assert received(another) == ids


def test_the_inbox_of_a_deleted_database_goes_with_it(
    driver: SQLiteBroker, address: Address
) -> None:
    sent(driver, 3)
    Path(address.path).unlink()
    assert received(driver) == []
    ids = sent(driver, 2)
    assert received(driver) == ids


def test_the_inbox_of_another_database_is_not_taken_in(
    driver: SQLiteBroker, address: Address, inbox: Path, tmp_path: Path
) -> None:
    sent(driver, 3)
    other = replace(address, path=str(tmp_path / "other.db"))
    with closing(open_broker(other)) as stranger:
        stranger.send(QUEUE, [outgoing()])
        received(stranger)
        sent(stranger)
        received(stranger)
    inbox.rename(f"{other.path}-inbox")
    with closing(open_broker(other)) as stranger:
        assert received(stranger) == []
        stranger.send(QUEUE, [outgoing()])
        received(stranger)
        ids = sent(stranger, 2)
        assert received(stranger) == ids


def test_after_a_boot_what_is_there_is_taken_in_before_more_is_appended(
    driver: SQLiteBroker, address: Address, inbox: Path
) -> None:
    ids = sent(driver, 3)
    with closing(open_broker(address)) as later:
        later._inbox._boot = b"another boot ..."
        later.send(QUEUE, [outgoing()])
        received_before = later.receive(QUEUE, count=10, wait=0, lease=60)
        assert [delivery.id for delivery in received_before][:3] == ids
        later.ack(received_before)
        assert inbox.read_bytes().find(b"another boot ...") > 0
        ids = sent(later, 3)
        assert received(later) == ids


def test_what_a_power_loss_took_from_the_inbox_hides_nothing(
    driver: SQLiteBroker, address: Address, inbox: Path
) -> None:
    sent(driver, 10)
    received(driver)
    os.truncate(inbox, inbox.stat().st_size // 2)  # the database has seen more
    with closing(open_broker(address)) as later:
        later._inbox._boot = b"another boot ..."
        ids = sent(later, 20)
        assert received(later) == ids


def test_a_file_of_another_release_is_refused(
    driver: SQLiteBroker, inbox: Path, address: Address
) -> None:
    sent(driver)
    data = inbox.read_bytes()
    inbox.write_bytes(b"cloudq Z" + data[8:])
    with closing(open_broker(address)) as reader:
        with pytest.raises(Refusal, match="damaged, or of another release of cloudq"):
            reader.receive(QUEUE, count=1, wait=0, lease=1)
        assert reader.error_code(Refusal("", code=Code.INVALID)) == Code.INVALID


def test_where_nothing_can_be_appended_a_message_is_inserted(
    driver: SQLiteBroker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_inbox, "_LONG", 1 << 30)
    sent(driver)
    length = 50_000_000
    os.truncate(inbox, length)
    received(driver)
    ids = list[str]()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length + 50, hard))
    try:
        ids += sent(driver, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert inbox.stat().st_size == length
    assert received(driver) == ids


def test_an_inbox_that_another_process_keeps_locked_is_waited_for(
    address: Address, driver: SQLiteBroker, inbox: Path
) -> None:
    import fcntl

    sent(driver)
    short = replace(address, options={"synchronous": "normal", "busy_timeout": "0.2"})
    with closing(open_broker(short)) as waiting, inbox.open("rb") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        with pytest.raises(Refusal, match=r"keeps .* locked") as refused:
            waiting.receive(QUEUE, count=1, wait=0, lease=1)
        assert waiting.error_code(refused.value) == Code.THROTTLED


def test_a_forked_process_appends_for_itself(driver: SQLiteBroker) -> None:
    ids = sent(driver, 2)
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writes, " ".join(sent(driver, 2)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    ids += os.read(reads, 10_000).decode().split()
    os.close(reads)
    os.close(writes)
    ids += sent(driver)
    assert received(driver) == ids


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(st.lists(st.one_of(st.none(), st.binary(max_size=80)), max_size=12))
def test_garbage_between_records_hides_none(
    driver: SQLiteBroker, inbox: Path, parts: list[bytes | None]
) -> None:
    ids = list[str]()
    for part in parts:
        if part is None:
            ids += sent(driver)
        else:
            with inbox.open("ab") as file:
                file.write(part)
    assert received(driver) == ids


def churn(address: Address, pipe: Connection) -> None:
    """Send one by one from two threads, and tell of each that is sent, until killed."""
    driver = open_broker(address)
    driver.send(QUEUE, [outgoing()])
    telling = threading.Lock()

    def send() -> None:
        while True:
            message = outgoing(body=bytes(5_000))
            assert not driver.send(QUEUE, [message])
            with telling:
                pipe.send(message.id)

    threading.Thread(target=send, daemon=True).start()
    send()


def serve(address: Address, pipe: Connection) -> None:
    """Receive, tell the ids, and then ack, until killed."""
    sqlite_inbox._LONG = 20_000
    driver = open_broker(address)
    while True:
        deliveries = driver.receive(QUEUE, count=7, wait=0.2, lease=0.5)
        pipe.send([delivery.id for delivery in deliveries])
        driver.ack(deliveries)


def told(pipe: Connection) -> list[str]:
    found = list[str]()
    try:
        while pipe.poll(0):
            each = pipe.recv()
            found += [each] if isinstance(each, str) else each
    except EOFError:
        pass
    return found


def test_kills_lose_nothing_that_was_sent(driver: SQLiteBroker, address: Address) -> None:
    acknowledged, seen = set[str](), set[str]()
    for _ in range(6):
        with (
            process(churn, address) as (sender, told_sent),
            process(serve, address) as (
                worker,
                told_seen,
            ),
        ):
            for _ in range(150):
                assert told_sent.poll(PATIENCE)
                acknowledged.add(told_sent.recv())
                seen.update(told(told_seen))
            for child in (sender, worker):
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
                child.join()
            acknowledged.update(told(told_sent))
            seen.update(told(told_seen))
    waited = 0
    while driver.stats(QUEUE).ready + driver.stats(QUEUE).leased:
        deliveries = driver.receive(QUEUE, count=100, wait=1, lease=60)
        seen.update(delivery.id for delivery in deliveries)
        driver.ack(deliveries)
        waited += not deliveries
        assert waited < PATIENCE
    assert acknowledged - seen == set()
