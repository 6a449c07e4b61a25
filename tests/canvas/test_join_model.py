"""Whatever is delivered twice, wherever a worker dies or stands still: joins hold."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cloudq import ChordError, State, chord, group
from cloudq.broker.broker import Broker
from cloudq.canvas.joins import Joins
from cloudq.driver import Delivery
from cloudq.driver.ends import Died
from cloudq.execution.commit import commit, dispose
from cloudq.execution.settlement import Settlement
from cloudq.results.backend import Backend
from cloudq.results.record import Record
from cloudq.runtime import Runtime
from cloudq.testing.waiting import PATIENCE
from tests.support.bench import Bench

# CLOUDQ_DRILL=full looks at 2,000 runs.
EXAMPLES = 2_000 if os.environ.get("CLOUDQ_DRILL") == "full" else 120
LEASE = 5.0
CALLS = frozenset({"send", "ack", "release", "dead_letter", "put", "get", "update", "delete"})


KINDS = ["plain", "nested", "chain", "fails", "fails inside"]
# A member's end takes up to eight calls: its record, its shard, the join, the claim, and so on.
CALL = st.integers(1, 8)


class Gate:
    """Stands before drivers: at the n-th call, before or after it, the caller dies or waits."""

    def __init__(self, at: int, *, after: bool, dies: bool) -> None:
        self.calls = 0
        self.at, self.after, self.dies = at, after, dies
        self.reached, self.open = threading.Event(), threading.Event()

    def before(self, inner: Any) -> Any:
        return _Gated(inner, self)

    def stop(self) -> None:
        if self.dies:
            raise Died
        self.reached.set()
        assert self.open.wait(PATIENCE)


class _Gated:
    def __init__(self, inner: Any, gate: Gate) -> None:
        self._inner, self._gate = inner, gate

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in CALLS:
            return value
        gate = self._gate

        def call(*args: Any, **kwargs: Any) -> Any:
            gate.calls += 1
            here = gate.calls == gate.at
            if here and not gate.after:
                gate.stop()
            answer = value(*args, **kwargs)
            if here and gate.after:
                gate.stop()
            return answer

        return call


@dataclass
class Chord:
    """A chord that was started: what it comes to, None if it fails, and its result."""

    value: int | None
    result: Any


class Chords(RuleBasedStateMachine):
    """Workers that settle members and bodies, one of them standing still at any write."""

    def __init__(self) -> None:
        super().__init__()
        self.app = Bench(default_retry_delay=0.0, max_deliveries=10_000)
        self.app.clock.stand_still()
        self.chords: list[Chord] = []
        self.bodies: list[str] = []
        self.ends: dict[str, Record] = {}
        self.standing: list[tuple[Gate, threading.Thread]] = []
        self.disturbed = False

        @self.app.task(name="same")
        def same(value: Any) -> Any:
            return value

        @self.app.task(name="fail", max_retries=0)
        def fail() -> None:
            raise ValueError("on purpose")

        @self.app.task(name="total", bind=True)
        def total(this: Any, values: list[int]) -> int:
            self.bodies.append(this.request.id)
            return sum(values)

        self.same, self.fail, self.total = same, fail, total

    # ---- what happens

    @initialize(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=2))
    def start(self, kinds: list[str]) -> None:
        for kind in kinds:
            self.start_one(kind)

    def start_one(self, kind: str) -> None:
        members: list[Any] = [self.same.s(1)]
        value: int | None = 1
        if kind == "nested":
            members.append(group(self.same.s(5), self.same.s(6)) | self.total.s())
            value = 12
        elif kind == "chain":
            members.append(self.same.s(5) | self.same.s())
            value = 6
        elif kind == "fails":
            members.append(self.fail.s())
            value = None
        elif kind == "fails inside":
            members.append(chord([self.fail.s()], self.total.s()))
            value = None
        self.chords.append(Chord(value, chord(members, self.total.s()).delay()))

    @rule()
    def work(self) -> None:
        """A worker does all that is to be done with one message."""
        for delivery, settlement in self.run():
            self.settle(delivery, settlement, None)

    @rule()
    def work_without_ack(self) -> None:
        """It is done and recorded, but the message comes again."""
        for delivery, settlement in self.run():
            self.disturbed |= settlement.task == "total"
            commit(
                [(delivery, settlement)],
                self.app.broker,
                self.app.backend,
                self.app.workflows.joins,
            )

    @rule(at=CALL, after=st.booleans())
    def die(self, at: int, after: bool) -> None:
        """A worker dies at some call."""
        self.disturbed = True
        for delivery, settlement in self.run():
            with suppress(Died):
                self.settle(delivery, settlement, Gate(at, after=after, dies=True))

    @precondition(lambda self: len(self.standing) < 2)
    @rule(at=CALL, after=st.booleans())
    def stand_still(self, at: int, after: bool) -> None:
        """A worker stops at some call, for now."""
        self.disturbed = True
        for delivery, settlement in self.run():
            gate = Gate(at, after=after, dies=False)
            done = threading.Event()

            def settled(
                delivery: Delivery = delivery,
                settlement: Settlement = settlement,
                gate: Gate = gate,
                done: threading.Event = done,
            ) -> None:
                self.settle(delivery, settlement, gate)
                gate.reached.set()
                done.set()

            thread = threading.Thread(target=settled, daemon=True)
            thread.start()
            assert gate.reached.wait(PATIENCE)
            if not done.is_set():
                self.standing.append((gate, thread))

    @precondition(lambda self: self.standing)
    @rule()
    def go_on(self) -> None:
        gate, thread = self.standing.pop(0)
        gate.open.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    @rule()
    def claims_end(self) -> None:
        self.app.clock.ahead += 20.0

    # ---- a worker

    def run(self) -> list[tuple[Delivery, Settlement]]:
        received = self.app.broker.receive("default", count=1, wait=0.0, lease=LEASE)
        if not received:  # leases end sooner than claims do
            self.app.clock.ahead += LEASE + 1
            received = self.app.broker.receive("default", count=1, wait=0.0, lease=LEASE)
        settled = [(delivery, self.app.settle(delivery)) for delivery in received]
        self.look()
        return settled

    def settle(self, delivery: Delivery, settlement: Settlement, gate: Gate | None) -> None:
        app = self.app
        broker, backend, joins = app.broker, app.results, app.workflows.joins
        if gate is not None:
            broker = Broker(gate.before(app.wire), url="gated://")
            backend = Backend(gate.before(app.store), url="gated://")
            runtime = Runtime("gated", app.conf)
            runtime._broker, runtime._backend = broker, backend  # pyright: ignore[reportPrivateUsage]
            joins = Joins(runtime, app.workflows.planner)
        done = commit([(delivery, settlement)], broker, backend, joins)
        assert not done.failed, done.error
        dispose(done.ready, broker)

    # ---- what must hold

    def look(self) -> None:
        """An end that was seen stays, and no body runs before its members have succeeded."""
        for each in self.chords:
            record = self.app.results.record(each.result.id)
            if record is not None and record.terminal:
                before = self.ends.setdefault(record.id, record)
                assert (before.state, before.value) == (record.state, record.value)
            if each.result.id in self.bodies:
                assert each.value is not None
                assert all(leaf.state is State.SUCCESS for leaf in each.result.parent.leaves())

    def teardown(self) -> None:
        try:
            while self.standing:
                self.go_on()
            for _ in range(200):
                if not self.app.left():
                    break
                self.app.clock.ahead += 20.0
                self.work()
            assert self.app.left() == 0
            self.look()
            for each in self.chords:
                if each.value is None:
                    with pytest.raises(ChordError, match="on purpose"):
                        each.result.get(timeout=0)
                else:
                    assert each.result.get(timeout=0) == each.value
                    runs = self.bodies.count(each.result.id)
                    assert runs >= 1
                    assert self.disturbed or runs == 1
        finally:
            for gate, _ in self.standing:
                gate.open.set()
            self.app.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_joins_hold() -> None:
    run_state_machine_as_test(
        Chords,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
