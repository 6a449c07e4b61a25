"""A soak: a steady rate of calls of all kinds for an hour, and nothing grows."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any, Literal

import psutil
import pytest

from cloudq import AsyncResult, CloudQ, State, chord
from cloudq.driver.blobs import BlobAdmin
from cloudq.driver.loader import open_blobs
from cloudq.results.record import Record
from cloudq.testing.waiting import PATIENCE, eventually
from localstack.servers import Endpoint
from tests.servers import unique
from tests.worker import growth, soak_tasks
from tests.worker.conftest import make
from tests.worker.harness import Place, until

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
SECONDS = float(os.environ.get("CLOUDQ_SOAK") or (3600 if FULL else 4))
SEED = int(os.environ.get("CLOUDQ_SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
RATE = float(os.environ.get("CLOUDQ_SOAK_RATE") or 20)  # tasks a second
# Nothing waits so long, on a busy machine either: what has expired before it is looked at fails.
EXPIRES = 300.0
PAYLOADS_EXPIRE = 600.0
SAMPLED_EVERY = 5.0 if SECONDS > 100 else 1.0
SWEPT_EVERY = 60.0
OVER = 32_768

# Of how long a run the slopes are checked: in the first quarter all that expires comes to a level.
TOLD_AFTER = 4 * PAYLOADS_EXPIRE
TASKS_PER_HOUR = RATE * 3600
# A leak is so much for each task: of what is kept of a task by mistake, an id with its entry in a
# dictionary is some 200 bytes, a record or a delivery 1,000 and more; a descriptor or a thread is
# lost with an error now and then. The most that sound runs drifted, on a machine under a load of 10
# to 90, is half of these: what threads leave free in their parts of the heap.
BOUNDS = {
    "rss": TASKS_PER_HOUR * 0.192,
    "kB": TASKS_PER_HOUR * 0.192,
    "descriptors": TASKS_PER_HOUR / 5000,
    "threads": TASKS_PER_HOUR / 5000,
    "rows": TASKS_PER_HOUR / 100,
    "blobs": TASKS_PER_HOUR / 1000,
}

Kind = Literal["plain", "once", "again", "broken", "bundle", "large", "chord"]
# How many tasks are sent of each kind at a time, and how often it is its turn.
SIZES: dict[Kind, int] = {
    "plain": 1,
    "once": 1,
    "again": 1,
    "broken": 1,
    "bundle": 10,
    "large": 1,
    "chord": 5,
}
TURNS: dict[Kind, int] = {
    "plain": 10,
    "once": 4,
    "again": 4,
    "broken": 2,
    "bundle": 2,
    "large": 2,
    "chord": 2,
}


@dataclass(slots=True)
class Pending:
    """A call under way, and what is to become of it."""

    result: AsyncResult[Any]
    kind: Kind
    value: Any

    def check(self, record: Record) -> None:
        if self.kind == "broken":
            assert (record.state, record.error) == (State.FAILURE, self.value)
            return
        assert record.state is State.SUCCESS, record
        if self.kind == "large":  # its value is in the payload store
            assert self.result.get(timeout=PATIENCE) == self.value
            if len(self.value) % 2:  # the others stay until they have expired, and are swept
                self.result.forget()
        else:
            assert record.value == str(self.value)


@dataclass
class Soak:
    """The producer at one place: sends at a steady rate, and checks what becomes of each call."""

    place: Place
    store: str
    dice: random.Random
    pending: dict[str, Pending] = field(default_factory=dict[str, Pending])
    ended: Counter[str] = field(default_factory=Counter[str])
    samples: growth.Samples = field(default_factory=growth.Samples)
    behind: float = 0.0
    took: float = 0.0

    def __post_init__(self) -> None:
        declare: Any = self.place.app.task
        names = ("plain", "once", "again", "broken", "same", "added")
        found: list[Any] = [getattr(soak_tasks, name) for name in names]
        self.tasks = {
            task.name: declare(name=task.name, bind=task.bind)(task.function) for task in found
        }
        self.blobs = open_blobs(self.store)
        self.lock = Lock()
        self.sent = Counter[str]()

    # ---- sending

    def produce(self, seconds: float, goes_on: Callable[[], bool]) -> None:
        """Send so long at the rate, whatever becomes of the calls."""
        began = due = time.monotonic()
        kinds, weights = list(TURNS), list(TURNS.values())
        while due < began + seconds and goes_on():
            time.sleep(max(due - time.monotonic(), 0.0))
            self.behind = max(self.behind, time.monotonic() - due)
            [kind] = self.dice.choices(kinds, weights)
            made = self._send(kind, self.dice.randrange(1_000_000))
            with self.lock:
                self.pending |= {one.result.id: one for one in made}
            self.sent[kind] += SIZES[kind]
            due += SIZES[kind] / RATE
        self.took = time.monotonic() - began

    def _send(self, kind: Kind, n: int) -> list[Pending]:
        tasks = self.tasks
        match kind:
            case "plain":
                return [Pending(tasks["plain"].delay(n), kind, n * 2)]
            case "once":
                call = tasks["once"].apply_async([n], idempotency_key=f"{n} {time.time()}")
                return [Pending(call, kind, n * 3)]
            case "again":
                return [Pending(tasks["again"].delay(n), kind, n + 2)]
            case "broken":
                return [Pending(tasks["broken"].delay(n), kind, f"{n} is of no use")]
            case "bundle":
                numbers = range(n, n + SIZES[kind])
                calls = self.place.app.publish(
                    [tasks["plain"].prepare(each) for each in numbers], bundle=SIZES[kind]
                )
                return [
                    Pending(call, kind, each * 2) for call, each in zip(calls, numbers, strict=True)
                ]
            case "large":
                # Compression makes it no smaller than it may be in a message.
                text = self.dice.randbytes(OVER + n % OVER).hex()[: OVER * 2 + n % OVER]
                return [Pending(tasks["same"].delay(text), kind, text)]
            case "chord":
                members = range(n, n + SIZES[kind] - 1)
                body = chord([tasks["plain"].s(each) for each in members])(tasks["added"].s())
                return [Pending(body, kind, 2 * sum(members))]

    # ---- checking and sampling

    def check_ended(self) -> None:
        """Check the calls that have ended since, and let go of them."""
        with self.lock:
            ids = list(self.pending)
        assert self.place.app.backend is not None
        for id, record in self.place.app.backend.records(ids).items():
            if record.terminal:
                with self.lock:
                    one = self.pending.pop(id)
                one.check(record)
                self.ended[one.kind] += 1

    def sweep(self) -> None:
        """Do what `cloudq sweep` does, which an operator runs every now and then."""
        assert self.place.app.backend is not None
        self.place.app.backend.sweep()
        payloads = self.place.app.runtime.payloads()
        assert payloads is not None
        payloads.sweep(older=PAYLOADS_EXPIRE)

    def sample(self, family: dict[str, psutil.Process]) -> None:
        values: dict[str, float] = {"calls under way": len(self.pending)}
        for role, each in family.items():
            values |= growth.process(role, each)
        values |= growth.payloads(self.blobs)
        file = self.place.folder / "cloudq.db"
        if file.exists():
            values |= growth.sqlite_file(file)
        self.samples.add(values)

    def watch(self, family: dict[str, psutil.Process], ends: Event) -> None:
        """Check, sample and sweep until all is sent and has ended."""
        sampled = swept = time.monotonic()
        is_over = False
        while not (is_over and not self.pending):
            is_over = ends.wait(0.5)
            self.check_ended()
            now = time.monotonic()
            if now >= sampled + SAMPLED_EVERY and not is_over:
                self.sample(family)
                sampled = now
            if now >= swept + SWEPT_EVERY:
                self.sweep()
                swept = now
            if is_over:
                time.sleep(0.2)

    def run(self, family: dict[str, psutil.Process]) -> None:
        ends = Event()
        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(self.watch, family, ends)
            try:
                self.produce(SECONDS, lambda: not watching.done())
            finally:
                ends.set()
            watching.result()

    # ---- the end

    def tell(self) -> None:
        rate = sum(self.sent.values()) / self.took
        print(
            f"soak seed {SEED}: {sum(self.sent.values()):,} tasks {dict(self.sent)} in "
            f"{self.took:.0f} s: {rate:.2f} of {RATE:g} a second, {self.behind:.1f} s behind at "
            f"most; ended rightly: {dict(self.ended)}"
        )
        print("\n".join(self.samples.report()))

    def steep(self) -> dict[str, float]:
        """The quantities whose slopes are over their bounds."""
        found: dict[str, float] = {}
        for name, series in self.samples.series.items():
            bound = BOUNDS.get(name.partition(" ")[0])
            slope = series.settled().per_hour()
            if bound is not None and slope > bound:
                found[name] = slope
        return found


def soak_at(folder: Path, broker: str, backend: str, store: str, queue: str) -> Soak:
    """A soak whose worker and beat have the settings of its own app."""
    given: dict[str, Any] = {
        "task_default_queue": queue,
        "payload_store": store,
        "payload_store_over": OVER,
        "payload_expires": PAYLOADS_EXPIRE,
        "result_expires": EXPIRES,
        "idempotency_expires": EXPIRES,
        "task_events": "tracked",
        "task_events_expires": EXPIRES,
        "worker_heartbeat": 5.0,
    }
    app = CloudQ("soak", broker=broker, backend=backend, **given)
    place = Place(
        app=app,
        broker=broker,
        backend=backend,
        queue=queue,
        folder=folder,
        tasks="tests.worker.soak_tasks:app",
    )
    place.environment = {f"CLOUDQ_{name.upper()}": str(value) for name, value in given.items()}
    place.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return Soak(place, store, random.Random(SEED))


@pytest.fixture(params=["embedded", "aws"])
def soak(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Soak]:
    """On SQLite and files, and on SQS, DynamoDB and S3."""
    if request.param == "embedded":
        url = f"sqlite:///{tmp_path}/cloudq.db"
        made = soak_at(tmp_path, url, url, f"file:///{tmp_path}/payloads", "default")
    else:
        aws: Endpoint = request.getfixturevalue("aws")
        at = f"endpoint_url={aws.url}"
        urls = (f"sqs://?{at}", f"dynamodb://{unique('soak')}?{at}", f"s3://{unique('soak')}?{at}")
        made = soak_at(tmp_path, *urls, unique("soak"))
        make(made.place)
        assert isinstance(made.blobs, BlobAdmin)
        made.blobs.create_place(expires=86_400.0)
    with closing(made.place):
        yield made


@contextmanager
def beating(place: Place) -> Generator[psutil.Process]:
    """`cloudq beat` of a place, stopped at the end."""
    command = [sys.executable, "-m", "cloudq", "beat", "-A", place.tasks]
    command += ["--broker", place.broker, "--backend", place.backend]
    with (place.folder / "beat.log").open("wb") as log:
        beat = subprocess.Popen(
            command, env={**os.environ, **place.environment}, stdout=log, stderr=log
        )
    try:
        yield psutil.Process(beat.pid)
        assert beat.poll() is None, "beat ended"
    finally:
        beat.send_signal(signal.SIGTERM)
        try:
            beat.wait(PATIENCE)
        finally:
            beat.kill()


@pytest.mark.drill
@pytest.mark.timeout(SECONDS + 1800)
def test_a_steady_rate_for_long_makes_nothing_grow(soak: Soak) -> None:
    place = soak.place
    worker = place.start("--processes", "2", "--threads", "4", "--lease", "60")
    server = worker.fork_server()
    assert server is not None
    children = server.children()
    family = {"supervisor": psutil.Process(worker.process.pid), "fork server": server}
    family |= {f"child {number}": child for number, child in enumerate(children)}
    family["producer"] = psutil.Process()
    with beating(place) as beat:
        family["beat"] = beat
        try:
            until(place.entries, what="beat sends")
            soak.run(family)
        finally:
            if soak.samples.series:
                soak.tell()
    assert worker.children() == children, "none of them has died"
    counted = {kind: soak.sent[kind] // (5 if kind == "chord" else 1) for kind in soak.sent}
    assert soak.ended == counted
    print(f"periodic calls, one every 2 s: {len(place.entries())}")

    def is_empty() -> bool:
        stats = place.app.broker.admin.stats(place.queue)
        return not (stats.ready or stats.delayed or stats.leased or stats.dead)

    eventually(is_empty)
    kinds = {blob.key.partition("/")[0] for blob in soak.blobs.list(after=None, limit=1000).blobs}
    assert kinds <= {"results"}, "no message is left whose payload could be"
    if SECONDS >= TOLD_AFTER:
        assert soak.steep() == {}
