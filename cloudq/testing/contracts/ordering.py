"""Contract tests of broker drivers with ordered groups or deduplication."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from cloudq.driver import BrokerDriver, Delivery, Outgoing
from cloudq.testing.waiting import HELD, collect, outgoing

LONG = "order/" + "x" * 300
ODD_KEYS = [
    LONG,
    LONG + "y",
    "é ☃\u2028",
    "a b",
    "tab\tline\n",
    "世" * 500,
    "世" * 501,
    ".",
    "..",
    "a/b\\c#d?e%f",
    "~" * 128,
    "~" * 129,
    "𝄞" * 65,
    "plain",
]
"""Keys that some service refuses, or would take for another."""


class OrderingContract:
    """Subclass it as `Test...`, and give the fixtures `driver`, `another` and `ordered_queue`.

    Tests of what `limits(ordered_queue)` does not promise are skipped.
    """

    tick: float = 1.0
    """The shortest lease or delay that the service can tell from none, in seconds."""

    @pytest.fixture
    def driver(self) -> BrokerDriver:
        """Override it: the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> BrokerDriver:
        """Override it: a second driver on the service of `driver`."""
        raise NotImplementedError

    @pytest.fixture
    def ordered_queue(self) -> str:
        """Override it: the name of an existing ordered queue that no other test uses."""
        raise NotImplementedError

    @pytest.fixture
    def leasing(self, ordered_queue: str) -> Callable[[float], str]:
        """Return the empty queue for a test that needs leases of that many seconds.

        Override it where `limits.min_lease` is `limits.max_lease`, as in the `BrokerContract`.
        """

        def name_for(lease: float) -> str:
            return ordered_queue

        return name_for

    @pytest.fixture
    def ordered(self, driver: BrokerDriver, ordered_queue: str) -> str:
        """Return the ordered queue's name, where the service keeps the order of groups."""
        if not driver.limits(ordered_queue).ordered:
            pytest.skip("the service keeps no order")
        return ordered_queue

    @pytest.fixture
    def deduplicated(self, driver: BrokerDriver, ordered_queue: str) -> str:
        """Return the ordered queue's name, where the service knows duplicates."""
        if not driver.limits(ordered_queue).dedup_window:
            pytest.skip("the service does not deduplicate")
        return ordered_queue

    def send(self, driver: BrokerDriver, queue: str, *groups: str) -> list[Outgoing]:
        """Send one message for each of `groups`, in one batch, and return them."""
        messages = [outgoing(body=group.encode(), group=group) for group in groups]
        assert not driver.send(queue, messages)
        return messages

    def all_of(self, driver: BrokerDriver, queue: str, count: int) -> list[Delivery]:
        """Receive and ack that many messages."""
        found: list[Delivery] = []
        while len(found) < count:
            received = collect(driver, queue, 1)
            assert not driver.ack(received)
            found += received
        return found

    def nothing_for(self, driver: BrokerDriver, queue: str, seconds: float) -> None:
        """Assert that no message can be received for `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            assert list(driver.receive(queue, count=1, wait=left, lease=HELD)) == []

    def test_a_group_arrives_in_order(self, driver: BrokerDriver, ordered: str) -> None:
        sent = [*self.send(driver, ordered, "a", "a", "a"), *self.send(driver, ordered, "a", "a")]
        arrived: list[str] = []
        while len(arrived) < len(sent):
            (delivery,) = collect(driver, ordered, 1)
            assert delivery.group == "a"
            arrived.append(delivery.id)
            assert not driver.ack([delivery])
        assert arrived == [message.id for message in sent]

    def test_groups_and_ids_of_any_text_are_sent(self, driver: BrokerDriver, ordered: str) -> None:
        """Services have lengths and characters for such names: none of them is a program's."""
        messages = [
            replace(outgoing(group=key, dedup=f"dedup:{key}"), id=f"{number}:{key}"[:255])
            for number, key in enumerate(ODD_KEYS)
        ]
        for message in messages:
            assert not driver.send(ordered, [message])
        found = {delivery.id: delivery for delivery in self.all_of(driver, ordered, len(messages))}
        assert set(found) == {message.id for message in messages}
        assert len({delivery.group for delivery in found.values()}) == len(messages)

    def test_a_group_of_odd_text_holds_its_messages(
        self, driver: BrokerDriver, another: BrokerDriver, ordered: str
    ) -> None:
        group = ODD_KEYS[0]
        first, second = self.send(driver, ordered, group, group)
        (held,) = collect(driver, ordered, 1)
        assert held.id == first.id
        self.nothing_for(another, ordered, self.tick / 2)
        assert not driver.ack([held])
        assert collect(another, ordered, 1)[0].id == second.id

    def test_a_message_without_group_has_none_whatever_its_id(
        self, driver: BrokerDriver, ordered: str
    ) -> None:
        message = replace(outgoing(), id="é ☃ " * 40)
        assert not driver.send(ordered, [message])
        (delivery,) = collect(driver, ordered, 1)
        assert (delivery.id, delivery.group) == (message.id, None)

    def test_a_dedup_key_of_odd_text_keeps_a_second_message_out(
        self, driver: BrokerDriver, deduplicated: str
    ) -> None:
        keys = [key for key in ODD_KEYS for _ in range(2)]
        for key in keys:
            assert not driver.send(deduplicated, [outgoing(group=key, dedup=key)])
        assert len(self.all_of(driver, deduplicated, len(ODD_KEYS))) == len(ODD_KEYS)
        self.nothing_for(driver, deduplicated, self.tick)

    def test_a_held_message_holds_its_group_and_no_other(
        self, driver: BrokerDriver, another: BrokerDriver, ordered: str
    ) -> None:
        self.send(driver, ordered, "a", "a", "b", "b")
        (held,) = collect(driver, ordered, 1)
        (other,) = collect(another, ordered, 1)
        assert {held.group, other.group} == {"a", "b"}
        self.nothing_for(another, ordered, self.tick / 2)
        assert not driver.ack([held])
        (following,) = collect(another, ordered, 1)
        assert following.group == held.group

    def test_a_wait_ends_when_a_group_goes_on(
        self, driver: BrokerDriver, another: BrokerDriver, ordered: str
    ) -> None:
        first, second = self.send(driver, ordered, "a", "a")
        (held,) = collect(driver, ordered, 1)
        assert held.id == first.id
        assert not driver.dead_letter([held], reason="so that the group goes on")
        assert collect(another, ordered, 1)[0].id == second.id

    def test_a_released_message_keeps_its_place(
        self, driver: BrokerDriver, another: BrokerDriver, ordered: str
    ) -> None:
        first, _ = self.send(driver, ordered, "a", "a")
        assert not driver.release(collect(driver, ordered, 1), after=0)
        (again,) = collect(another, ordered, 1)
        assert (again.id, again.attempts) == (first.id, 2)

    def test_a_message_released_for_later_keeps_its_group_waiting(
        self, driver: BrokerDriver, another: BrokerDriver, ordered: str
    ) -> None:
        first, _ = self.send(driver, ordered, "a", "a")
        assert not driver.release(collect(driver, ordered, 1), after=self.tick)
        (again,) = collect(another, ordered, 1)
        assert again.id == first.id

    def test_an_expired_lease_keeps_its_place(
        self,
        driver: BrokerDriver,
        another: BrokerDriver,
        ordered: str,
        leasing: Callable[[float], str],
    ) -> None:
        queue = leasing(self.tick * 2)
        first, second = self.send(driver, queue, "a", "a")
        collect(driver, queue, 1, lease=self.tick)
        (again,) = collect(another, queue, 1)
        assert again.id == first.id
        assert not another.ack([again])
        assert collect(another, queue, 1)[0].id == second.id

    def test_a_dedup_key_keeps_a_second_message_out(
        self, driver: BrokerDriver, another: BrokerDriver, deduplicated: str
    ) -> None:
        first = outgoing(group="a", dedup="key")
        assert not driver.send(deduplicated, [first])
        assert not another.send(deduplicated, [outgoing(group="a", dedup="key")])
        deliveries = collect(driver, deduplicated, 1)
        assert [delivery.id for delivery in deliveries] == [first.id]
        assert not driver.ack(deliveries)
        assert not driver.send(deduplicated, [outgoing(group="a", dedup="key")])
        self.nothing_for(driver, deduplicated, self.tick)

    def test_a_dedup_key_counts_within_one_batch(
        self, driver: BrokerDriver, deduplicated: str
    ) -> None:
        messages = [outgoing(group="a", dedup="key"), outgoing(group="b", dedup="key")]
        assert not driver.send(deduplicated, messages)
        assert collect(driver, deduplicated, 1)[0].id == messages[0].id
        self.nothing_for(driver, deduplicated, self.tick)

    def test_other_dedup_keys_pass(self, driver: BrokerDriver, deduplicated: str) -> None:
        messages = [outgoing(group=key, dedup=key) for key in ("a", "b", "c")]
        assert not driver.send(deduplicated, messages)
        assert {delivery.id for delivery in collect(driver, deduplicated, 3)} == {
            message.id for message in messages
        }
