"""Brokers of SQLite files whose messages are appended to an inbox, for the tests of that."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from cloudq.driver import Address
from cloudq.testing import outgoing
from cloudq_local.sqlite import open_broker
from cloudq_local.sqlite_broker import SQLiteBroker

QUEUE = "queue"


def address_in(folder: Path) -> Address:
    """Return the address of a file whose commits are not synced, so that it has an inbox."""
    path = str(folder / "queue.db")
    return Address(scheme="sqlite", path=path, options={"synchronous": "normal"})


def inbox_of(address: Address) -> Path:
    """Return the path of the inbox of a file."""
    return Path(f"{address.path}-inbox")


def opened(address: Address) -> SQLiteBroker:
    """Open a broker that knows the queue, so that it appends what it sends."""
    driver = open_broker(address)
    driver.create(QUEUE, lease=60, max_deliveries=5)
    driver.send(QUEUE, [outgoing()])
    driver.purge(QUEUE)
    return driver


def sent(driver: SQLiteBroker, count: int = 1, size: int = 10) -> list[str]:
    """Send messages one by one, and return their ids."""
    ids = list[str]()
    for _ in range(count):
        message = outgoing(body=os.urandom(size))
        assert not driver.send(QUEUE, [message])
        ids.append(message.id)
    return ids


def received(driver: SQLiteBroker) -> list[str]:
    """Receive and ack all that is there, and return the ids in their order."""
    ids = list[str]()
    while deliveries := driver.receive(QUEUE, count=100, wait=0, lease=60):
        assert not driver.ack(deliveries)
        ids += [delivery.id for delivery in deliveries]
    return ids


def rows(address: Address) -> int:
    """Return the number of messages in the database itself."""
    with closing(sqlite3.connect(address.path)) as connection:
        return connection.execute("SELECT count(*) FROM messages").fetchone()[0]
