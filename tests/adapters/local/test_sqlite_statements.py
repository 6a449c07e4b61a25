"""Many rows of a SQLite file take few statements.

SQLite's module lets go of the interpreter's lock in each statement, and where another thread
computes it gets that back after 5 ms: with a statement for each, 256 messages took over a second.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudq.driver import Address, Item, Key
from cloudq.testing import outgoing
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.sqlite_backend import SQLiteBackend
from cloudq_local.sqlite_broker import SQLiteBroker

MANY, FEW = 200, 20
Counted = list[str]


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counted:
    seen: Counted = []
    connect = sqlite3.connect

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        made = connect(*args, **options)
        made.set_trace_callback(seen.append)
        return made

    monkeypatch.setattr(sqlite3, "connect", traced)
    return seen


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Address(scheme="sqlite", path=str(tmp_path / "queue.db"))


@pytest.fixture
def broker(statements: Counted, address: Address) -> Iterator[SQLiteBroker]:
    driver = open_broker(address)
    driver.send("queue", [outgoing()])
    yield driver
    driver.close()


@pytest.fixture
def store(statements: Counted, address: Address) -> Iterator[SQLiteBackend]:
    driver = open_backend(address)
    yield driver
    driver.close()


def is_few(statements: Counted, run: Callable[[], object]) -> bool:
    statements.clear()
    run()
    return 0 < len(statements) < FEW


def test_messages_that_are_sent_together(statements: Counted, broker: SQLiteBroker) -> None:
    messages = [outgoing() for _ in range(MANY)]
    assert is_few(statements, lambda: broker.send("queue", messages))
    taken = broker.receive("queue", count=MANY + 1, wait=0, lease=60)
    assert [delivery.id for delivery in taken[1:]] == [message.id for message in messages]


def test_large_messages_are_sent_one_by_one(statements: Counted, broker: SQLiteBroker) -> None:
    """A statement keeps the values that it was given last: of many large ones too much."""
    messages = [outgoing(body=bytes([n]) * (100 << 10)) for n in range(64)]
    statements.clear()
    broker.send("queue", messages)
    assert len(statements) > len(messages)
    taken = broker.receive("queue", count=MANY, wait=0, lease=60)
    assert [delivery.body for delivery in taken[1:]] == [message.body for message in messages]


def test_messages_that_were_appended(statements: Counted, broker: SQLiteBroker) -> None:
    messages = [outgoing() for _ in range(MANY)]
    for message in messages:
        broker.send("queue", [message])
    assert is_few(statements, lambda: broker.stats("queue"))
    taken = broker.receive("queue", count=MANY + 1, wait=0, lease=60)
    assert [delivery.id for delivery in taken[1:]] == [message.id for message in messages]


@pytest.mark.parametrize("how", ["ack", "extend", "release", "dead_letter"])
def test_messages_that_are_settled(statements: Counted, broker: SQLiteBroker, how: str) -> None:
    broker.send("queue", [outgoing() for _ in range(MANY)])
    taken = broker.receive("queue", count=MANY, wait=0, lease=60)
    settle: dict[str, Callable[[], object]] = {
        "ack": lambda: broker.ack(taken),
        "extend": lambda: broker.extend(taken, lease=60),
        "release": lambda: broker.release(taken, after=0),
        "dead_letter": lambda: broker.dead_letter(taken, reason="too old"),
    }
    assert is_few(statements, settle[how])
    assert broker.stats("queue").leased == (MANY if how == "extend" else 0)
    assert broker.stats("queue").dead == (MANY if how == "dead_letter" else 0)


def test_dead_letters_keep_the_order_of_their_messages(broker: SQLiteBroker) -> None:
    broker.send("queue", [outgoing() for _ in range(MANY)])
    taken = broker.receive("queue", count=MANY, wait=0, lease=60)
    broker.dead_letter([*reversed(taken)], reason="too old")
    dead = broker.peek_dead("queue", count=MANY)
    assert [message.id for message in dead] == [delivery.id for delivery in taken]


def test_items_that_are_read_together(statements: Counted, store: SQLiteBackend) -> None:
    items = [Item(key=Key("app", f"é {n}\"'\\"), fields={"n": n}) for n in range(MANY)]
    store.put(items)
    keys = [item.key for item in items]
    assert is_few(statements, lambda: store.get(keys, consistent=True))
    assert list(store.get([*keys, Key("app", "none")], consistent=True).values()) == items


def test_items_whose_keys_sqlite_cannot_read_in_a_list(store: SQLiteBackend) -> None:
    items = [Item(key=Key("app", f"a\0{n}"), fields={"n": n}) for n in range(3)]
    store.put(items)
    found = store.get([item.key for item in items], consistent=True)
    assert [dict(found[item.key].fields) for item in items] == [{"n": n} for n in range(3)]
