"""The life of a delivery, as a model: the real executor on real drivers is held against it.

Workers take the steps of a real one in any order, calls to the services go wrong in every way, and
workers die or stand still between any two. After each effect on a queue or on the store: no call is
lost, no end changes, and no fence goes back.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cloudq import CloudQ, Reject, State, chain, chord
from cloudq.driver import Code, Delivery
from cloudq.driver.ends import Died
from cloudq.driver.log import Log
from cloudq.errors import PartlyStarted, ServiceError
from cloudq.execution.bundles import whole_of
from cloudq.execution.consume import Consumer
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import DELIVERED, Settlement
from cloudq.messages.bundle import Bundle
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.results.record import Record
from cloudq.runtime import Services
from cloudq_local.memory_backend import MemoryBackend, MemoryItems
from cloudq_local.memory_broker import MemoryBroker, MemoryQueues
from cloudq_local.sqlite_backend import SQLiteBackend
from cloudq_local.sqlite_broker import SQLiteBroker
from cloudq_local.sqlite_file import Database
from cloudq_local.wake import Bell
from tests.support.bench import Clock
from tests.support.shaky import Fault, Kind, Plan, ShakyBroker, ShakyStore

pytestmark = [pytest.mark.drill, pytest.mark.slow]

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
EXAMPLES, STEPS = (2_000, 60) if FULL else (30, 30)
EXAMPLES = int(os.environ.get("CLOUDQ_MODEL_EXAMPLES") or EXAMPLES)
SEED = int(os.environ.get("CLOUDQ_MODEL_SEED") or (random.randrange(1 << 32) if FULL else 16))
# A test that only has to fail need not say how little it takes.
PHASES = [Phase.generate] if "CLOUDQ_MUTANT" in os.environ else [Phase.generate, Phase.shrink]
LEASE = 60.0
QUEUE, OTHER = "default", "moved"
PICK = st.integers(0, 99)
LARGE = "x" * 3000
# As much of a cloud's table as changes what is written: a few small items, and shared ones.
CLOUD = {"put": 3, "get": 4, "bills_kilobytes": True}
CALLS = ("send", "receive", "ack", "release", "dead_letter", "put", "get", "update", "settle")

CALL = st.sampled_from([None, *CALLS])
# Those by which what was run is settled.
SETTLES = (None, *CALLS, "send", "send", "put", "put", "update", "settle")
SKIPS = (0, 0, 0, 0, 1, 1, 2, 3, 5)
SKIP = st.sampled_from(SKIPS)
# Of several choices in a row a few are made again and again; one number is spread evenly.
FATE = st.integers(0, 1 << 20)
KIND_OF_FAULT = st.sampled_from(list(Kind))
# What goes wrong once is tried again at once, and goes well.
TIMES = st.sampled_from([1, 1, 8])

SUCCESS, FAILURE, REVOKED = State.SUCCESS, State.FAILURE, State.REVOKED
ENDS: dict[str, set[State]] = {
    "fine": {SUCCESS},
    "tracked": {SUCCESS},
    "fails": {FAILURE},
    "flaky": {SUCCESS},
    "tired": {FAILURE},
    "rejects": {State.REJECTED},
    "requeued": {SUCCESS},
    "buried": {FAILURE},
    "coin": {SUCCESS, FAILURE},
    "once": {SUCCESS},
    "brief": {SUCCESS, REVOKED},
    "ignored": set(),
    "added": {SUCCESS, FAILURE},
}
"""What each task comes to. A second run of `coin` comes to something else."""
KINDS = [kind for kind in ENDS if kind != "added"]
KIND = st.sampled_from(KINDS)
WAYS = ("", "", "later", "group", "given", "large")
EARLIEST = 200.0  # seconds after which nothing is delayed any more


@dataclass
class Call:
    """A call that was sent, and what is known of it."""

    message: TaskMessage
    runs: int = 0
    values: set[str] = field(default_factory=set[str])
    done: bool = False  # a run has come to an end
    record: Record | None = None  # its end, once there is one
    fence: tuple[str, int] = ("", 0)
    loose: bool = False  # an operator has sent it again, or revoked it
    reopens: bool = False  # it was sent again, and that has not been heard yet
    tries: set[tuple[str, int, int, int]] = field(default_factory=set[tuple[str, int, int, int]])
    half_revoked: bool = False  # its message may be taken back, and that not be recorded
    is_twice: bool = False  # two runs of what comes before it have each sent it


@dataclass
class Flight:
    """A delivery in a worker, or a call of one, and how far the worker has come with it."""

    delivery: Delivery
    lease_ends: float
    job: Job | None = None
    outcome: Settlement | None = None
    durable: bool = False

    @property
    def stage(self) -> str:
        if self.durable:
            return "durable"
        if self.outcome is not None:
            return "run"
        return "opened" if self.job else "received"


class Place:
    """A broker and a store on this machine: with a plan before them, and to look at."""

    def __init__(self, kind: str, folder: Path, clock: Clock, plan: Plan) -> None:
        self.file = folder / "cloudq.db"
        self.is_file = kind == "sqlite"
        if self.is_file:
            self.broker: Any = SQLiteBroker(*self.opened(), clock=clock)
            store: Any = SQLiteBackend(*self.opened(), clock=clock)
            self.reader = sqlite3.connect(self.file)
        else:
            self.held = MemoryQueues(clock)
            self.broker = MemoryBroker(self.held)
            store = MemoryBackend(MemoryItems(clock))
        limits = replace(store.limits, **CLOUD) if kind == "cloud" else store.limits
        self.wire = ShakyBroker(self.broker, plan)
        self.store = ShakyStore(store, plan, limits)
        # What was read is given again for a moment, and not all machines are as fast.
        self.clean = Backend(ShakyStore(store, Plan(), limits), url="clean://", clock=clock)
        self.clean.bundles._keep = lambda found: None  # pyright: ignore[reportPrivateUsage]

    def opened(self) -> tuple[Database, Bell]:
        return Database(self.file, synchronous="full", busy_timeout=10.0), Bell(self.file)

    def bodies(self, table: str) -> list[tuple[str, bytes]]:
        """All messages, leased ones too, or all `dead` letters, by their queues."""
        if self.is_file:
            return self.reader.execute(f"SELECT queue, body FROM {table}").fetchall()
        found: list[tuple[str, bytes]] = []
        for name in (QUEUE, OTHER):
            messages: dict[int, Any] = getattr(self.held.get(name), table)
            found += [(name, message.outgoing.body) for message in messages.values()]
        return found

    def close(self) -> None:
        if self.is_file:
            self.reader.close()


class Lives(RuleBasedStateMachine):
    """Two workers, whoever sends and stops calls, and an operator, while everything goes wrong."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="cloudq-lives-"))
        self.clock = Clock()
        self.clock.stand_still(1_800_000_000.0)
        self.plan = Plan(late=self.overtaken, seen=self.seen)
        self.place = Place(kind, self.folder, self.clock, self.plan)
        self.app = CloudQ(
            "lives",
            broker="memory://lives",
            backend="memory://lives",
            payload_store=f"file:///{self.folder}/blobs",
            payload_store_over=2000,
            default_retry_delay=5.0,
            max_deliveries=10_000,
            publish_retries=1,
        )
        self.app.runtime.services = Services(
            clock=self.clock,
            sleep=lambda _: None,
            open_broker=lambda _: self.place.wire,
            open_backend=lambda _: self.place.store,
        )
        self.backend = self.app.backend
        assert self.backend is not None
        self.backend.bundles._keep = lambda found: None  # pyright: ignore[reportPrivateUsage]
        self.calls: dict[str, Call] = {}
        self.groups: dict[str, list[str]] = {}
        self.broken: list[str] = []
        self.queues = [QUEUE]
        self.number = 0
        self.read: dict[bytes, list[TaskMessage]] = {}
        self.workers = [self.worker(), self.worker()]
        self.flights: list[list[Flight]] = [[], []]
        self.make_tasks()

    def worker(self) -> Consumer:
        return Consumer(self.app.executor(hostname="w"), log=Log("lives"), tries=1)

    def make_tasks(self) -> None:
        def task(this: Any, number: int, text: str = "") -> Any:
            kind: str = this.name
            call = self.begun(this.request)
            odd = call.runs % 2
            if kind in ("fails", "buried") or (kind == "coin" and odd):
                call.done = True
                raise ValueError(f"{number} on purpose")
            if kind == "tired" or (kind == "flaky" and not this.request.retries):
                raise OSError(number)
            if kind == "rejects" or (kind == "requeued" and odd):
                raise Reject("on purpose", requeue=kind == "requeued")
            call.done = True
            # No two runs come to the same, so that an end that is recorded twice is seen.
            value = [number, sum(each.runs for each in self.calls.values())]
            call.values.add(self.json(value))
            return value

        options: dict[str, dict[str, Any]] = {
            "tracked": {"track_started": True},
            "flaky": {"autoretry_for": [OSError], "track_started": True},
            "tired": {"autoretry_for": [OSError], "max_retries": 1},
            "buried": {"dead_letter": True},
            "once": {"idempotent": True},
            "ignored": {"ignore_result": True},
        }
        self.tasks = {
            kind: self.app.task(name=kind, bind=True, **options.get(kind, {}))(task)
            for kind in ENDS
            if kind != "added"
        }

        @self.app.task(name="added", bind=True)
        def added(this: Any, values: Any) -> Any:
            call = self.begun(this.request)
            call.done = True
            call.values.add(self.json(values))
            return values

        self.added = added

    @staticmethod
    def json(value: Any) -> str:
        return str(value).replace(" ", "")

    def begun(self, request: Any) -> Call:
        """Note that a run begins; one of a group that does so before its turn is a failure."""
        call = self.calls[request.id]
        call.runs += 1
        with self.held_against():
            group = self.groups.get(call.message.group_key or "", [])
            ended = self.place.clean.records(group)
            for earlier in group[: group.index(request.id)] if request.id in group else ():
                before = self.calls[earlier]
                is_unrecorded = before.message.task == "ignored" and before.done
                if not (before.loose or call.loose or is_unrecorded):
                    assert earlier in ended, f"{request.id} begins before {earlier} has ended"
        return call

    @contextmanager
    def held_against(self) -> Generator[None]:
        """Note what does not hold: where it is seen, an error would be the service's."""
        try:
            yield
        except AssertionError as error:
            self.broken.append(str(error))

    # ---- what is sent

    def send(self, call: Callable[[], object]) -> None:
        """Publish, as someone who is not told, or dies: what was sent counts all the same."""
        with suppress(ServiceError, PartlyStarted, Died):
            call()

    @initialize(kinds=st.lists(KIND, min_size=1, max_size=3))
    def begin(self, kinds: list[str]) -> None:
        for kind in kinds:
            self.publish(kind, "")

    @rule(kind=KIND, how=st.sampled_from(WAYS))
    def publish(self, kind: str, how: str) -> None:
        self.number += 1
        number = self.number % 3 if kind == "once" else self.number
        options: dict[str, Any] = {}
        if kind == "brief":
            options["expires"] = 90.0
        if how == "later":
            options["countdown"] = 90.0
        elif how == "group":
            options["group_key"] = "g"
        elif how == "given":
            options["task_id"] = f"given-{self.number}"
        args = [number, LARGE] if how == "large" else [number]
        self.send(lambda: self.tasks[kind].apply_async(args, **options))

    @rule(kinds=st.lists(KIND, min_size=2, max_size=4))
    def publish_bundle(self, kinds: list[str]) -> None:
        calls: list[Any] = []
        for kind in kinds:
            self.number += 1
            calls.append(self.tasks[kind].prepare(self.number))
        self.send(lambda: self.app.publish(calls, bundle=4))

    @rule(kind=st.sampled_from(["fine", "fails", "flaky", "coin"]), large=st.booleans())
    def publish_chain(self, kind: str, large: bool) -> None:
        self.number += 1
        first = self.tasks[kind].s(self.number, LARGE if large else "")
        self.send(chain(first, self.added.s()).delay)

    @rule(kind=st.sampled_from(["fine", "fails", "flaky"]))
    def publish_chord(self, kind: str) -> None:
        self.number += 2
        members = [self.tasks["fine"].s(self.number), self.tasks[kind].s(self.number - 1)]
        self.send(chord(members, self.added.s()).delay)

    # ---- what workers do

    @rule(worker=st.integers(0, 1), count=st.integers(1, 3))
    def receive(self, worker: int, count: int) -> None:
        with self.dying(worker):
            for queue in self.queues:
                ends = self.clock() + LEASE
                with suppress(ServiceError):
                    self.hold(
                        worker,
                        self.app.broker.receive(queue, count=count, wait=0.0, lease=LEASE),
                        ends,
                    )

    def hold(self, worker: int, deliveries: Sequence[Delivery], ends: float) -> None:
        """Take deliveries in, but for a copy of a call that is with a worker at this moment.

        That both copies of a message may run and write is the one thing that is accepted.
        """
        for delivery in deliveries:
            tries = {_try(call) for call in self.decoded(delivery.queue, delivery.body)}
            others = (each for flights in self.flights for each in flights)
            held = (
                whole_of(each.delivery)
                for each in others
                if not each.durable and each.lease_ends > self.clock()
            )
            if any(
                _try(call) in tries
                for other in held
                if other.id != delivery.id or other.receipt[0] != delivery.receipt[0]  # type: ignore[index]
                for call in self.decoded(other.queue, other.body)
            ):
                self.place.broker.release([delivery], after=LEASE)
            else:
                self.flights[worker].append(Flight(delivery, ends))

    def at(self, worker: int, stage: str) -> list[Flight]:
        return [flight for flight in self.flights[worker] if flight.stage == stage]

    @rule(worker=st.integers(0, 1))
    def open(self, worker: int) -> None:
        received = self.at(worker, "received")
        if not received:
            return
        ends = min(flight.lease_ends for flight in received)
        with self.dying(worker):
            try:
                jobs, settled = self.workers[worker].open([flight.delivery for flight in received])
            except ServiceError:
                return
            for flight in received:
                self.flights[worker].remove(flight)
            self.flights[worker] += [Flight(job.delivery, ends, job=job) for job in jobs]
            self.flights[worker] += [
                Flight(delivery, ends, outcome=outcome) for delivery, outcome in settled
            ]

    @rule(worker=st.integers(0, 1), pick=PICK)
    def run(self, worker: int, pick: int) -> None:
        opened = self.at(worker, "opened")
        if not opened:
            return
        flight = opened[0 if opened[0].delivery.group else pick % len(opened)]
        assert flight.job is not None
        with self.dying(worker):
            flight.outcome = self.workers[worker].run_job(flight.job)

    @rule(worker=st.integers(0, 1), most=st.integers(1, 6))
    def commit(self, worker: int, most: int) -> None:
        chosen = self.at(worker, "run")[:most]
        if not chosen:
            return
        by_id = {id(flight.delivery): flight for flight in chosen}
        with self.dying(worker):
            pairs = [(flight.delivery, self.guarded(flight)) for flight in chosen]
            done = self.workers[worker].settle_at_once(pairs)
            gone = {id(delivery) for delivery, _ in done}
            self.flights[worker] = [
                each for each in self.flights[worker] if id(each.delivery) not in gone
            ]
            result = self.workers[worker].commit([p for p in pairs if id(p[0]) not in gone])
            for delivery, settlement in [*result.failed, *result.ready]:
                by_id[id(delivery)].outcome = settlement
            for delivery, _ in result.ready:
                by_id[id(delivery)].durable = True

    def guarded(self, flight: Flight) -> Settlement:
        """As a worker does: what may have lost its lease is written under the fence."""
        assert flight.outcome is not None
        lost = self.clock() >= flight.lease_ends
        return replace(flight.outcome, fenced=flight.outcome.fenced or lost)

    @rule(worker=st.integers(0, 1))
    def dispose(self, worker: int) -> None:
        durable = self.at(worker, "durable")
        if not durable:
            return
        pairs = [(flight.delivery, flight.outcome) for flight in durable if flight.outcome]
        with self.dying(worker):
            refused = {id(each.delivery) for each in self.workers[worker].dispose(pairs)}
            for flight in durable:
                if id(flight.delivery) not in refused:
                    self.flights[worker].remove(flight)

    @rule(worker=st.integers(0, 1), times=st.integers(1, 3))
    def work(self, worker: int, times: int) -> None:
        """Do everything with what is there, in turn."""
        for _ in range(times):
            self.take(worker)
            self.commit(worker, 6)
            self.dispose(worker)

    def take(self, worker: int) -> None:
        """Receive and run what there is."""
        self.receive(worker, 2)
        self.open(worker)
        while self.at(worker, "opened"):
            self.run(worker, 0)

    @rule(worker=st.integers(0, 1), fate=FATE)
    def stumble(self, worker: int, fate: int) -> None:
        """Work while calls go wrong, most times ones that settle what was run; and go on."""
        dice = random.Random(fate)
        for _ in range(3):
            if dice.random() < 0.5:
                self.publish(dice.choice(KINDS), dice.choice(WAYS))
            if dice.random() < 0.7:
                self.take(worker)
            times = dice.choice([1, 1, 8])
            self.fault(dice.choice([*Kind]), dice.choice(SETTLES), dice.choice(SKIPS), times)
            self.commit(worker, 6)
            self.dispose(worker)
            self.work(worker, 1)

    @rule(
        worker=st.integers(0, 1),
        stage=st.sampled_from(["received", "opened", "run", "durable"]),
        others=st.integers(0, 2),
    )
    def stand_still(self, worker: int, stage: str, others: int) -> None:
        """Come as far as a stage, and go on when all leases have ended and another has worked."""
        self.receive(worker, 2)
        if stage != "received":
            self.open(worker)
        if stage in ("run", "durable"):
            self.run(worker, 0)
        if stage == "durable":
            self.commit(worker, 1)
        self.clock.ahead += LEASE + 1
        if others:
            self.work(1 - worker, others)
        self.open(worker)
        self.run(worker, 0)
        self.commit(worker, 2)
        self.dispose(worker)

    @rule(worker=st.integers(0, 1))
    def extend(self, worker: int) -> None:
        """Keep the leases of what runs; one that is lost, or in doubt, ends when it ended."""
        wholes = {id(whole_of(f.delivery)): whole_of(f.delivery) for f in self.flights[worker]}
        ends = self.clock() + LEASE
        with self.dying(worker):
            refused = self.app.broker.extend(list(wholes.values()), lease=LEASE)
            lost = {id(each.delivery): each.code for each in refused}
            for flight in self.flights[worker]:
                code = lost.get(id(whole_of(flight.delivery)))
                if code is None:
                    flight.lease_ends = ends
                elif code is Code.LEASE_LOST:
                    flight.lease_ends = 0.0

    @rule(worker=st.integers(0, 1))
    def dies(self, worker: int) -> None:
        self.flights[worker] = []
        self.workers[worker] = self.worker()

    def dying(self, worker: int) -> Dying:
        return Dying(partial(self.dies, worker))

    # ---- what goes wrong

    @rule(kind=KIND_OF_FAULT, call=CALL, skip=SKIP, times=TIMES)
    def fault(self, kind: Kind, call: str | None, skip: int, times: int) -> None:
        # An end is written over what is there while its lease is known to hold: the moment
        # between that look and the write is the one in which nobody may stand still.
        if kind is Kind.LATE and call not in ("receive", "get", "ack", "release", "dead_letter"):
            return
        self.plan.faults += [Fault(kind, call, skip) for _ in range(times)]

    @rule()
    def calm(self) -> None:
        self.plan.faults.clear()

    @rule(seconds=st.sampled_from([1.0, 10.0, LEASE + 1, EARLIEST]))
    def time_passes(self, seconds: float) -> None:
        self.clock.ahead += seconds

    def overtaken(self) -> None:
        """While someone stands still all leases end, and another does what there is to do."""
        self.clock.ahead += LEASE + 1
        self.work_off(self.worker(), most=5)

    @rule(worker=st.integers(0, 1), pick=PICK)
    def delivered_again(self, worker: int, pick: int) -> None:
        """The service gives a leased message to someone else, and the worker gets to know."""
        if not (flights := self.flights[worker]):
            return
        whole = whole_of(flights[pick % len(flights)].delivery)
        self.place.broker.release([whole], after=0.0)
        for flight in flights:
            if whole_of(flight.delivery) is whole:
                flight.lease_ends = 0.0

    # ---- what callers and operators do

    @rule(pick=PICK)
    def revoke(self, pick: int) -> None:
        if not self.calls:
            return
        task_id = list(self.calls)[pick % len(self.calls)]
        self.calls[task_id].loose = True
        try:
            self.app.AsyncResult(task_id).revoke()
        except (ServiceError, Died):
            self.calls[task_id].half_revoked = True

    @rule()
    def redrive(self) -> None:
        """An operator sends the dead letters again."""
        for queue in (QUEUE, OTHER):
            letters = self.place.broker.peek_dead(queue, count=10)
            for letter in letters:
                for call in self.decoded(queue, letter.body):
                    if call.id in self.calls:
                        self.calls[call.id].loose = True
                        self.calls[call.id].reopens = True
            self.place.broker.redrive(queue, letters)

    # ---- what must hold

    def decoded(self, queue: str, body: bytes) -> list[TaskMessage]:
        if body not in self.read:
            read = self.app.runtime.codec.read(body, queue=queue, limit=1 << 24)
            calls = read.calls if isinstance(read, Bundle) else [read]
            self.read[body] = [call for call in calls if isinstance(call, TaskMessage)]
        return self.read[body]

    def ids(self, bodies: Iterable[tuple[str, bytes]]) -> set[str]:
        return {call.id for queue, body in bodies for call in self.decoded(queue, body)}

    def seen(self, call: str, given: Any) -> None:
        """Look after each effect on a queue or on the store."""
        if call == "send":
            for outgoing in given:
                for message in self.decoded(QUEUE, outgoing.body):
                    if message.id not in self.calls:
                        self.calls[message.id] = Call(message, tries={_try(message)})
                        if message.group_key is not None:
                            self.groups.setdefault(message.group_key, []).append(message.id)
                    elif DELIVERED in message.headers:
                        # Two workers that have had a bundle may each send such a copy. If one is
                        # dead-lettered before the other is sent, that is taken for sent again.
                        self.calls[message.id].loose = self.calls[message.id].reopens = True
                    else:
                        call_of = self.calls[message.id]
                        call_of.is_twice |= _try(message) in call_of.tries
                        call_of.tries.add(_try(message))
        with self.held_against():
            if call in ("put", "update", "settle", "delete"):
                self.look()
            if call in ("ack", "settle", "release", "dead_letter", "delete"):
                self.nothing_is_lost()

    def look(self) -> None:
        """No end changes, none is that of no run, and no fence goes back."""
        records = self.place.clean.records(list(self.calls), own=True)
        for task_id, call in self.calls.items():
            record = records.get(task_id)
            before = call.record
            # A first delivery is run without a word: of what was sent again, its end is the first.
            if call.reopens and (
                record is None
                or not record.terminal
                or (before is not None and _end(record) != _end(before))
            ):
                call.reopens, call.record, before = False, None, None
            if before is not None:
                assert record is not None, f"the end of {task_id} is gone"
                assert _end(record) == _end(before), (
                    f"the end of {task_id} has changed: {before} {record}"
                )
            if record is None:
                continue
            fence = (record.call or "", record.fence)
            back = f"the fence of {task_id} goes back from {call.fence} to {fence}: "
            back += f"{call.message.task} {before} {record}"
            # Each message of a call counts its own deliveries.
            assert call.loose or call.is_twice or fence >= call.fence, back
            call.fence = fence
            if record.terminal and before is None:
                call.record = record
                self.check_end(call, record)

    def check_end(self, call: Call, record: Record) -> None:
        allowed = ENDS.get(call.message.task, set(State))
        if call.loose:
            allowed = allowed | {REVOKED}
        assert record.state in allowed, (
            f"{call.message.task} has ended as {record.state}: {record.error}"
        )
        if record.state is SUCCESS and record.task in ENDS:
            same = call.message.task == "once"
            values = {
                value
                for each in (self.calls.values() if same else [call])
                for value in each.values
                if each.message.task == call.message.task
            }
            assert self.json(record.value) in values, f"{record.value} of {values}"

    @invariant()
    def all_has_held(self) -> None:
        assert not self.broken, self.broken[0]

    def nothing_is_lost(self) -> None:
        if self.place.is_file:
            self.place.broker.stats(QUEUE)  # takes in what was appended
        kept = self.ids(self.place.bodies("messages")) | self.ids(self.place.bodies("dead"))
        away = [task_id for task_id in self.calls if task_id not in kept]
        ended = self.place.clean.records(away)
        for task_id in away:
            record, call = ended.get(task_id), self.calls[task_id]
            if call.message.task == "ignored" and (call.done or call.message.slot is None):
                assert call.done or call.loose, f"{task_id} is acknowledged, and has not run"
                continue
            assert record is not None, f"{task_id} is lost"
            if call.half_revoked and record.revoked and record.scheduled is not None:
                continue
            assert record.terminal, f"{task_id} is lost: {record.state}"

    def work_off(self, consumer: Consumer, *, most: int) -> None:
        """Have one worker do what there is to do."""
        for _ in range(most):
            for queue in self.queues:
                deliveries = self.app.broker.receive(queue, count=1, wait=0.0, lease=LEASE)
                if deliveries:
                    consumer.consume(deliveries)

    def teardown(self) -> None:
        try:
            self.plan.faults.clear()
            self.flights = [[], []]
            consumer = self.worker()
            for _ in range(2000):
                if not self.place.bodies("messages"):
                    break
                self.work_off(consumer, most=1)
                self.clock.ahead += LEASE + 1
                self.place.broker.stats(QUEUE)
            self.all_has_held()
            assert not self.place.bodies("messages"), "it never ends"
            self.look()
            self.nothing_is_lost()
            self.all_has_held()
            TOTALS["examples"] += 1
            TOTALS["calls"] += len(self.calls)
            TOTALS["runs"] += sum(call.runs for call in self.calls.values())
        finally:
            self.app.close()
            self.place.close()
            shutil.rmtree(self.folder, ignore_errors=True)


class Dying:
    """A block in which a worker may die."""

    def __init__(self, dies: Callable[[], object]) -> None:
        self.dies = dies

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Died):
            return False
        self.dies()
        return True


TOTALS: Counter[str] = Counter()


def _try(call: TaskMessage) -> tuple[str, int, int, int]:
    return call.id, call.retries, call.replaced, call.continued


def _end(record: Record) -> tuple[object, ...]:
    return record.state, record.value, record.error, record.finished_at, record.fence, record.call


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["memory", "cloud", "sqlite"])
def test_no_delivery_is_lost_and_no_end_changes_whatever_goes_wrong(kind: str) -> None:
    TOTALS.clear()
    print(f"seed {SEED} (CLOUDQ_MODEL_SEED)")
    run_state_machine_as_test(
        seed(SEED)(partial(Lives, kind)),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{kind}: {TOTALS['examples']} lives of {TOTALS['calls']} calls, {TOTALS['runs']} runs")
