"""Records and acks in one transaction of a SQLite file, and what of it a power loss may take."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cloudq.driver import Address, Delivery, Item, Key, StoreBeside
from cloudq.testing import outgoing
from cloudq.testing.waiting import PATIENCE
from cloudq_local.memory import open_backend as open_memory
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_backend import LIMITS, SQLiteBackend
from cloudq_local.sqlite_broker import SQLiteBroker
from tests.support.commits import commits

QUEUE = "queue"


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Address(
        scheme="sqlite", path=str(tmp_path / "both.db"), options={"synchronous": "normal"}
    )


@pytest.fixture
def broker(address: Address) -> Iterator[SQLiteBroker]:
    with closing(open_broker(address)) as driver:
        yield driver


@pytest.fixture
def store(address: Address) -> Iterator[SQLiteBackend]:
    with closing(open_backend(address)) as driver:
        yield driver


def leased(broker: SQLiteBroker, count: int = 1, *, group: str | None = None) -> list[Delivery]:
    broker.send(QUEUE, [outgoing(group=group) for _ in range(count)])
    return list(broker.receive(QUEUE, count=count, wait=0.0, lease=60.0))


def left(broker: SQLiteBroker) -> int:
    stats = broker.stats(QUEUE)
    return sum(count or 0 for count in (stats.ready, stats.delayed, stats.leased))


def stored(store: SQLiteBackend, *names: str) -> list[str]:
    return [key.partition for key in store.get([Key(name) for name in names], consistent=True)]


def item(name: str, value: str = "1") -> Item:
    return Item(key=Key(name), fields={"value": value})


def test_a_store_in_the_same_file_is_beside(
    broker: SQLiteBroker, store: SQLiteBackend, address: Address, tmp_path: Path
) -> None:
    assert isinstance(broker, StoreBeside)
    assert broker.is_beside(store)
    others = (
        replace(address, path=str(tmp_path / "other.db")),
        replace(address, options={"synchronous": "full"}),  # its records are to be more durable
    )
    for other in others:
        with closing(open_backend(other)) as elsewhere:
            assert not broker.is_beside(elsewhere)
    with closing(open_memory(Address(scheme="memory", host="beside"))) as memory:
        assert not broker.is_beside(memory)


def test_records_and_acks_are_written_in_one_transaction(
    broker: SQLiteBroker, store: SQLiteBackend, address: Address
) -> None:
    deliveries = leased(broker, 3)
    before = commits(address.path)
    assert broker.settle(store, [item("a"), item("b"), item("c")], deliveries)
    assert commits(address.path) == before + 1
    assert stored(store, "a", "b", "c") == ["a", "b", "c"]
    assert left(broker) == 0


def test_with_one_lease_lost_nothing_is_written(broker: SQLiteBroker, store: SQLiteBackend) -> None:
    mine, lost = leased(broker, 2)
    broker.release([lost], after=0.0)
    assert not broker.settle(store, [item("a"), item("b")], [mine, lost])
    assert stored(store, "a", "b") == []
    assert left(broker) == 2
    assert broker.settle(store, [item("a")], [mine]), "its lease holds as before"
    assert (stored(store, "a"), left(broker)) == (["a"], 1)


def test_with_one_item_too_large_nothing_is_written(
    broker: SQLiteBroker, store: SQLiteBackend
) -> None:
    deliveries = leased(broker, 2)
    items = [item("a"), item("b", "x" * (LIMITS.item + 1))]
    assert not broker.settle(store, items, deliveries)
    assert (stored(store, "a", "b"), left(broker)) == ([], 2)
    assert not broker.ack(deliveries)


def test_the_next_of_a_group_comes_and_its_receiver_is_woken(
    broker: SQLiteBroker, store: SQLiteBackend
) -> None:
    (first,) = leased(broker, 1, group="g")
    broker.send(QUEUE, [outgoing(group="g")])
    assert not broker.receive(QUEUE, count=1, wait=0.0, lease=60.0)
    with broker._bell.listen(QUEUE) as ear:  # pyright: ignore[reportPrivateUsage]
        assert broker.settle(store, [item("a")], [first])
        assert ear.wait(0)
    assert len(broker.receive(QUEUE, count=1, wait=0.0, lease=60.0)) == 1


def test_who_waits_for_a_record_is_woken_after_it_is_there(
    broker: SQLiteBroker, store: SQLiteBackend
) -> None:
    deliveries = leased(broker)
    with closing(store.watch()) as watcher:
        assert broker.settle(store, [item("a")], deliveries)
        assert watcher.wait(0)
        assert stored(store, "a") == ["a"]


def test_what_has_expired_is_swept_as_by_the_store_itself(
    broker: SQLiteBroker, store: SQLiteBackend, address: Address
) -> None:
    expired = [replace(item(f"old-{n}"), expires=1.0) for n in range(100)]
    assert broker.settle(store, expired, leased(broker))
    for n in range(3):
        fresh = [item(f"new-{n}-{m}") for m in range(64)]
        assert broker.settle(store, fresh, leased(broker))
    with closing(sqlite3.connect(address.path)) as other:
        assert other.execute("SELECT count(*) FROM items").fetchone() == (192,)


def settle_on(address: Address, pipe: Connection) -> None:
    """Settle one message after the other, each with a record of its id, until killed."""
    broker, store = open_broker(address), open_backend(address)
    pipe.send("ready")
    while deliveries := broker.receive(QUEUE, count=3, wait=0.0, lease=600.0):
        assert broker.settle(store, [item(each.id) for each in deliveries], deliveries)
    pipe.send("done")


@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_killed_at_any_moment_each_message_is_there_or_recorded(
    address: Address, synchronous: str
) -> None:
    address = replace(address, options={"synchronous": synchronous})
    sent = [outgoing() for _ in range(400)]
    with closing(open_broker(address)) as broker, closing(open_backend(address)) as store:
        for start in range(0, len(sent), 200):
            broker.send(QUEUE, sent[start : start + 200])
        for _ in range(4):
            ours, theirs = get_context("spawn").Pipe()
            child = get_context("spawn").Process(target=settle_on, args=(address, theirs))
            child.start()
            assert ours.poll(PATIENCE)
            assert ours.recv() == "ready"
            before = left(broker)
            while left(broker) > before - 50 and child.is_alive():
                pass
            child.kill()
            child.join()
            assert child.exitcode in (0, -signal.SIGKILL)
            messages = _ids(address)
            records = set(stored(store, *(message.id for message in sent)))
            assert messages | records == {message.id for message in sent}
            assert not messages & records


def _ids(address: Address) -> set[str]:
    with closing(sqlite3.connect(address.path)) as other:
        return {id for (id,) in other.execute("SELECT id FROM messages")}


# ---- what is synced


@pytest.mark.parametrize(
    ("synchronous", "lease", "else_"), [("full", 1, 2), ("normal", 1, 1), ("off", 0, 0)]
)
def test_only_leases_are_not_synced(
    address: Address, synchronous: str, lease: int, else_: int
) -> None:
    address = replace(address, options={"synchronous": synchronous})
    with closing(open_broker(address)) as broker, closing(open_backend(address)) as store:
        database = broker._database  # pyright: ignore[reportPrivateUsage]

        def level() -> int:
            return database.read("PRAGMA synchronous")[0][0]

        (one,) = leased(broker)
        assert level() == lease
        broker.send(QUEUE, [outgoing(), outgoing()])
        assert level() == else_
        (two,) = broker.receive(QUEUE, count=1, wait=0.0, lease=60.0)
        broker.extend([two], lease=60.0)
        assert level() == lease
        broker.settle(store, [item("a")], [one])
        assert level() == else_
        broker.extend([two], lease=60.0)
        broker.release([two], after=0.0)
        assert level() == else_
        leased(broker)
        broker.send(QUEUE, [outgoing()])  # one alone is sent without a transaction of its own
        assert level() == else_


def test_a_file_made_anew_is_synced_again(address: Address) -> None:
    address = replace(address, options={"synchronous": "full"})
    with closing(open_broker(address)) as broker:
        leased(broker)
        for each in Path(address.path).parent.iterdir():
            each.unlink()
        broker.send(QUEUE, [outgoing()])
        database = broker._database  # pyright: ignore[reportPrivateUsage]
        assert database.read("PRAGMA synchronous") == [(2,)]
        (delivery,) = broker.receive(QUEUE, count=1, wait=0.0, lease=60.0)
        assert not broker.ack([delivery])
        assert database.read("PRAGMA synchronous") == [(2,)]
