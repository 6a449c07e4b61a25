"""Bundles in any order of steps, crashes and outages: nothing is lost and no end changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cloudq import AsyncResult, BackendError, PublishError, Reject, State, Task
from cloudq.driver import Code, Delivery
from cloudq.driver.log import Log
from cloudq.execution.bundles import Part, whole_of
from cloudq.execution.commit import commit, dispose
from cloudq.execution.consume import Consumer
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, Settled, Settlement
from cloudq.messages.bundle import Bundle
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record
from tests.support.bench import Bench

LEASE = 60.0
PICK = st.integers(0, 99)

ENDS = {
    "fine": {State.SUCCESS},
    "fails": {State.FAILURE},
    "flaky": {State.SUCCESS},
    "rejects": {State.REJECTED},
    "coin": {State.SUCCESS, State.FAILURE},
}


@dataclass
class Flight:
    """A call or a bundle in a worker, and how far the worker has come with it."""

    delivery: Delivery
    lease_ends: float
    job: Job | None = None
    outcome: Settlement | None = None
    durable: bool = False


class Bundles(RuleBasedStateMachine):
    """Workers that take the steps of each call of a bundle in any interleaving."""

    def __init__(self, *, tracked: bool = False) -> None:
        super().__init__()
        self.app = Bench(default_retry_delay=0.0, max_deliveries=10_000)
        # STARTED and RETRY lie apart, beside the marks and ends in the bundle.
        self.app.conf.task_track_started = tracked
        self.app.clock.stand_still()
        # What was read is given again for some seconds, and not all machines are as fast.
        self.app.results.bundles._keep = lambda found: None
        self.kinds: dict[str, str] = {}
        self.numbers: dict[str, int] = {}
        self.results: dict[str, AsyncResult[Any]] = {}
        self.revoked: set[str] = set()
        self.seen: dict[str, Record] = {}
        self.flights: list[Flight] = []
        self.runs = 0

        @self.app.task(name="t", bind=True, autoretry_for=[OSError])
        def task(this: Task[..., Any], kind: str, number: int) -> int:
            self.runs += 1
            if kind == "fails" or (kind == "coin" and self.runs % 2):
                raise ValueError(number)
            if kind == "flaky" and not this.request.retries:
                raise OSError(number)
            if kind == "rejects":
                raise Reject
            return number * 10

        self.task = task

    # ---- what happens

    @rule(kinds=st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=5), size=st.just(4))
    def publish(self, kinds: list[str], size: int) -> None:
        first = len(self.kinds)
        calls = [self.task.prepare(kind, first + at) for at, kind in enumerate(kinds)]
        try:
            sent = self.app.publish(calls, bundle=size)
        except PublishError:
            assert "send" in self.app.wire.down
            return
        for at, (kind, result) in enumerate(zip(kinds, sent, strict=True)):
            self.kinds[result.id] = kind
            self.numbers[result.id] = first + at
            self.results[result.id] = result

    def idle(self) -> list[str]:
        """The calls that have ended, and of which no message is left."""
        ended = self.look()
        waiting = self.waiting()
        wholes = [whole_of(flight.delivery) for flight in self.flights]
        flying = {id for whole in wholes for id in self.read(whole.body)}
        return [id for id in self.kinds if id in ended and id not in waiting | flying]

    @precondition(lambda self: self.idle())
    @rule(pick=PICK, kind=st.sampled_from(sorted(ENDS)))
    def give_the_id_again(self, pick: int, kind: str) -> None:
        """A caller gives the id of a call that has ended to another one."""
        task_id, number = _picked(self.idle(), pick), 1000 + self.runs
        try:
            result = self.task.apply_async((kind, number), task_id=task_id)
        except PublishError:
            assert "send" in self.app.wire.down
            return
        self.kinds[task_id], self.numbers[task_id] = kind, number
        self.results[task_id] = result
        self.revoked.discard(task_id)
        self.seen.pop(task_id, None)

    @rule(count=st.integers(1, 3))
    def receive(self, count: int) -> None:
        deliveries = self.app.broker.receive("default", count=count, wait=0.0, lease=LEASE)
        ends = self.app.clock() + LEASE
        self.flights += [Flight(delivery, ends) for delivery in deliveries]

    def at(self, stage: str) -> list[Flight]:
        return [flight for flight in self.flights if _stage(flight) == stage]

    def of(self, flight: Flight) -> list[Flight]:
        """All that came in one message."""
        whole = whole_of(flight.delivery)
        return [each for each in self.flights if whole_of(each.delivery) is whole]

    @precondition(lambda self: self.at("received"))
    @rule(pick=PICK)
    def open(self, pick: int) -> None:
        flight = _picked(self.at("received"), pick)
        try:
            jobs, settled = self.app.runner.open([flight.delivery])
        except BackendError:
            assert "all" in self.app.store.down
            return
        assert not self.revoked & {job.message.id for job in jobs}
        self.flights.remove(flight)
        for job in jobs:
            self.flights.append(Flight(job.delivery, flight.lease_ends, job=job))
        for delivery, outcome in settled:
            self.flights.append(Flight(delivery, flight.lease_ends, outcome=outcome))

    @precondition(lambda self: self.at("opened"))
    @rule(pick=PICK)
    def run(self, pick: int) -> None:
        flight = _picked(self.at("opened"), pick)
        assert flight.job is not None
        flight.outcome = self.app.runner.run(flight.job)

    @precondition(lambda self: self.at("opened"))
    @rule(pick=PICK)
    def give_back(self, pick: int) -> None:
        """A worker that stops puts back what it has not started."""
        flight = _picked(self.at("opened"), pick)
        flight.outcome = Settlement(action=Action.RELEASE, reason="the worker stops")

    @precondition(lambda self: self.at("run"))
    @rule(picks=st.lists(PICK, min_size=1, max_size=6))
    def commit(self, picks: list[int]) -> None:
        chosen = {id(f): f for f in (_picked(self.at("run"), pick) for pick in picks)}
        flights = {id(flight.delivery): flight for flight in chosen.values()}
        result = commit(
            [self.settled(flight) for flight in chosen.values()], self.app.broker, self.app.backend
        )
        assert len(result.ready) + len(result.failed) == len(chosen)
        for delivery, settlement in result.failed:
            assert result.error is not None
            flights[id(delivery)].outcome = settlement
        for delivery, settlement in result.ready:
            flights[id(delivery)].outcome = settlement
            flights[id(delivery)].durable = True

    def settled(self, flight: Flight) -> Settled:
        """As a worker does: what may have lost its lease is written under the fence."""
        assert flight.outcome is not None
        lost = self.app.clock() >= flight.lease_ends
        return flight.delivery, replace(flight.outcome, fenced=flight.outcome.fenced or lost)

    @precondition(lambda self: self.at("durable"))
    @rule(pick=PICK)
    def dispose(self, pick: int) -> None:
        flight = _picked(self.at("durable"), pick)
        assert flight.outcome is not None
        refused = dispose([(flight.delivery, flight.outcome)], self.app.broker)
        if refused and refused[0].code is not Code.LEASE_LOST:
            assert self.app.wire.down
            return
        self.flights.remove(flight)

    @precondition(lambda self: self.flights)
    @rule(pick=PICK)
    def crash(self, pick: int) -> None:
        for flight in self.of(_picked(self.flights, pick)):
            self.flights.remove(flight)

    @rule()
    def quiet_hours(self) -> None:
        """One worker works off all that there is."""
        down = self.app.store.down, self.app.wire.down
        self.app.store.down, self.app.wire.down = set(), set()
        self.flights.clear()
        self.work_off()
        self.app.store.down, self.app.wire.down = down

    @rule()
    def leases_end(self) -> None:
        self.app.clock.ahead += LEASE + 1

    @precondition(lambda self: self.flights)
    @rule(pick=PICK)
    def delivered_twice(self, pick: int) -> None:
        """The service gives a leased message to someone else."""
        flight = _picked(self.flights, pick)
        self.app.memory.release([whole_of(flight.delivery)], after=0.0)
        for each in self.of(flight):
            each.lease_ends = 0.0

    @rule(store=st.booleans(), send=st.booleans(), ack=st.booleans())
    def weather(self, store: bool, send: bool, ack: bool) -> None:
        self.app.store.down = {"all"} if store else set()
        self.app.wire.down = {name for name, down in (("send", send), ("ack", ack)) if down}

    @precondition(lambda self: self.kinds and not self.app.store.down)
    @rule(pick=PICK)
    def revoke(self, pick: int) -> None:
        task_id = _picked(list(self.kinds), pick)  # in the order of the calls: ids are random
        if self.results[task_id].revoke():
            self.revoked.add(task_id)

    # ---- what always holds

    def look(self) -> dict[str, Record]:
        down, self.app.store.down = self.app.store.down, set()
        self.app.results.bundles.seen.forget()
        records = self.app.results.records(list(self.kinds))
        self.app.store.down = down
        return {
            task_id: record
            for task_id, record in records.items()
            if record.terminal and record.call == self.results[task_id].call
        }

    @invariant()
    def ends_are_right_and_never_change(self) -> None:
        ended = self.look()
        for task_id, before in self.seen.items():
            assert ended.get(task_id) == before
        for task_id, record in ended.items():
            allowed = ENDS[self.kinds[task_id]]
            if task_id in self.revoked:
                allowed = allowed | {State.REVOKED}
            assert record.state in allowed
            if record.state is State.SUCCESS:
                assert record.value == str(self.numbers[task_id] * 10)
        self.seen = ended

    @invariant()
    def nothing_is_lost(self) -> None:
        assert set(self.kinds) - set(self.look()) <= self.waiting()

    def waiting(self) -> set[str]:
        messages = self.app.held.get("default").messages.values()
        return {id for message in messages for id in self.read(message.outgoing.body)}

    def read(self, body: bytes) -> set[str]:
        read = self.app.runtime.codec.read(body, queue="default", limit=1 << 20)
        if not isinstance(read, Bundle):
            return {read.id}
        return {call.id for call in read.calls if isinstance(call, TaskMessage)}

    def work_off(self) -> None:
        consumer = Consumer(self.app.runner, log=Log("test"), tries=3)
        for _ in range(1000):
            if not self.app.left():
                return
            deliveries = self.app.broker.receive("default", count=1, wait=0.0, lease=LEASE)
            if deliveries:
                consumer.consume(deliveries)
            else:
                self.app.clock.ahead += LEASE + 1
        raise AssertionError("it never ends")

    def teardown(self) -> None:
        self.app.store.down = set()
        self.app.wire.down = set()
        self.flights.clear()
        self.work_off()
        self.ends_are_right_and_never_change()
        assert set(self.seen) == set(self.kinds)
        self.app.close()


def _stage(flight: Flight) -> str:
    if flight.durable:
        return "durable"
    if flight.outcome is not None:
        return "run"
    return "opened" if flight.job else "received"


def _picked(choices: list[Any], pick: int) -> Any:
    return choices[pick % len(choices)]


@pytest.mark.slow
@pytest.mark.parametrize("tracked", [True, False])
def test_no_call_of_a_bundle_is_lost_and_no_end_changes_in_any_order_of_steps(
    tracked: bool,
) -> None:
    run_state_machine_as_test(
        partial(Bundles, tracked=tracked),
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("kind", ["fine", "flaky"])
def test_a_revocation_is_spent_by_the_end_of_its_call(tracked: bool, kind: str) -> None:
    machine = Bundles(tracked=tracked)
    machine.publish(kinds=["fine", "fine"], size=4)
    machine.quiet_hours()
    machine.give_the_id_again(kind="fine", pick=0)
    machine.revoke(pick=0)
    machine.quiet_hours()
    machine.ends_are_right_and_never_change()
    machine.give_the_id_again(kind=kind, pick=0)
    machine.teardown()


def test_the_model_has_bundles() -> None:
    machine = Bundles()
    machine.publish(["fine", "fails", "flaky", "rejects"], 4)
    machine.receive(1)
    machine.open(0)
    assert all(isinstance(flight.delivery, Part) for flight in machine.flights)
    assert len(machine.flights) == 4
    machine.teardown()
