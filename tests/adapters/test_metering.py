"""The meters of Google's and Azure's drivers count what reaches the service, as it is billed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from cloudq.driver import Change, Item, Key
from cloudq.driver.loader import open_backend, open_broker
from cloudq.testing import collect, outgoing
from cloudq.testing.waiting import HELD
from localstack.servers import Endpoint
from tests.servers import unique

FIVE = [Key(f"task#{number}") for number in range(5)]


def counted(driver: Any) -> dict[tuple[str, str, str], tuple[float, float, float]]:
    return {
        tuple(spot): (row.requests, row.items, row.units)
        for spot, row in driver.meter.rows().items()
    }


def test_pubsub_counts_the_bytes_of_publishes_and_pulls(pubsub: Endpoint) -> None:
    name = unique()
    url = f"pubsub://cloudq-tests?emulator=127.0.0.1:{pubsub.port}&prefix=shop-"
    with closing(open_broker(f"{url}&subscription={{queue}}-workers")) as driver:
        made: Any = driver
        made.create(name, lease=30, max_deliveries=5)
        messages = [outgoing() for _ in range(20)]
        driver.send(name, messages)
        driver.send(name, messages[:1])
        got = collect(driver, name, 21)
        driver.extend(got, lease=HELD)
        driver.ack(got)
        found = counted(driver)
        made.delete(name)
    size = sum(len(message.body) + 81 for message in messages)
    assert size > 1000
    assert found["send", name, "pubsub_tib"] == (2, 21, size + 1000)
    assert found["receive", name, "pubsub_tib"][1] == 21
    # A receive sets the lease of what it got. Leases and acks are free.
    requests, items, units = found["extend", name, ""]
    assert (requests >= 2, items, units) == (True, 42, 0)
    assert found["ack", name, ""] == (1, 21, 0)


def test_firestore_counts_documents(firestore: Endpoint) -> None:
    url = f"firestore://cloudq-tests/{unique()}?emulator=127.0.0.1:{firestore.port}"
    with closing(open_backend(url)) as driver:
        driver.put([Item(key=key, fields={"a": 1}, expires=time.time() + 60) for key in FIVE])
        driver.get([*FIVE, Key("task#gone")], consistent=True)
        driver.update(FIVE[0], Change(set={"a": 2}))
        driver.update(Key("workers", "one"), Change(set={"a": 2}))
        driver.query("events#a#SUCCESS", after=None, limit=10)
        driver.delete(FIVE)
        assert counted(driver) == {
            ("put", "task", "firestore_write"): (2, 6, 6),
            ("get", "task", "firestore_read"): (2, 7, 7),
            ("get", "workers", "firestore_read"): (1, 1, 1),
            ("put", "workers", "firestore_write"): (1, 1, 1),
            # A query that finds nothing is billed as a read.
            ("query", "events", "firestore_read"): (1, 0, 1),
            ("delete", "task", "firestore_delete"): (1, 5, 5),
        }


@pytest.fixture
def table(tables: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in tables.environment.items():
        monkeypatch.setenv(name, value)
    name = unique("t").replace("-", "")
    url = tables.environment["CLOUDQ_BACKEND"].replace("/cloudq?", f"/{name}?")
    with closing(open_backend(url)) as driver:
        made: Any = driver
        made.create_store()
        yield made
        made.client.delete_table()


def test_tables_counts_each_request_that_goes_out(table: Any) -> None:
    sent: list[str] = []
    send = table.client._client._client._pipeline._transport.send

    def watched(request: Any, **options: Any) -> Any:
        sent.append(request.method)
        return send(request, **options)

    before = sum(row.requests for row in table.meter.rows().values())
    table.client._client._client._pipeline._transport.send = watched
    table.put([Item(key=key, fields={"a": 1}) for key in FIVE])
    table.put([Item(key=Key("join#1", sort), fields={"a": 1}) for sort in "abc"])
    table.get(FIVE, consistent=True)
    table.update(FIVE[0], Change(set={"a": 2}))
    table.query("workers", after=None, limit=10)
    table.delete(FIVE)
    found = counted(table)
    assert found["put", "task", "tables_transaction"][2] >= 5 + 1
    assert found["get", "task", "tables_transaction"] == (6, 6, 6)
    assert found["delete", "task", "tables_transaction"] == (5, 5, 5)
    assert found["query", "", "tables_transaction"] == (1, 1, 1)
    total = sum(row.requests for row in table.meter.rows().values())
    assert total - before == len(sent) == 5 + 1 + 5 + 2 + 1 + 5


@pytest.mark.parametrize("suffix", ["", ".fifo"])
def test_service_bus_counts_each_message_of_a_batch(servicebus: Endpoint, suffix: str) -> None:
    name = unique() + suffix
    with closing(open_broker(servicebus.environment["CLOUDQ_BROKER"])) as driver:
        made: Any = driver
        made.create(name, lease=30, max_deliveries=5)
        driver.send(name, [outgoing() for _ in range(5)])
        got = collect(driver, name, 5)
        driver.extend(got, lease=HELD)
        driver.ack(got)
        assert driver.receive(name, count=1, wait=0.1, lease=HELD) == []
        found = counted(driver)
        made.delete(name)
    price = "servicebus_operation"
    assert found["send", name, price] == (1, 5, 5)
    assert found["receive", name, price][1:] == (5, 5)
    assert found["extend", name, price][2] == 5
    assert found["ack", name, price][2] == 5
    assert found["poll", name, price][2] >= 1
