"""The SQLite driver between processes: shared files, sudden deaths, wake-ups, versions."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from threading import Thread

import pytest

from cloudq.driver import Address, BrokerDriver, Change, Code, Delivery, Item, Key
from cloudq.errors import ConfigurationError
from cloudq.testing import collect, outgoing
from cloudq.testing.waiting import PATIENCE
from cloudq_local.sqlite import open_backend, open_broker
from cloudq_local.wake import Bell

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def address(tmp_path: Path) -> Address:
    path = str(tmp_path / "queue.db")
    return Address(scheme="sqlite", path=path, options={"synchronous": "normal"})


@contextmanager
def process(
    work: Callable[[Address, Connection], None], address: Address
) -> Iterator[tuple[BaseProcess, Connection]]:
    ours, theirs = SPAWN.Pipe()
    child = SPAWN.Process(target=work, args=(address, theirs))
    child.start()
    theirs.close()
    try:
        yield child, ours
        child.join(PATIENCE)
    finally:
        child.kill()
        child.join()
        child.close()
        ours.close()


def echo(address: Address, pipe: Connection) -> None:
    """Receive one message after the other and tell when each has come, until `end`."""
    driver = open_broker(address)
    pipe.send("ready")
    body = b""
    while body != b"end":
        deliveries = driver.receive("queue", count=1, wait=PATIENCE, lease=600)
        arrived = time.monotonic()
        assert not driver.ack(deliveries)
        body = deliveries[0].body
        pipe.send((body, arrived))
        pipe.recv()
        pipe.send("here")
    driver.close()


def hold(address: Address, pipe: Connection) -> None:
    """Lease one message for 1 s and hang with it, and with a listening socket."""
    driver = open_broker(address)
    (delivery,) = driver.receive("queue", count=1, wait=PATIENCE, lease=1)
    pipe.send(delivery.id)
    driver.receive("other", count=1, wait=60, lease=1)


def consume(address: Address, pipe: Connection) -> None:
    """Ack what comes until nothing does, and tell the ids."""
    driver = open_broker(address)
    pipe.send("ready")
    ids: list[str] = []
    while deliveries := driver.receive("queue", count=7, wait=1, lease=60):
        assert not driver.ack(deliveries)
        ids += [delivery.id for delivery in deliveries]
    driver.close()
    pipe.send(ids)


def write(address: Address, pipe: Connection) -> None:
    """Count up, once told to."""
    backend = open_backend(address)
    pipe.send("ready")
    pipe.recv()
    for _ in range(100):
        backend.update(Key("counter"), Change(increment={"n": 1}))
    backend.close()


def test_a_message_wakes_a_receiver_in_another_process(address: Address) -> None:
    driver = open_broker(address)
    with process(echo, address) as (_, pipe):
        assert pipe.recv() == "ready"
        late, pace = list[float](), list[float]()
        for body in [b"message"] * 20 + [b"end"]:
            start = time.monotonic()
            driver.send("queue", [outgoing(body=body)])
            assert pipe.poll(PATIENCE)
            arrived_body, arrived = pipe.recv()
            assert arrived_body == body
            late.append(arrived - start)
            asked = time.monotonic()
            pipe.send("are you there?")
            assert pipe.recv() == "here"
            pace.append(time.monotonic() - asked)
    driver.close()
    # A receiver that polled would have to do so every few milliseconds to pass, or as often as this
    # machine lets two processes talk.
    assert median(late) < 0.02 + 10 * median(pace)


def test_a_write_wakes_a_watcher_of_another_process(address: Address) -> None:
    backend = open_backend(address)
    watcher = backend.watch()
    with process(write, address) as (_, pipe):
        assert pipe.recv() == "ready"
        pipe.send("go")
        while not (found := backend.get([Key("counter")], consistent=True)):
            assert watcher.wait(PATIENCE)
        while found[Key("counter")].fields["n"] != 100:
            assert watcher.wait(PATIENCE)
            found = backend.get([Key("counter")], consistent=True)
    watcher.close()
    backend.close()


def test_two_processes_share_a_queue(address: Address) -> None:
    driver = open_broker(address)
    with process(consume, address) as (_, one), process(consume, address) as (_, two):
        assert (one.recv(), two.recv()) == ("ready", "ready")
        sent = [outgoing() for _ in range(500)]
        for start in range(0, 500, 50):
            driver.send("queue", sent[start : start + 50])
        ids = one.recv() + two.recv()
    driver.close()
    assert sorted(ids) == sorted(message.id for message in sent)


def test_what_a_killed_process_held_comes_back(address: Address) -> None:
    driver = open_broker(address)
    message = outgoing()
    driver.send("queue", [message])
    with process(hold, address) as (child, pipe):
        assert pipe.recv() == message.id
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        (again,) = collect(driver, "queue", 1)
    assert (again.id, again.attempts) == (message.id, 2)
    # The next sender to its other queue finds the dead listener and cleans it away.
    driver.send("other", [outgoing()])
    driver.close()


def test_a_dead_listener_is_cleaned_away(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "queue.db")
    ear = bell.listen("queue")
    path = Path(ear.path)
    # The socket is closed but its name stays, as after a kill.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, ear.fileno())
    os.close(null)
    assert path.exists()
    bell.ring("other")
    assert path.exists()
    bell.ring("queue")
    assert not path.exists()
    ear.close()
    bell.close()


def test_a_full_listener_does_not_block_the_sender(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "queue.db")
    with bell.listen("queue") as ear:
        for _ in range(2_000):
            bell.ring("queue")
        assert ear.wait(0)
        assert not ear.wait(0)
    bell.close()


def test_a_message_survives_its_driver(address: Address) -> None:
    first = open_broker(address)
    message = outgoing()
    first.send("queue", [message])
    first.close()
    second = open_broker(address)
    assert collect(second, "queue", 1)[0].id == message.id
    second.close()


def test_broker_and_backend_share_a_file(address: Address) -> None:
    broker, backend = open_broker(address), open_backend(address)
    broker.send("queue", [outgoing()])
    backend.put([Item(key=Key("a"), fields={"b": 1})])
    assert len(collect(broker, "queue", 1)) == 1
    assert backend.get([Key("a")], consistent=True)
    broker.close()
    backend.close()


def test_expired_items_are_swept_in_passing(address: Address) -> None:
    backend = open_backend(address)
    past = time.time() - 10
    backend.put([Item(key=Key("old", f"{n}"), fields={}, expires=past) for n in range(100)])
    for number in range(3):
        backend.put([Item(key=Key("new", f"{number}-{n}"), fields={}) for n in range(64)])
    backend.close()
    connection = sqlite3.connect(address.path)
    assert connection.execute("SELECT count(*) FROM items").fetchone() == (192,)
    connection.close()


def test_a_newer_schema_is_refused(address: Address) -> None:
    open_broker(address).close()
    connection = sqlite3.connect(address.path)
    connection.execute("UPDATE cloudq_schema SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigurationError, match=r"schema 99 .* upgrade cloudq"):
        open_broker(address)


def test_a_long_write_elsewhere_is_throttling(address: Address) -> None:
    options = {"busy_timeout": "0.05"}
    driver = open_broker(Address(scheme="sqlite", path=address.path, options=options))
    connection = sqlite3.connect(address.path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as caught:
        driver.send("queue", [outgoing()])
    assert driver.error_code(caught.value) is Code.THROTTLED
    connection.execute("ROLLBACK")
    connection.close()
    assert not driver.send("queue", [outgoing()])
    driver.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"options": {"sync": "full"}},
            "no option 'sync': it takes busy_timeout, keep_dead, synchronous",
        ),
        ({"options": {"synchronous": "some"}}, "use one of full, normal, off"),
        ({"options": {"busy_timeout": "long"}}, "give a number of seconds"),
        ({"path": ""}, "sqlite:///relative/file.db"),
        ({"host": "file.db"}, "sqlite:///relative/file.db"),
        ({"path": "missing/file.db"}, "no directory .*missing for file.db: create it"),
    ],
)
def test_a_wrong_address_says_what_to_do(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_broker(Address(**{"scheme": "sqlite", "path": "file.db", **change}))  # type: ignore[arg-type]


def test_a_file_that_is_no_database_is_invalid(tmp_path: Path, address: Address) -> None:
    Path(address.path).write_bytes(b"not a database, but long enough to be one" * 10)
    with pytest.raises(ConfigurationError, match="not a SQLite database: name another"):
        open_broker(address)


def test_a_deleted_listener_directory_is_made_again(tmp_path: Path) -> None:
    first, second = Bell(tmp_path / "queue.db"), Bell(tmp_path / "queue.db")
    first.listen("queue").close()
    first.close()
    with second.listen("queue") as ear:
        second.ring("queue")
        assert ear.wait(0)
    second.close()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 2**63, -(2**70), 2**64 - 1])
def test_numbers_beyond_json_come_back(address: Address, value: float) -> None:
    backend = open_backend(address)
    backend.put([Item(key=Key("a"), fields={"n": value, "nil": None})])
    assert backend.get([Key("a")], consistent=True)[Key("a")].fields == {"n": value, "nil": None}
    backend.close()


def listeners(file: Path) -> list[str]:
    with closing(Bell(file)) as bell:
        folder = bell._folder  # pyright: ignore[reportPrivateUsage]
        return [each.name for each in folder.iterdir()] if folder.is_dir() else []


def receive_woken(file: Path, broker: BrokerDriver, other: BrokerDriver) -> None:
    """Receive a message that is sent once the receiver waits."""
    taken: list[Delivery] = []
    waiting = Thread(
        target=lambda: taken.extend(broker.receive("q", count=10, wait=PATIENCE, lease=60))
    )
    waiting.start()
    while all(name.startswith("-") for name in listeners(file)):
        time.sleep(0.001)
    other.send("q", [outgoing(body=b"woken")])
    waiting.join(PATIENCE)
    assert [each.body for each in taken] == [b"woken"]


def test_a_receiver_that_was_woken_listens_on(address: Address) -> None:
    file = Path(address.path)
    with closing(open_broker(address)) as broker, closing(open_broker(address)) as other:
        receive_woken(file, broker, other)
        [name] = listeners(file)
        assert not name.startswith("-")
        other.send("q", [outgoing(body=b"next")])  # while the first is in hand
        began = time.monotonic()
        [found] = broker.receive("q", count=10, wait=PATIENCE, lease=60)
        assert found.body == b"next"
        assert time.monotonic() - began < PATIENCE / 2
        [name] = listeners(file)
        assert name.startswith("-")  # messages that wait for their receiver need not ring


def test_one_that_listens_on_hears_again_after_its_directory_was_removed(address: Address) -> None:
    file = Path(address.path)
    with closing(open_broker(address)) as broker, closing(open_broker(address)) as other:
        receive_woken(file, broker, other)
        with closing(Bell(file)) as bell:
            folder = bell._folder  # pyright: ignore[reportPrivateUsage]
            for each in folder.iterdir():
                each.unlink()
        assert not folder.is_dir()
        assert not broker.receive("q", count=10, wait=1.5, lease=60)  # by the look of each second
        receive_woken(file, broker, other)
