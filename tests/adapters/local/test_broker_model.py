"""The embedded brokers do what a plain model of the protocol does, in any order of calls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from cloudq.driver import Code, Delivery, Failure, Outgoing
from cloudq.testing import AdminDriver, outgoing
from cloudq_local.memory_broker import MemoryBroker, MemoryQueues
from cloudq_local.sqlite_broker import SQLiteBroker
from cloudq_local.sqlite_file import Database
from cloudq_local.wake import Bell

QUEUE = "queue"
SECONDS = st.sampled_from([0.0, 1.0, 5.0, 30.0])


@dataclass(slots=True)
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Held:
    """The model's knowledge of one message that is in the queue."""

    message: Outgoing
    visible_at: float
    attempts: int = 0
    receipt: object = None


@dataclass(slots=True)
class Model:
    """The protocol without any of the ways to make it fast."""

    held: list[Held] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    def receivable(self, now: float) -> Iterator[Held]:
        groups: set[str] = set()
        for held in self.held:
            group = held.message.group
            if held.visible_at <= now and group not in groups:
                yield held
            if group is not None:
                groups.add(group)

    def owner(self, delivery: Delivery) -> Held | None:
        for held in self.held:
            if held.message.id == delivery.id and held.receipt == delivery.receipt:
                return held
        return None


class BrokerModel(RuleBasedStateMachine):
    """Calls the driver and the model alike, and compares what they say."""

    deliveries = Bundle("deliveries")
    driver: AdminDriver

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.model = Model()
        self.sent: dict[str, Outgoing] = {}
        self.driver = self.open(self.clock)

    def open(self, clock: Clock) -> AdminDriver:
        raise NotImplementedError

    def teardown(self) -> None:
        self.driver.close()

    @initialize()
    def nothing_is_there(self) -> None:
        assert not self.driver.receive(QUEUE, count=1, wait=0, lease=1)

    @rule(
        delay=SECONDS,
        groups=st.lists(st.sampled_from([None, None, "a", "b"]), min_size=1, max_size=4),
    )
    def send(self, delay: float, groups: list[str | None]) -> None:
        messages = [outgoing(delay=delay, group=group) for group in groups]
        assert not self.driver.send(QUEUE, messages)
        for message in messages:
            self.sent[message.id] = message
            self.model.held.append(Held(message, self.clock.now + delay))

    @rule(target=deliveries, count=st.integers(1, 5), lease=SECONDS.filter(bool))
    def receive(self, count: int, lease: float):
        ready = {held.message.id: held for held in self.model.receivable(self.clock.now)}
        taken = self.driver.receive(QUEUE, count=count, wait=0, lease=lease)
        assert len(taken) == len({delivery.id for delivery in taken}) == min(count, len(ready))
        for delivery in taken:
            held = ready[delivery.id]
            held.visible_at = self.clock.now + lease
            held.attempts += 1
            held.receipt = delivery.receipt
            assert (delivery.attempts, delivery.group) == (held.attempts, held.message.group)
        return multiple(*taken)

    def settled(self, failures: list[Failure], delivery: Delivery) -> Held | None:
        owner = self.model.owner(delivery)
        codes = [failure.code for failure in failures]
        assert codes == ([] if owner else [Code.LEASE_LOST])
        return owner

    @rule(delivery=consumes(deliveries))
    def ack(self, delivery: Delivery) -> None:
        owner = self.settled(list(self.driver.ack([delivery])), delivery)
        if owner:
            self.model.held.remove(owner)

    @rule(delivery=consumes(deliveries))
    def dead_letter(self, delivery: Delivery) -> None:
        owner = self.settled(list(self.driver.dead_letter([delivery], reason="why")), delivery)
        if owner:
            self.model.held.remove(owner)
            self.model.dead.append(delivery.id)

    @rule(delivery=deliveries, after=SECONDS)
    def release(self, delivery: Delivery, after: float) -> None:
        owner = self.settled(list(self.driver.release([delivery], after=after)), delivery)
        if owner:
            owner.visible_at, owner.receipt = self.clock.now + after, None

    @rule(delivery=deliveries, lease=SECONDS)
    def extend(self, delivery: Delivery, lease: float) -> None:
        owner = self.settled(list(self.driver.extend([delivery], lease=lease)), delivery)
        if owner:
            owner.visible_at = self.clock.now + lease

    @rule(pair=st.tuples(deliveries, deliveries))
    def ack_two(self, pair: tuple[Delivery, Delivery]) -> None:
        first, second = pair
        if first.receipt == second.receipt:
            return
        owners = [self.model.owner(delivery) for delivery in pair]
        failures = self.driver.ack(pair)
        assert [f.index for f in failures] == [i for i, o in enumerate(owners) if o is None]
        self.model.held = [held for held in self.model.held if held not in owners]

    @rule(data=st.data())
    def redrive(self, data: st.DataObject) -> None:
        letters = self.driver.peek_dead(QUEUE, count=100)
        if not letters:
            return
        letter = data.draw(st.sampled_from(letters))
        assert not self.driver.redrive(QUEUE, [letter])
        self.model.dead.remove(letter.id)
        self.model.held.append(Held(self.sent[letter.id], self.clock.now))

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        now = self.clock.now
        stats = self.driver.stats(QUEUE)
        leased = sum(h.receipt is not None and h.visible_at > now for h in self.model.held)
        assert stats.leased == leased
        assert (stats.ready or 0) + (stats.delayed or 0) == len(self.model.held) - leased
        assert sorted(p.id for p in self.driver.peek_dead(QUEUE, count=999)) == sorted(
            self.model.dead
        )


class MemoryModel(BrokerModel):
    def open(self, clock: Clock) -> AdminDriver:
        return MemoryBroker(MemoryQueues(clock))


class SQLiteModel(BrokerModel):
    def open(self, clock: Clock) -> AdminDriver:
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name, "queue.db")
        database = Database(file, synchronous="off", busy_timeout=1)
        return SQLiteBroker(database, Bell(file), clock=clock)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


@pytest.mark.slow
@pytest.mark.parametrize("machine", [MemoryModel, SQLiteModel])
def test_a_broker_does_what_the_model_does(machine: type[BrokerModel]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
