"""Whatever the order of steps, crashes and outages: nothing is lost and no end changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
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

from cloudq import BackendError, Reject, State, Task
from cloudq.driver import Code, Delivery
from cloudq.execution.commit import commit, dispose
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Settled, Settlement
from cloudq.results.record import Record
from tests.support.bench import Bench

LEASE = 60.0
PICK = st.integers(0, 99)

# What each kind of task comes to when it is run to its end.
ENDS = {
    "fine": {State.SUCCESS},
    "fails": {State.FAILURE},
    "flaky": {State.SUCCESS},
    "rejects": {State.REJECTED},
    # What a second run comes to differs from the first: only the first end may be seen.
    "coin": {State.SUCCESS, State.FAILURE},
}


@dataclass
class Flight:
    """A delivery in a worker, and how far the worker has come with it."""

    delivery: Delivery
    lease_ends: float
    job: Job | None = None
    outcome: Settlement | None = None
    durable: bool = False


class Deliveries(RuleBasedStateMachine):
    """Workers that take the steps of `open`, `run`, `commit` and `dispose` in any interleaving."""

    def __init__(self) -> None:
        super().__init__()
        self.app = Bench(default_retry_delay=0.0, max_deliveries=10_000)
        self.app.clock.stand_still()
        self.kinds: dict[str, str] = {}
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

    @rule(kind=st.sampled_from(sorted(ENDS)))
    def publish(self, kind: str) -> None:
        if "send" in self.app.wire.down:
            return
        number = len(self.kinds)
        self.kinds[f"id-{number}"] = kind
        self.task.apply_async([kind, number], task_id=f"id-{number}")

    @rule(count=st.integers(1, 3))
    def receive(self, count: int) -> None:
        deliveries = self.app.broker.receive("default", count=count, wait=0.0, lease=LEASE)
        ends = self.app.clock() + LEASE
        self.flights += [Flight(delivery, ends) for delivery in deliveries]

    def at(self, stage: str) -> list[Flight]:
        return [flight for flight in self.flights if _stage(flight) == stage]

    @precondition(lambda self: self.at("received"))
    @rule(pick=PICK)
    def open(self, pick: int) -> None:
        flight = _picked(self.at("received"), pick)
        try:
            jobs, settled = self.app.runner.open([flight.delivery])
        except BackendError:
            assert "all" in self.app.store.down
            return
        if jobs:
            flight.job = jobs[0]
        else:
            flight.outcome = settled[0][1]

    @precondition(lambda self: self.at("opened"))
    @rule(pick=PICK)
    def run(self, pick: int) -> None:
        flight = _picked(self.at("opened"), pick)
        assert flight.job is not None
        flight.outcome = self.app.runner.run(flight.job)

    @precondition(lambda self: self.at("run"))
    @rule(picks=st.lists(PICK, min_size=1, max_size=3))
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
            assert "ack" in self.app.wire.down
            return
        self.flights.remove(flight)

    @precondition(lambda self: self.flights)
    @rule(pick=PICK)
    def crash(self, pick: int) -> None:
        self.flights.remove(_picked(self.flights, pick))

    @rule()
    def leases_end(self) -> None:
        self.app.clock.ahead += LEASE + 1

    @precondition(lambda self: self.flights)
    @rule(pick=PICK)
    def delivered_twice(self, pick: int) -> None:
        """The service gives a leased message to someone else, and the worker gets to know."""
        flight = _picked(self.flights, pick)
        self.app.memory.release([flight.delivery], after=0.0)
        flight.lease_ends = 0.0

    @rule(store=st.booleans(), send=st.booleans(), ack=st.booleans())
    def weather(self, store: bool, send: bool, ack: bool) -> None:
        self.app.store.down = {"all"} if store else set()
        self.app.wire.down = {name for name, down in (("send", send), ("ack", ack)) if down}

    @precondition(lambda self: self.kinds and not self.app.store.down)
    @rule(pick=PICK)
    def revoke(self, pick: int) -> None:
        task_id = _picked(sorted(self.kinds), pick)
        # Two copies of one retry may be out at a time; see the module's own tests for those.
        if self.kinds[task_id] != "flaky" and self.app.results.revoke(task_id):
            self.revoked.add(task_id)

    # ---- what always holds

    def look(self) -> dict[str, Record]:
        down, self.app.store.down = self.app.store.down, set()
        records = self.app.results.records(list(self.kinds))
        self.app.store.down = down
        return {task_id: record for task_id, record in records.items() if record.terminal}

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
                assert record.value == str(int(task_id.removeprefix("id-")) * 10)
        self.seen = ended

    @invariant()
    def nothing_is_lost(self) -> None:
        queue = self.app.held.get("default")
        waiting = {json.loads(m.outgoing.body)["id"] for m in queue.messages.values()}
        assert set(self.kinds) - set(self.look()) <= waiting

    def teardown(self) -> None:
        self.app.store.down = set()
        self.app.wire.down = set()
        self.flights.clear()
        self.app.work()
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
def test_nothing_is_lost_and_no_end_changes_in_any_order_of_steps() -> None:
    run_state_machine_as_test(
        Deliveries,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
