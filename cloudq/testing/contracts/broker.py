"""Contract tests of broker drivers: sending, receiving, leases and settling."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest

from cloudq.driver import BrokerDriver, Code, Delivery, Failure
from cloudq.testing.waiting import HELD, PATIENCE, at_once, collect, outgoing

LONG = 20.0
"""Seconds of a wait that a message ends long before, whatever else the machine does."""


class BrokerContract:
    """Subclass it as `Test...`, and give the fixtures `driver`, `another` and `queue`.

    `another` is a second driver on the same service, `queue` the name of an existing empty queue
    and `missing_queue` (unless `creates_queues`) that of one which does not exist.
    """

    tick: float = 1.0
    """The shortest lease or delay that the service can tell from none, in seconds."""
    slack: float = 0.05
    """How much too early a lease or a delay may end by the service's clock, in seconds."""
    reports_lost_leases: bool = True
    """An ack or extend of a lease that another consumer holds by now is a `Failure`."""
    creates_queues: bool = False
    """A queue comes into being on first use, so that none is ever missing."""

    @pytest.fixture
    def driver(self) -> BrokerDriver:
        """Override it: the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> BrokerDriver:
        """Override it: a second driver on the service of `driver`."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self) -> str:
        """Override it: the name of an existing queue that no other test uses."""
        raise NotImplementedError

    @pytest.fixture
    def missing_queue(self) -> str:
        """Override it: the name of a queue that does not exist."""
        raise NotImplementedError

    @pytest.fixture
    def leasing(self, queue: str) -> Callable[[float], str]:
        """Return the empty queue for a test that needs leases of that many seconds.

        Override it where `limits.min_lease` is `limits.max_lease`: each queue has one length of
        lease then, so that one is to be made for each length.
        """

        def name_for(lease: float) -> str:
            return queue

        return name_for

    def nothing_for(self, driver: BrokerDriver, queue: str, seconds: float) -> None:
        """Assert that no message can be received for `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            wait = max(min(left, driver.limits(queue).max_wait), driver.limits(queue).min_wait)
            assert list(driver.receive(queue, count=1, wait=wait, lease=HELD)) == []

    def send(self, driver: BrokerDriver, queue: str, count: int = 1) -> list[str]:
        """Send `count` messages in batches and return their ids."""
        messages = [outgoing(body=f"message {number}".encode()) for number in range(count)]
        batch = driver.limits(queue).batch
        for start in range(0, count, batch):
            assert not driver.send(queue, messages[start : start + batch])
        return [message.id for message in messages]

    def test_sent_is_received_with_its_id_and_body(
        self, driver: BrokerDriver, another: BrokerDriver, queue: str
    ) -> None:
        message = outgoing(body=b'{"task":"add"}')
        assert not driver.send(queue, [message])
        (delivery,) = collect(another, queue, 1)
        assert (delivery.queue, delivery.id, delivery.body) == (queue, message.id, message.body)
        assert delivery.attempts == 1
        assert delivery.lease == HELD
        assert delivery.group is None
        assert delivery.sent_at is None or abs(delivery.sent_at - time.time()) < 30

    def test_a_full_batch_is_sent_received_and_acked(
        self, driver: BrokerDriver, leasing: Callable[[float], str]
    ) -> None:
        lease = self.tick * 2
        for longer in (4, 4, 4, 0):
            queue = leasing(lease)
            sent = self.send(driver, queue, driver.limits(queue).batch)
            deliveries = collect(driver, queue, len(sent), lease=lease)
            if len({delivery.id for delivery in deliveries}) == len(sent) or not longer:
                break
            lease *= longer  # some came twice: a busy machine takes longer than their leases
        assert sorted(delivery.id for delivery in deliveries) == sorted(sent)
        assert not driver.ack(deliveries)
        self.nothing_for(driver, queue, lease + self.tick / 2)

    def test_attempts_count_the_deliveries(self, driver: BrokerDriver, queue: str) -> None:
        self.send(driver, queue)
        for attempt in (1, 2, 3):
            (delivery,) = collect(driver, queue, 1)
            assert delivery.attempts == attempt
            assert not driver.release([delivery], after=0)

    def test_unsettled_comes_back_after_its_lease(
        self, driver: BrokerDriver, another: BrokerDriver, leasing: Callable[[float], str]
    ) -> None:
        queue = leasing(self.tick * 2)
        (sent,) = self.send(driver, queue)
        start = time.monotonic()
        collect(driver, queue, 1, lease=self.tick * 2)
        (again,) = collect(another, queue, 1)
        assert time.monotonic() - start > self.tick * 2 - self.slack
        assert (again.id, again.attempts) == (sent, 2)

    def test_acked_never_comes_back(
        self, driver: BrokerDriver, leasing: Callable[[float], str]
    ) -> None:
        queue = leasing(self.tick)
        self.send(driver, queue)
        assert not driver.ack(collect(driver, queue, 1, lease=self.tick))
        self.nothing_for(driver, queue, self.tick * 1.5)

    def test_released_comes_back_at_once(
        self, driver: BrokerDriver, another: BrokerDriver, queue: str
    ) -> None:
        (sent,) = self.send(driver, queue)
        assert not driver.release(collect(driver, queue, 1), after=0)
        assert [delivery.id for delivery in collect(another, queue, 1)] == [sent]

    def test_released_comes_back_after_the_given_time(
        self, driver: BrokerDriver, queue: str
    ) -> None:
        (sent,) = self.send(driver, queue)
        deliveries = collect(driver, queue, 1)
        start = time.monotonic()
        assert not driver.release(deliveries, after=self.tick * 2)
        assert [delivery.id for delivery in collect(driver, queue, 1)] == [sent]
        assert time.monotonic() - start > self.tick * 2 - self.slack

    def test_extended_lease_outlives_the_first(
        self, driver: BrokerDriver, another: BrokerDriver, queue: str
    ) -> None:
        self.send(driver, queue)
        if driver.limits(queue).min_lease > self.tick:
            pytest.skip("an extended lease is as long as the first")
        deliveries = collect(driver, queue, 1, lease=self.tick)
        assert not driver.extend(deliveries, lease=HELD)
        self.nothing_for(another, queue, self.tick * 2)
        assert not driver.ack(deliveries)

    def test_a_lease_extended_again_and_again_is_kept(
        self, driver: BrokerDriver, another: BrokerDriver, leasing: Callable[[float], str]
    ) -> None:
        queue = leasing(self.tick * 2)
        (sent,) = self.send(driver, queue)
        deliveries = collect(driver, queue, 1, lease=self.tick * 2)
        for _ in range(3):
            self.nothing_for(another, queue, self.tick * 0.75)
            assert not driver.extend(deliveries, lease=self.tick * 2)
        start = time.monotonic()
        (again,) = collect(another, queue, 1)
        assert time.monotonic() - start > self.tick * 2 - self.slack - 0.1
        assert (again.id, again.attempts) == (sent, 2)

    def test_a_lease_can_be_cut_short(self, driver: BrokerDriver, queue: str) -> None:
        if driver.limits(queue).min_lease > self.tick:
            pytest.skip("the queue has one length of lease")
        self.send(driver, queue)
        deliveries = collect(driver, queue, 1)
        start = time.monotonic()
        assert not driver.extend(deliveries, lease=self.tick)
        collect(driver, queue, 1)
        assert time.monotonic() - start > self.tick - self.slack

    def in_time(self, check: Callable[[float], None]) -> None:
        """Make a check that loses a lease, and again with longer ones where the next ended too.

        A busy machine takes longer for a call than the lease of a queue lasts.
        """
        lease = self.tick * 2
        while True:
            started = time.monotonic()
            try:
                return check(lease)
            except AssertionError:
                if time.monotonic() - started < 2 * lease:  # one was lost, and one still held
                    raise
            lease *= 4

    def lose(
        self, loser: BrokerDriver, winner: BrokerDriver, queue: str, lease: float
    ) -> tuple[Delivery, Delivery]:
        """Return one message's lost lease, and the lease that took its place."""
        self.send(loser, queue)
        (lost,) = collect(loser, queue, 1, lease=self.tick)
        end = time.monotonic() + lease
        (held,) = collect(winner, queue, 1)
        assert lost.id == held.id
        # Of a lease that it believes to hold, and that is gone, a driver may say it has settled it.
        time.sleep(max(0.0, end - time.monotonic()))
        return lost, held

    @pytest.mark.parametrize("settle", ["ack", "release", "extend", "dead_letter"])
    def test_a_lost_lease_settles_nothing(
        self,
        driver: BrokerDriver,
        another: BrokerDriver,
        leasing: Callable[[float], str],
        settle: str,
    ) -> None:
        if not self.reports_lost_leases:
            pytest.skip("the service lets a lost lease settle")

        def check(lease: float) -> None:
            queue = leasing(lease)
            lost, held = self.lose(driver, another, queue, lease)
            calls: dict[str, Callable[[], Sequence[Failure]]] = {
                "ack": partial(driver.ack, [lost]),
                "release": partial(driver.release, [lost], after=0),
                "extend": partial(driver.extend, [lost], lease=0),
                "dead_letter": partial(driver.dead_letter, [lost], reason="lost"),
            }
            refused = [(failure.index, failure.code) for failure in calls[settle]()]
            assert refused == [(0, Code.LEASE_LOST)]
            self.nothing_for(driver, queue, self.tick / 2)
            assert not another.release([held], after=0)
            (again,) = collect(driver, queue, 1)
            assert (again.id, again.attempts) == (held.id, held.attempts + 1)

        self.in_time(check)

    def test_one_refused_element_leaves_the_others_settled(
        self, driver: BrokerDriver, another: BrokerDriver, leasing: Callable[[float], str]
    ) -> None:
        if not self.reports_lost_leases:
            pytest.skip("the service lets a lost lease settle")

        def check(lease: float) -> None:
            queue = leasing(lease)
            lost, held = self.lose(driver, another, queue, lease)
            self.send(driver, queue)
            (mine,) = collect(driver, queue, 1, lease=self.tick)
            refused = [(failure.index, failure.code) for failure in driver.ack([mine, lost])]
            assert refused == [(1, Code.LEASE_LOST)]
            assert not another.ack([held])
            self.nothing_for(driver, queue, lease + self.tick / 2)

        self.in_time(check)

    def test_a_wait_ends_when_a_message_is_sent(
        self, driver: BrokerDriver, another: BrokerDriver, queue: str
    ) -> None:
        wait = min(driver.limits(queue).max_wait, LONG)
        asking = Event()

        def receive() -> tuple[Sequence[Delivery], float]:
            asking.set()
            return driver.receive(queue, count=1, wait=wait, lease=HELD), time.monotonic()

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(receive)
            asking.wait()
            # However far the receiver has come, the outcome is the same; later is harder.
            time.sleep(0.2)
            start = time.monotonic()
            sent = self.send(another, queue)
            deliveries, end = future.result(timeout=PATIENCE)
        assert [delivery.id for delivery in deliveries] == sent
        assert end - start < wait * 3 / 4

    def test_a_wait_ends_when_a_message_is_released(
        self, driver: BrokerDriver, another: BrokerDriver, queue: str
    ) -> None:
        wait = min(driver.limits(queue).max_wait, LONG)
        self.send(driver, queue)
        held = collect(driver, queue, 1)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(another.receive, queue, count=1, wait=wait, lease=HELD)
            time.sleep(0.2)
            start = time.monotonic()
            assert not driver.release(held, after=0)
            assert len(future.result(timeout=PATIENCE)) == 1
        assert time.monotonic() - start < wait * 3 / 4

    def test_a_wait_for_nothing_ends_empty(self, driver: BrokerDriver, queue: str) -> None:
        start = time.monotonic()
        assert list(driver.receive(queue, count=1, wait=self.tick, lease=HELD)) == []
        assert self.tick - self.slack < time.monotonic() - start < self.tick + LONG

    def test_receive_takes_no_more_than_asked(self, driver: BrokerDriver, queue: str) -> None:
        self.send(driver, queue, 5)
        first = driver.receive(queue, count=2, wait=1, lease=HELD)
        assert 1 <= len(first) <= 2
        rest = collect(driver, queue, 5 - len(first))
        assert len({delivery.id for delivery in [*first, *rest]}) == 5

    def test_two_consumers_never_hold_the_same_message(
        self, driver: BrokerDriver, another: BrokerDriver, queue: str
    ) -> None:
        sent = self.send(driver, queue, 40)
        drivers = (driver, another)
        taken: list[list[str]] = [[], []]

        def consume(number: int) -> None:
            end = time.monotonic() + PATIENCE
            while len(taken[0]) + len(taken[1]) < len(sent) and time.monotonic() < end:
                found = drivers[number].receive(queue, count=3, wait=0.2, lease=HELD)
                taken[number] += [delivery.id for delivery in found]

        at_once(2, consume)
        assert sorted(taken[0] + taken[1]) == sorted(sent)

    def test_delayed_arrives_after_its_delay_and_not_before(
        self, driver: BrokerDriver, queue: str
    ) -> None:
        if not driver.limits(queue).max_delay:
            pytest.skip("the service has no delay of its own")
        late = outgoing(body=b"late", delay=self.tick * 2)
        prompt = outgoing(body=b"prompt")
        start = time.monotonic()
        assert not driver.send(queue, [late, prompt])
        assert [delivery.id for delivery in collect(driver, queue, 1)] == [prompt.id]
        assert [delivery.id for delivery in collect(driver, queue, 1)] == [late.id]
        assert time.monotonic() - start > self.tick * 2 - self.slack

    def test_bodies_are_any_text(self, driver: BrokerDriver, queue: str) -> None:
        texts = ("Grüße, 世界 🎉", '{"quote":"\\"","lines":"a\\nb"}', "<&> tab\t and line\n", " x ")
        bodies = {text.encode() for text in texts}
        assert not driver.send(queue, [outgoing(body=body) for body in bodies])
        assert {delivery.body for delivery in collect(driver, queue, len(bodies))} == bodies

    def test_the_largest_body_passes(self, driver: BrokerDriver, queue: str) -> None:
        body = b"x" * driver.limits(queue).body
        assert not driver.send(queue, [outgoing(body=body)])
        (delivery,) = collect(driver, queue, 1)
        assert delivery.body == body

    def test_a_larger_body_is_too_large(self, driver: BrokerDriver, queue: str) -> None:
        message = outgoing(body=b"x" * (driver.limits(queue).body + 1))
        try:
            codes = [failure.code for failure in driver.send(queue, [message])]
        except Exception as error:
            codes = [driver.error_code(error)]
        assert codes == [Code.TOO_LARGE]
        self.nothing_for(driver, queue, self.tick / 2)

    def test_dead_lettered_leaves_the_queue(
        self, driver: BrokerDriver, leasing: Callable[[float], str]
    ) -> None:
        queue = leasing(self.tick)
        self.send(driver, queue)
        assert not driver.dead_letter(
            collect(driver, queue, 1, lease=self.tick), reason="unknown task"
        )
        self.nothing_for(driver, queue, self.tick * 1.5)

    @pytest.mark.parametrize("call", ["send", "receive"])
    def test_a_missing_queue_is_not_found(
        self, driver: BrokerDriver, request: pytest.FixtureRequest, call: str
    ) -> None:
        if self.creates_queues:
            pytest.skip("queues come into being on first use")
        missing: str = request.getfixturevalue("missing_queue")
        calls: dict[str, Callable[[], object]] = {
            "send": partial(driver.send, missing, [outgoing()]),
            "receive": partial(driver.receive, missing, count=1, wait=0, lease=HELD),
        }
        with pytest.raises(Exception) as caught:
            calls[call]()
        assert driver.error_code(caught.value) is Code.NOT_FOUND

    def test_an_error_of_no_service_is_unknown(self, driver: BrokerDriver) -> None:
        assert driver.error_code(RuntimeError("none of ours")) is Code.UNKNOWN

    def test_many_threads_share_one_driver(self, driver: BrokerDriver, queue: str) -> None:
        each = 6

        def work(number: int) -> list[str]:
            self.send(driver, queue, each)
            deliveries = collect(driver, queue, each)
            assert not driver.ack(deliveries)
            return [delivery.id for delivery in deliveries]

        ids = [id for found in at_once(8, work) for id in found]
        assert len(ids) == len(set(ids)) == 8 * each
