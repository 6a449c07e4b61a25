"""Contract tests of queue administration: stats, peeking, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import pytest

from cloudq.driver import BrokerDriver, Code, Peeked, QueueAdmin
from cloudq.testing.waiting import HELD, PATIENCE, collect, eventually, outgoing


class AdminDriver(BrokerDriver, QueueAdmin, Protocol):
    """A broker driver that has the operator's powers too."""


class QueueAdminContract:
    """Subclass it as `Test...`, and give the fixtures `driver`, `another`, `queue`, `new_queue`.

    `queue` exists and is empty; `new_queue` is a name that does not exist, and that the test may
    create. `missing_queue` (unless `creates_queues`) stays missing.
    """

    tick: float = 1.0
    """The shortest lease or delay that the service can tell from none, in seconds."""
    creates_queues: bool = False
    """A queue comes into being on first use, so that none is ever missing."""
    tells_reasons: bool = True
    """`peek_dead` knows why a message was dead-lettered."""
    counts_deliveries: bool = True
    """The service itself dead-letters what was received `max_deliveries` times."""
    counts_leased_as_ready: bool = False
    """The service does not tell leased messages from ready ones, and counts both as ready."""
    fewest_deliveries: int = 2
    """The smallest `max_deliveries` that the service can be told."""

    @pytest.fixture
    def driver(self) -> AdminDriver:
        """Override it: the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> AdminDriver:
        """Override it: a second driver on the service of `driver`."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self) -> str:
        """Override it: the name of an existing queue (and dead letters) no other test uses."""
        raise NotImplementedError

    @pytest.fixture
    def new_queue(self) -> str:
        """Override it: the name of a queue that a test may create; delete it afterwards."""
        raise NotImplementedError

    @pytest.fixture
    def missing_queue(self) -> str:
        """Override it: the name of a queue that does not exist."""
        raise NotImplementedError

    def send(self, driver: AdminDriver, queue: str, count: int) -> list[str]:
        """Send `count` messages in one batch and return their ids."""
        messages = [outgoing(body=f"message {number}".encode()) for number in range(count)]
        assert not driver.send(queue, messages)
        return [message.id for message in messages]

    def bury(self, driver: AdminDriver, queue: str, count: int) -> list[str]:
        """Make `count` dead letters and return their ids."""
        sent = self.send(driver, queue, count)
        assert not driver.dead_letter(collect(driver, queue, count), reason="no such task")
        return sent

    def dead(self, driver: AdminDriver, queue: str, count: int) -> Sequence[Peeked]:
        """Return the dead letters once there are `count`."""

        def look() -> Sequence[Peeked]:
            found = driver.peek_dead(queue, count=10)
            return found if len(found) == count else ()

        return eventually(look)

    def test_create_leaves_an_existing_queue_as_it_is(
        self, driver: AdminDriver, another: AdminDriver, new_queue: str
    ) -> None:
        driver.create(new_queue, lease=HELD, max_deliveries=5)
        sent = self.send(driver, new_queue, 1)
        another.create(new_queue, lease=HELD, max_deliveries=5)
        assert [delivery.id for delivery in collect(driver, new_queue, 1)] == sent

    def test_created_queues_are_listed_and_deleted_ones_are_not(
        self, driver: AdminDriver, another: AdminDriver, new_queue: str
    ) -> None:
        driver.create(new_queue, lease=HELD, max_deliveries=5)
        assert new_queue in eventually(another.list)
        assert list(driver.list(new_queue)) == [new_queue]
        assert new_queue not in driver.list("z" + new_queue)
        self.bury(driver, new_queue, 1)
        driver.delete(new_queue)

        def is_gone() -> bool:
            return new_queue not in another.list()

        eventually(is_gone)

    def test_stats_tell_ready_leased_delayed_and_dead(
        self, driver: AdminDriver, another: AdminDriver, queue: str
    ) -> None:
        self.bury(driver, queue, 2)
        self.send(driver, queue, 4)
        collect(driver, queue, 1)
        delayed = 1 if driver.limits(queue).max_delay else 0
        if delayed:
            assert not driver.send(queue, [outgoing(delay=HELD)])

        def told() -> bool:
            stats = another.stats(queue)
            assert stats.queue == queue
            counts = (stats.ready, stats.leased, stats.delayed, stats.dead)
            expected = (4 if self.counts_leased_as_ready else 3, 1, delayed, 2)
            return all(a is None or a == b for a, b in zip(counts, expected, strict=True))

        # An exact count is right the first time.
        eventually(told, within=0 if driver.stats(queue).exact else PATIENCE)
        assert (driver.stats(queue).oldest_age or 0) >= 0

    def test_an_empty_queue_has_empty_stats(self, driver: AdminDriver, queue: str) -> None:
        stats = driver.stats(queue)
        assert not any((stats.ready, stats.leased, stats.delayed, stats.dead))
        assert not stats.oldest_age

    def test_peek_does_not_consume(
        self, driver: AdminDriver, another: AdminDriver, queue: str
    ) -> None:
        sent = self.send(driver, queue, 3)
        peeked = eventually(partial(another.peek, queue, count=10))
        assert {message.id for message in peeked} <= set(sent)
        assert all(message.body.startswith(b"message ") for message in peeked)
        assert {delivery.id for delivery in collect(driver, queue, 3)} == set(sent)

    def test_peek_looks_at_no_more_than_asked(self, driver: AdminDriver, queue: str) -> None:
        self.send(driver, queue, 3)
        assert len(eventually(partial(driver.peek, queue, count=1))) == 1

    def test_purged_messages_are_gone(self, driver: AdminDriver, queue: str) -> None:
        self.send(driver, queue, 3)
        purged = driver.purge(queue)
        assert purged.count in (None, 3)

        def is_empty() -> bool:
            return not driver.stats(queue).ready

        eventually(is_empty, within=purged.settles + PATIENCE)
        assert not driver.receive(queue, count=1, wait=self.tick / 2, lease=HELD)

    def test_a_dead_letter_keeps_body_and_reason(
        self, driver: AdminDriver, another: AdminDriver, queue: str
    ) -> None:
        (sent,) = self.bury(driver, queue, 1)
        (peeked,) = self.dead(another, queue, 1)
        assert (peeked.id, peeked.body) == (sent, b"message 0")
        assert peeked.reason == ("no such task" if self.tells_reasons else None)

    def test_redrive_brings_back_exactly_the_chosen(
        self, driver: AdminDriver, another: AdminDriver, queue: str
    ) -> None:
        sent = self.bury(driver, queue, 3)
        chosen = [message for message in self.dead(another, queue, 3) if message.id != sent[1]]
        assert not another.redrive(queue, chosen)
        back = collect(driver, queue, 2)
        assert {delivery.id for delivery in back} == {sent[0], sent[2]}
        assert {delivery.body for delivery in back} == {b"message 0", b"message 2"}
        assert {delivery.attempts for delivery in back} == {1}
        assert not driver.receive(queue, count=1, wait=self.tick / 2, lease=HELD)
        assert [message.id for message in self.dead(driver, queue, 1)] == [sent[1]]

    def test_delete_dead_deletes_exactly_the_chosen(self, driver: AdminDriver, queue: str) -> None:
        sent = self.bury(driver, queue, 3)
        chosen = [message for message in self.dead(driver, queue, 3) if message.id == sent[1]]
        assert not driver.delete_dead(queue, chosen)
        left = {message.id for message in self.dead(driver, queue, 2)}
        assert left == {sent[0], sent[2]}

    def test_purge_dead_leaves_the_queue_alone(self, driver: AdminDriver, queue: str) -> None:
        self.bury(driver, queue, 2)
        (waiting,) = self.send(driver, queue, 1)
        purged = driver.purge_dead(queue)
        assert purged.count in (None, 2)

        def is_empty() -> bool:
            return not driver.stats(queue).dead

        eventually(is_empty, within=purged.settles + PATIENCE)
        assert not driver.peek_dead(queue, count=10)
        assert [delivery.id for delivery in collect(driver, queue, 1)] == [waiting]

    def test_received_too_often_is_a_dead_letter(self, driver: AdminDriver, new_queue: str) -> None:
        if not self.counts_deliveries:
            pytest.skip("the service does not count deliveries")
        driver.create(new_queue, lease=HELD, max_deliveries=self.fewest_deliveries)
        (sent,) = self.send(driver, new_queue, 1)
        for _ in range(self.fewest_deliveries):
            assert not driver.release(collect(driver, new_queue, 1), after=0)
        assert not driver.receive(new_queue, count=1, wait=self.tick, lease=HELD)
        assert [message.id for message in self.dead(driver, new_queue, 1)] == [sent]

    @pytest.mark.parametrize("call", ["stats", "peek", "purge", "peek_dead"])
    def test_a_missing_queue_is_not_found(
        self, driver: AdminDriver, request: pytest.FixtureRequest, call: str
    ) -> None:
        if self.creates_queues:
            pytest.skip("queues come into being on first use")
        missing: str = request.getfixturevalue("missing_queue")
        calls: dict[str, Callable[[], object]] = {
            "stats": partial(driver.stats, missing),
            "peek": partial(driver.peek, missing, count=1),
            "purge": partial(driver.purge, missing),
            "peek_dead": partial(driver.peek_dead, missing, count=1),
        }
        with pytest.raises(Exception) as caught:
            calls[call]()
        assert driver.error_code(caught.value) is Code.NOT_FOUND
