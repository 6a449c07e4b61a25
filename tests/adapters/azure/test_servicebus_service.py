"""Behaviour of Service Bus that no contract covers: requests, links, locks, sessions, refusals."""

from __future__ import annotations

import json
import pickle
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.management import ServiceBusAdministrationClient

from cloudq.driver import Address, Code, Delivery, Failure, QueueAdmin, Scheduling
from cloudq.errors import ConfigurationError
from cloudq.testing import collect, eventually, outgoing
from cloudq.testing.waiting import HELD, PATIENCE
from cloudq_azure import client as clients
from cloudq_azure.messages import receipt_of
from cloudq_azure.servicebus import ServiceBus, open_broker
from localstack.servers import Endpoint
from tests.servers import SOON, unique

VARIABLE = "AZURE_SERVICEBUS_CONNECTION_STRING"


class Peer:
    """The stand-in: its URL, what it has counted, and the trouble that it makes on demand."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.url = endpoint.environment["CLOUDQ_BROKER"]
        found = re.fullmatch(r"servicebus://(.+)\?emulator=true&admin=(.+)", self.url)
        assert found is not None
        self.host, self.admin = found[1], found[2]

    def address(self, **options: str) -> Address:
        given = {"emulator": "true", "admin": self.admin, **options}
        return Address(scheme="servicebus", host=self.host, options=given, url=self.url)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.admin}/{path}", data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=PATIENCE) as reply:
            return json.load(reply)

    def fault(self, **wanted: object) -> None:
        self.ask("POST", "_faults", wanted)

    def counted(self, work: Callable[[], object]) -> dict[str, int]:
        """The operations that the server counts while `work` runs."""
        before = self.ask("GET", "_stats")
        work()
        after = self.ask("GET", "_stats")
        return {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name)}

    def stranger(self) -> ServiceBusClient:
        text = f"Endpoint=sb://{self.host};SharedAccessKeyName=any;SharedAccessKey=any;"
        return ServiceBusClient.from_connection_string(text + "UseDevelopmentEmulator=true")


@pytest.fixture
def peer(servicebus: Endpoint) -> Iterator[Peer]:
    """A server without trouble."""
    peer = Peer(servicebus)
    peer.ask("DELETE", "_faults")
    yield peer
    peer.ask("DELETE", "_faults")


@pytest.fixture
def driver(peer: Peer) -> Iterator[ServiceBus]:
    """A driver on the stand-in."""
    driver = open_broker(peer.address())
    yield driver
    driver.close()


@pytest.fixture
def admin(peer: Peer) -> Iterator[ServiceBusAdministrationClient]:
    """Microsoft's own client for queues."""
    with clients.access(peer.address()).admin() as client:
        yield client


@pytest.fixture(params=["", ".fifo"])
def queue(driver: ServiceBus, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new queue of each kind."""
    name = unique() + request.param
    driver.create(name, lease=30, max_deliveries=5)
    yield name
    driver.delete(name)


@pytest.fixture
def plain(driver: ServiceBus) -> Iterator[str]:
    """A new queue without sessions."""
    name = unique()
    driver.create(name, lease=30, max_deliveries=5)
    yield name
    driver.delete(name)


@pytest.fixture
def ordered(driver: ServiceBus) -> Iterator[str]:
    """A new queue with sessions."""
    name = unique() + ".fifo"
    driver.create(name, lease=30, max_deliveries=5)
    yield name
    driver.delete(name)


def failed(driver: ServiceBus, work: Callable[[], object]) -> Code:
    """The code of the error that `work` raises, soon."""
    start = time.monotonic()
    with pytest.raises(Exception) as caught:
        work()
    assert time.monotonic() - start < SOON
    return driver.error_code(caught.value)


class TestRequests:
    def test_a_batch_is_one_request_each_way(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing()])
        held = collect(driver, plain, 1)
        driver.extend(held, lease=1)
        driver.ack(held)  # every link is open now
        sent = peer.counted(lambda: driver.send(plain, [outgoing() for _ in range(100)]))
        assert sent == {"transfers": 1, "messages": 100}
        found: list[Delivery] = []
        peer.counted(lambda: found.extend(driver.receive(plain, count=100, wait=1, lease=1)))
        assert len(found) == 100
        assert peer.counted(lambda: driver.extend(found, lease=1)) == {"management": 1}
        assert peer.counted(lambda: driver.ack(found)) == {"management": 1}
        assert driver.stats(plain).ready == 0

    def test_links_are_opened_once(self, peer: Peer, driver: ServiceBus, plain: str) -> None:
        def use() -> None:
            assert not driver.send(plain, [outgoing()])
            assert not driver.ack(collect(driver, plain, 1))

        assert peer.counted(use)["connections"] == 3
        assert "connections" not in peer.counted(use)

    def test_an_idle_driver_grabs_nothing(self, peer: Peer, driver: ServiceBus, plain: str) -> None:
        another = open_broker(peer.address())
        for wait in (0.0, 0.2):  # each leaves a receiver that had asked for ten
            assert not another.receive(plain, count=10, wait=wait, lease=HELD)
        driver.send(plain, [outgoing()])
        assert len(another.receive(plain, count=10, wait=5, lease=HELD)) == 1
        sent = peer.counted(lambda: driver.send(plain, [outgoing() for _ in range(5)]))
        assert "deliveries" not in sent
        assert len(collect(driver, plain, 5)) == 5
        another.close()

    def test_a_receive_that_waits_ends_when_told_and_leaves_nothing_locked(
        self, peer: Peer, driver: ServiceBus, queue: str
    ) -> None:
        group = "g" if queue.endswith(".fifo") else None
        with ThreadPoolExecutor() as pool, closing(open_broker(peer.address())) as another:
            waits = pool.submit(driver.receive, queue, count=10, wait=3600.0, lease=HELD)
            while not waits.done():  # told until it ends, as it may only just begin
                driver.end_receives()
                time.sleep(0.05)
            assert list(waits.result()) == []
            another.send(queue, [outgoing(group=group)])
            (found,) = another.receive(queue, count=10, wait=PATIENCE, lease=HELD)
            assert found.attempts == 1
            assert not another.ack([found])

    def test_each_receive_of_a_full_queue_is_full(self, driver: ServiceBus, plain: str) -> None:
        """The answer to the last drain ended the next receive after its first message."""
        driver.send(plain, [outgoing() for _ in range(64)])
        counts = [len(driver.receive(plain, count=16, wait=1, lease=HELD)) for _ in range(4)]
        assert counts == [16] * 4

    def test_nothing_is_locked_but_what_was_received(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing() for _ in range(60)])
        found: list[Delivery] = []

        def receive() -> None:
            for count in (7, 9, 1, 20, 3):
                found.extend(driver.receive(plain, count=count, wait=1, lease=HELD))

        assert peer.counted(receive)["deliveries"] == len(found) == 40
        assert len(driver.receive(plain, count=30, wait=1, lease=HELD)) == 20

    def test_a_link_remembers_no_message_that_it_has_brought(
        self, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing() for _ in range(20)])
        assert not driver.ack(driver.receive(plain, count=20, wait=1, lease=HELD))
        queue: Any = driver._queue(plain)  # pyright: ignore[reportPrivateUsage]
        (link,) = queue._receivers
        assert not link.receiver._handler._link._received_delivery_tags

    def test_an_open_link_starts_no_thread_for_a_message(
        self, driver: ServiceBus, plain: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        driver.send(plain, [outgoing()])
        started: list[object] = []
        monkeypatch.setattr(threading.Thread, "start", started.append)
        driver.send(plain, [outgoing()])
        assert not started

    def test_a_message_wakes_a_receive_for_many_at_once(
        self, driver: ServiceBus, plain: str
    ) -> None:
        driver.receive(plain, count=1, wait=0, lease=HELD)

        def took() -> float:
            driver.send(plain, [outgoing()])
            start = time.monotonic()
            assert len(driver.receive(plain, count=10, wait=PATIENCE, lease=HELD)) == 1
            return time.monotonic() - start

        # The SDK itself waits 0.2 s for company each time; a busy machine is slow most times.
        eventually(lambda: took() < 0.15)

    def test_bodies_over_a_batchs_size_go_in_several(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        bodies = {f"{number}".encode() * 100_000 for number in range(6)}
        messages = [outgoing(body=body) for body in bodies]
        sent = peer.counted(lambda: driver.send(plain, messages))
        assert (sent["transfers"], sent["messages"]) == (3, 6)
        assert {delivery.body for delivery in collect(driver, plain, 6)} == bodies

    def test_close_leaves_no_thread(self, peer: Peer, queue: str) -> None:
        before = set(threading.enumerate())
        driver = open_broker(peer.address())
        driver.send(queue, [outgoing(), outgoing()])
        collect(driver, queue, 2)
        driver.peek_dead(queue, count=1)
        driver.close()
        assert not {t for t in threading.enumerate() if t.is_alive()} - before

    def test_close_ends_a_wait(self, peer: Peer, queue: str) -> None:
        driver = open_broker(peer.address())
        ended: list[object] = []
        wait = 2 * SOON
        thread = threading.Thread(
            target=lambda: ended.append(driver.receive(queue, count=1, wait=wait, lease=HELD))
        )
        thread.start()
        time.sleep(0.3)  # however far it has come, the outcome is the same
        start = time.monotonic()
        driver.close()
        thread.join(PATIENCE)
        assert time.monotonic() - start < SOON
        assert ended == [[]]


class TestLeases:
    def test_the_queue_says_how_long_a_lease_is(self, driver: ServiceBus) -> None:
        name = unique()
        driver.create(name, lease=7, max_deliveries=5)
        assert driver.limits(name).max_lease == 60
        driver.send(name, [outgoing()])
        (delivery,) = collect(driver, name, 1)
        assert delivery.lease == 7
        limits = driver.limits(name)
        assert (limits.min_lease, limits.max_lease) == (7, 7)
        driver.delete(name)

    def test_the_url_may_say_it_first(self, peer: Peer, plain: str) -> None:
        driver = open_broker(peer.address(lock="30"))
        assert driver.limits(plain).min_lease == 30
        driver.send(plain, [outgoing()])
        assert collect(driver, plain, 1)[0].lease == 30
        driver.close()

    def test_a_receipt_can_be_settled_by_another_driver(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing()])
        (delivery,) = collect(driver, plain, 1)
        another = open_broker(peer.address())
        assert not another.ack(pickle.loads(pickle.dumps([delivery])))
        assert driver.stats(plain).ready == 0
        another.close()

    def test_a_sessions_message_cannot(self, peer: Peer, driver: ServiceBus, ordered: str) -> None:
        driver.send(ordered, [outgoing()])
        (delivery,) = collect(driver, ordered, 1)
        another = open_broker(peer.address())
        (failure,) = another.ack([delivery])
        assert failure.code is Code.LEASE_LOST
        assert not driver.ack([delivery])
        another.close()

    def test_one_lost_lease_of_many_is_told_apart(self, driver: ServiceBus, plain: str) -> None:
        driver.send(plain, [outgoing() for _ in range(5)])
        found = collect(driver, plain, 5)
        assert not driver.ack([found[2]])
        assert [(f.index, f.code) for f in driver.extend(found, lease=1)] == [(2, Code.LEASE_LOST)]
        assert [(f.index, f.code) for f in driver.ack(found)] == [(2, Code.LEASE_LOST)]
        assert driver.stats(plain).ready == 0


class TestReleases:
    def test_attempts_go_on_counting_in_a_copy(self, driver: ServiceBus, plain: str) -> None:
        driver.send(plain, [outgoing(body=b"again")])
        for attempt in (1, 2, 3, 4):
            (delivery,) = collect(driver, plain, 1)
            assert (delivery.attempts, delivery.body) == (attempt, b"again")
            assert not driver.release([delivery], after=0.2 * (attempt % 2))

    def test_a_copy_keeps_a_strangers_properties(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        with peer.stranger() as client, client.get_queue_sender(plain) as sender:
            sender.send_messages(
                ServiceBusMessage("x", message_id="m", application_properties={"kind": "odd"})
            )
        (delivery,) = collect(driver, plain, 1)
        assert not driver.release([delivery], after=0.2)
        with peer.stranger() as client, client.get_queue_receiver(plain) as receiver:
            (message,) = receiver.receive_messages(1, max_wait_time=5)
            properties = {bytes(k): v for k, v in (message.application_properties or {}).items()}  # type: ignore[arg-type]
            assert properties[b"kind"] == b"odd"
            assert properties[b"cloudq-id"] == b"m"

    def test_a_session_that_is_held_back_comes_when_the_process_ends(
        self, peer: Peer, driver: ServiceBus, ordered: str
    ) -> None:
        mine = open_broker(peer.address())
        first, second = outgoing(group="a"), outgoing(group="a")
        mine.send(ordered, [first, second])
        assert not mine.release(collect(mine, ordered, 1), after=HELD)
        assert not driver.receive(ordered, count=1, wait=0.5, lease=HELD)
        mine.close()
        assert collect(driver, ordered, 1)[0].id == first.id

    def test_a_session_is_held_back_beyond_its_lock(self, peer: Peer, driver: ServiceBus) -> None:
        name = unique() + ".fifo"
        driver.create(name, lease=1, max_deliveries=5)
        driver.send(name, [outgoing(group="a")])
        start = time.monotonic()
        assert not driver.release(collect(driver, name, 1), after=2.5)
        another = open_broker(peer.address())
        (again,) = collect(another, name, 1)
        assert time.monotonic() - start > 2.45
        assert again.attempts == 2
        another.close()
        driver.delete(name)


class TestSessions:
    def test_a_lock_that_the_service_gave_late_ends_there_before_its_link_does(
        self, peer: Peer, driver: ServiceBus
    ) -> None:
        name = unique() + ".fifo"
        driver.create(name, lease=2, max_deliveries=5)
        driver.send(name, [outgoing(group="a")])
        held = collect(driver, name, 1)
        # The lock lasts from when the service hears of it, and we know when we have asked.
        peer.fault(kind="hang", seconds=0.7)
        assert not driver.extend(held, lease=2)
        another = open_broker(peer.address())
        assert collect(another, name, 1)[0].attempts == 2
        another.close()
        driver.delete(name)

    def test_a_settled_session_is_left_to_others(
        self, peer: Peer, driver: ServiceBus, ordered: str
    ) -> None:
        another = open_broker(peer.address())
        driver.send(ordered, [outgoing(group="a") for _ in range(3)])
        assert not driver.ack(collect(driver, ordered, 1))
        assert not another.ack(collect(another, ordered, 1))
        assert len(collect(driver, ordered, 1)) == 1
        another.close()

    def test_what_follows_in_a_session_needs_no_new_link(
        self, peer: Peer, driver: ServiceBus, ordered: str
    ) -> None:
        driver.send(ordered, [outgoing(group="a") for _ in range(3)])

        def work() -> None:
            for _ in range(3):
                assert not driver.ack(driver.receive(ordered, count=1, wait=1, lease=HELD))

        assert peer.counted(work)["connections"] == 1

    def test_a_batch_of_a_session_keeps_its_order(self, driver: ServiceBus, ordered: str) -> None:
        sent = [outgoing(group="a") for _ in range(5)]
        driver.send(ordered, sent)
        found = driver.receive(ordered, count=10, wait=1, lease=HELD)
        assert [delivery.id for delivery in found] == [message.id for message in sent]
        assert not driver.extend(found, lease=HELD)
        assert not driver.ack(found)
        assert driver.stats(ordered).ready == 0


class TestTrouble:
    def test_a_cut_connection_while_acking_loses_nothing(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing() for _ in range(3)])
        found = collect(driver, plain, 3)
        driver.extend(found, lease=1)
        peer.fault(kind="drop", on="management", entity=plain)
        assert not driver.ack(found)
        assert driver.stats(plain).ready == 0

    def test_a_lost_answer_is_no_lost_lease(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing()])
        found = collect(driver, plain, 1)
        driver.extend(found, lease=1)
        peer.fault(kind="drop", on="management", after=True, entity=plain)
        # The second try finds the message gone: told as such, and nothing comes back.
        failures = driver.ack(found)
        assert {failure.code for failure in failures} <= {Code.LEASE_LOST}
        assert driver.stats(plain).ready == 0

    def test_what_is_known_of_lost_locks_counts_when_the_rest_fails(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        """Of many lost locks, which are asked for by halves, some request always fails."""
        driver.send(plain, [outgoing() for _ in range(5)])
        found = collect(driver, plain, 5)
        driver.extend(found, lease=1)
        with closing(open_broker(peer.address())) as other:
            assert not other.ack(found)
        busy = {"kind": "busy", "on": "management", "nth": 5, "count": 2, "entity": plain}
        peer.fault(**busy)
        codes = {failure.index: failure.code for failure in driver.extend(found, lease=1)}
        throttled = dict.fromkeys((2, 3, 4), Code.THROTTLED)
        assert codes == {0: Code.LEASE_LOST, 1: Code.LEASE_LOST} | throttled
        peer.ask("DELETE", "_faults")
        peer.fault(**busy)
        # These may have been settled by a request whose answer was lost.
        codes = {failure.index: failure.code for failure in driver.ack(found)}
        assert codes == throttled
        assert not driver.ack([found[index] for index in codes])

    def test_a_lost_lock_among_many_is_found_in_few_requests(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing() for _ in range(32)])
        found = collect(driver, plain, 32)
        with closing(open_broker(peer.address())) as other:
            assert not other.ack(found[9:10])

        def extend() -> None:
            failures = driver.extend(found, lease=1)
            assert [(f.index, f.code) for f in failures] == [(9, Code.LEASE_LOST)]

        assert peer.counted(extend)["management"] <= 11

    def test_acks_of_ended_locks_are_no_trouble_for_the_others(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing() for _ in range(3)])
        found = collect(driver, plain, 3)
        with closing(open_broker(peer.address())) as other:
            assert not other.ack(found[:1])
        ended = receipt_of(found[0]).token
        driver._queue(plain).locks.drop([ended])  # pyright: ignore[reportPrivateUsage]
        peer.fault(kind="busy", on="management", nth=2, count=0, entity=plain)
        (failure,) = driver.ack(found)
        assert (failure.index, failure.code) == (0, Code.THROTTLED)
        peer.ask("DELETE", "_faults")
        (failure,) = driver.ack(found[:1])
        assert failure.code is Code.LEASE_LOST

    def test_locks_are_renewed_while_others_are_being_settled(
        self, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing(), outgoing()])
        found = collect(driver, plain, 2)
        with driver._queue(plain).settler.lock:  # pyright: ignore[reportPrivateUsage]
            assert not driver.extend(found, lease=1)
        assert not driver.ack(found)

    def test_a_cut_session_is_a_lost_lease(
        self, peer: Peer, driver: ServiceBus, ordered: str
    ) -> None:
        driver.send(ordered, [outgoing(group="a")])
        found = collect(driver, ordered, 1)
        peer.fault(kind="drop", on="management", entity=ordered)
        (failure,) = driver.ack(found)
        assert failure.code is Code.LEASE_LOST
        assert collect(driver, ordered, 1)[0].id == found[0].id

    def test_a_cut_connection_while_sending_is_tried_again(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.send(plain, [outgoing()])
        peer.fault(kind="drop", on="transfer", entity=plain)
        assert not driver.send(plain, [outgoing()])
        assert driver.stats(plain).ready == 2

    def test_a_cut_connection_while_receiving_is_made_again(
        self, peer: Peer, driver: ServiceBus, plain: str
    ) -> None:
        driver.receive(plain, count=1, wait=0, lease=HELD)
        peer.fault(kind="drop", on="transfer", entity=plain)  # this drops all connections
        driver.send(plain, [outgoing()])
        assert len(collect(driver, plain, 1)) == 1

    def test_a_busy_server_throttles(self, peer: Peer, driver: ServiceBus, plain: str) -> None:
        peer.fault(kind="busy", on="transfer", count=0, entity=plain)
        assert failed(driver, lambda: driver.send(plain, [outgoing()])) is Code.THROTTLED

    def test_keys_that_are_no_good(self, peer: Peer, driver: ServiceBus, plain: str) -> None:
        peer.fault(kind="deny")
        fresh = open_broker(peer.address())
        assert failed(fresh, lambda: fresh.send(plain, [outgoing()])) is Code.CREDENTIALS
        assert (
            failed(fresh, lambda: fresh.receive(plain, count=1, wait=5, lease=1))
            is Code.CREDENTIALS
        )
        assert failed(fresh, lambda: fresh.stats(plain)) is Code.CREDENTIALS
        fresh.close()
        peer.ask("DELETE", "_faults")

    @pytest.mark.parametrize("status", ["Disabled", "SendDisabled", "ReceiveDisabled"])
    def test_a_disabled_queue_is_denied(
        self,
        driver: ServiceBus,
        admin: ServiceBusAdministrationClient,
        queue: str,
        status: str,
    ) -> None:
        settings = admin.get_queue(queue)
        settings.status = status
        admin.update_queue(settings)
        calls: dict[str, Callable[[], object]] = {
            "Send": lambda: driver.send(queue, [outgoing()]),
            "Receive": lambda: driver.receive(queue, count=1, wait=5, lease=1),
        }
        for verb, call in calls.items():
            if status in ("Disabled", f"{verb}Disabled"):
                assert failed(driver, call) is Code.DENIED
            else:
                call()

    def test_out_of_reach_is_told_fast(self, queue: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{probe.getsockname()[1]}"
            options = {"emulator": "true", "admin": host}
            driver = open_broker(Address(scheme="servicebus", host=host, options=options))
            calls: list[Callable[[], object]] = [
                lambda: driver.send(queue, [outgoing()]),
                lambda: driver.receive(queue, count=1, wait=20, lease=1),
                lambda: driver.stats(queue),
            ]
            for call in calls:
                assert failed(driver, call) is Code.UNREACHABLE
            driver.close()

    def test_a_peer_that_says_nothing_is_out_of_reach(self, queue: str) -> None:
        with socket.socket() as mute:
            mute.bind(("127.0.0.1", 0))
            mute.listen(8)
            options = {"emulator": "true"}
            host = f"127.0.0.1:{mute.getsockname()[1]}"
            driver = open_broker(Address(scheme="servicebus", host=host, options=options))
            call = lambda: driver.receive(queue, count=1, wait=20, lease=1)  # noqa: E731
            assert failed(driver, call) is Code.UNREACHABLE
            driver.close()

    def test_no_identity_is_told_as_such(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")  # where the SDK looks for az
        monkeypatch.delenv(VARIABLE, raising=False)
        driver = open_broker(Address(scheme="servicebus", host="mynamespace"))
        assert failed(driver, lambda: driver.stats("default")) is Code.CREDENTIALS
        driver.close()

    def test_a_queue_without_sessions_is_no_fifo(
        self, driver: ServiceBus, admin: ServiceBusAdministrationClient
    ) -> None:
        name = unique() + ".fifo"
        admin.create_queue(name)
        assert (
            failed(driver, lambda: driver.receive(name, count=1, wait=1, lease=1)) is Code.INVALID
        )
        driver.delete(name)


class TestStrangers:
    @pytest.mark.parametrize(
        ("message", "body"),
        [
            (ServiceBusMessage("Grüße", message_id="s1"), "Grüße".encode()),
            (ServiceBusMessage(b"\xff\x00", message_id="s1"), b"\xff\x00"),
            (
                AmqpAnnotatedMessage(value_body="a value", properties={"message_id": "s1"}),
                b"a value",
            ),
        ],
        ids=["text", "bytes", "value"],
    )
    def test_a_strangers_message_has_its_own_id(
        self,
        peer: Peer,
        driver: ServiceBus,
        plain: str,
        message: ServiceBusMessage,
        body: bytes,
    ) -> None:
        with peer.stranger() as client, client.get_queue_sender(plain) as sender:
            sender.send_messages(message)
        (delivery,) = collect(driver, plain, 1)
        assert (delivery.id, delivery.body, delivery.attempts) == ("s1", body, 1)
        assert not driver.dead_letter([delivery], reason="not ours \n" * 500)
        (dead,) = driver.peek_dead(plain, count=5)
        assert (dead.id, dead.body) == ("s1", body)
        assert (dead.reason or "").startswith("not ours")
        assert not driver.redrive(plain, [dead])
        assert collect(driver, plain, 1)[0].body == body


class TestDeadLetters:
    def test_the_services_own_reason_is_told(self, driver: ServiceBus) -> None:
        name = unique()
        driver.create(name, lease=30, max_deliveries=1)
        driver.send(name, [outgoing()])
        assert not driver.release(collect(driver, name, 1), after=0)
        (dead,) = eventually(lambda: driver.peek_dead(name, count=5))
        assert (dead.reason or "").startswith("MaxDeliveryCountExceeded: ")
        driver.delete(name)

    def test_one_that_is_redriven_soon_is_no_duplicate(
        self, driver: ServiceBus, queue: str
    ) -> None:
        driver.send(queue, [outgoing(group="g" if queue.endswith(".fifo") else None)])
        for _ in range(3):  # all within the ten minutes for which duplicates are known
            assert not driver.dead_letter(collect(driver, queue, 1), reason="poison")
            (dead,) = driver.peek_dead(queue, count=5)
            assert not driver.redrive(queue, [dead])
        assert len(collect(driver, queue, 1)) == 1

    def test_one_gone_by_now_is_a_failure(self, driver: ServiceBus, queue: str) -> None:
        driver.send(queue, [outgoing(), outgoing()])
        driver.dead_letter(collect(driver, queue, 2), reason="test")
        peeked = driver.peek_dead(queue, count=2)
        assert not driver.delete_dead(queue, peeked[:1])
        (failure,) = driver.redrive(queue, peeked)
        assert (failure.index, failure.code) == (0, Code.NOT_FOUND)
        assert [delivery.id for delivery in collect(driver, queue, 1)] == [peeked[1].id]

    def test_a_purge_cancels_what_is_delayed_and_leaves_what_is_leased(
        self, driver: ServiceBus, queue: str
    ) -> None:
        driver.send(queue, [outgoing()])
        held = collect(driver, queue, 1)
        driver.send(queue, [outgoing(), outgoing(), outgoing(delay=HELD)])
        assert driver.purge(queue).count == 3
        assert not driver.scheduled(queue, count=5)
        assert not driver.ack(held)
        assert driver.stats(queue).ready == 0


class TestNames:
    def test_created_queues_are_set_up_for_workers(
        self, driver: ServiceBus, admin: ServiceBusAdministrationClient, queue: str
    ) -> None:
        made = admin.get_queue(queue)
        fifo = queue.endswith(".fifo")
        assert (made.lock_duration, made.max_delivery_count) == (timedelta(seconds=30), 5)
        assert (made.requires_session, made.requires_duplicate_detection) == (fifo, fifo)
        assert made.dead_lettering_on_message_expiration
        if fifo:
            assert made.duplicate_detection_history_time_window == timedelta(minutes=10)

    def test_a_prefix_keeps_apps_apart(self, peer: Peer) -> None:
        prefix = unique("app") + "-"
        driver = open_broker(peer.address(prefix=prefix))
        driver.create("default", lease=30, max_deliveries=5)
        assert driver.list() == ["default"]
        driver.send("default", [outgoing()])
        (delivery,) = collect(driver, "default", 1)
        assert delivery.queue == "default"
        driver.delete("default")
        assert driver.list() == []
        driver.close()

    def test_premium_takes_larger_bodies(self, peer: Peer) -> None:
        driver = open_broker(peer.address(tier="premium"))
        name = unique()
        driver.create(name, lease=30, max_deliveries=5)
        assert driver.limits(name).body > 100_000_000
        # This server is a standard one: it refuses what it cannot take, and the rest goes.
        large, small = outgoing(body=b"x" * 2_000_000), outgoing()
        answer = driver.send(name, [large, small])
        assert [(f.index, f.code) for f in answer] == [(0, Code.TOO_LARGE)]
        assert collect(driver, name, 1)[0].id == small.id
        driver.delete(name)
        driver.close()

    def test_it_has_all_powers(self, driver: ServiceBus) -> None:
        assert isinstance(driver, QueueAdmin)
        assert isinstance(driver, Scheduling)

    def test_a_handle_of_another_kind_is_invalid(self, driver: ServiceBus, plain: str) -> None:
        (failure,) = driver.unschedule(plain, ["none of ours"])
        assert isinstance(failure, Failure)
        assert failure.code is Code.INVALID


CONNECTION = "Endpoint=sb://mine.servicebus.windows.net/;SharedAccessKeyName=a;SharedAccessKey=b"


class TestAddresses:
    @pytest.mark.parametrize(
        ("host", "options", "words"),
        [
            ("", {}, "names no namespace"),
            ("mine", {"lokc": "30"}, "no option 'lokc'"),
            ("mine", {"tier": "basic"}, "standard, premium"),
            ("mine", {"lock": "soon"}, "lock duration in seconds"),
            ("mine", {"lock": "301"}, "300 at most"),
            ("mine", {"admin": "127.0.0.1:1"}, "emulator's host and port"),
            ("127.0.0.1", {"emulator": "true"}, "names no host and port"),
            ("127.0.0.1:1", {"emulator": "maybe"}, "false, true"),
        ],
    )
    def test_what_a_url_cannot_say(self, host: str, options: dict[str, str], words: str) -> None:
        with pytest.raises(ConfigurationError, match=re.escape(words)):
            open_broker(Address(scheme="servicebus", host=host, options=options))

    def test_a_path_is_refused(self) -> None:
        address = Address(scheme="servicebus", host="mine", path="queue", url="servicebus://x/q")
        with pytest.raises(ConfigurationError, match="has a path"):
            open_broker(address)

    def test_a_connection_string_is_of_the_urls_namespace(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address = Address(scheme="servicebus", host="mine", url="servicebus://mine")
        monkeypatch.setenv(VARIABLE, CONNECTION)
        assert clients.access(address).connection == CONNECTION
        with pytest.raises(ConfigurationError, match=r"is of mine\.servicebus"):
            clients.access(replace(address, host="yours"))
        monkeypatch.setenv(VARIABLE, "nonsense")
        with pytest.raises(ConfigurationError, match="is no connection string"):
            clients.access(address)

    def test_a_short_name_is_of_azures_domain(self) -> None:
        for host in ("mine", "mine.servicebus.windows.net"):
            found = clients.access(Address(scheme="servicebus", host=host))
            assert (found.host, found.connection) == ("mine.servicebus.windows.net", None)
