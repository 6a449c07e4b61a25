"""A load of calls and chords for the fault drills, its audit, and the clouds that bear it."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from cloudq import AsyncResult, CloudQ, chord
from cloudq.errors import PartlyStarted, ServiceError
from cloudq.results.record import Record, State
from cloudq.testing import Fault, FaultProxy, GrpcFaultProxy, WireFaultProxy
from cloudq.testing.kit.proxy import _Handler  # pyright: ignore[reportPrivateUsage]
from cloudq_aws.partial import held_back
from cloudq_azure import faults as azure
from cloudq_gcp import faults as gcp
from localstack.google import PROJECT
from localstack.servers import Endpoint
from tests.servers import unique
from tests.worker import fault_tasks
from tests.worker.conftest import make
from tests.worker.harness import Place, Worker

SEED = int(os.environ.get("CLOUDQ_DRILL_SEED", "12"))
"""Of all dice of a drill."""
MEMBERS = 10
# Long enough for an extension to be tried many times before it ends, on a machine with other work
# too: an effect whose lease has ended may come twice.
LEASE = 20
# A message waits for five requests in turn, of which many are slow: so many wait side by side.
WORKER = ("--processes", "2", "--threads", "32", "--lease", str(LEASE))
SENDERS = 8
# What the drill aims at: with faults it takes this many times as long. A machine may be busy, so
# the factor is shown, and only a run of `HUNG` seconds is a failure.
AIM = 5
HUNG = 1500.0

T = TypeVar("T")


def again(call: Callable[[], T], until: float) -> T:
    """Make a call until it goes well, as a caller does who is told that it did not."""
    while True:
        try:
            return call()
        except (ServiceError, PartlyStarted):
            assert time.monotonic() < until, "a call never went well"


class Load:
    """The calls and chords of one run, whose numbers begin at `first`."""

    def __init__(
        self, app: CloudQ, first: int, *, calls: int, chords: int, bundle: int = 1
    ) -> None:
        self.app = app
        self.bundle = bundle
        self.began = time.monotonic()
        self.until = self.began + HUNG
        self.sent_after = 0.0
        self.numbers = range(first, first + calls)
        self.firsts = range(first, first + chords)
        self.charge = app.task(name="charge", bind=True, idempotent=True)(
            fault_tasks.charge.function
        )
        self.square = app.task(name="square")(fault_tasks.square.function)
        self.added = app.task(name="added")(fault_tasks.added.function)

    def run(self) -> dict[int, Record]:
        """Send all at once, wait for all, and return the records by the number of each."""
        with ThreadPoolExecutor(SENDERS) as pool:
            lots = pool.map(self._calls, self.numbers[:: self.bundle])
            calls = [call for lot in lots for call in lot]
            chords = list(pool.map(self._chord, self.firsts))
        self.sent_after = time.monotonic() - self.began
        results = dict(
            zip([*self.numbers, *(-n - 1 for n in self.firsts)], calls + chords, strict=True)
        )
        found: dict[int, Record] = {}
        while len(found) < len(results):
            left = [number for number in results if number not in found]
            found |= again(lambda left=left: self._ended(left, results), self.until)
            assert time.monotonic() < self.until, f"hung: {left[:20]}"
            time.sleep(0.5)
        return found

    def _calls(self, first: int) -> list[AsyncResult[int]]:
        if self.bundle == 1:
            return [again(lambda: self.charge.delay(first), self.until)]
        numbers = range(first, min(first + self.bundle, self.numbers.stop))
        calls = [self.charge.prepare(number) for number in numbers]
        return again(lambda: self.app.publish(calls, bundle=self.bundle), self.until)

    def _chord(self, first: int) -> AsyncResult[list[int]]:
        members = [self.square.s(first + n) for n in range(MEMBERS)]
        return again(lambda: chord(members)(self.added.s()), self.until)

    def _ended(
        self, numbers: Sequence[int], results: Mapping[int, AsyncResult[Any]]
    ) -> dict[int, Record]:
        assert self.app.backend is not None
        records = self.app.backend.records([results[number].id for number in numbers])
        return {n: r for n in numbers if (r := records.get(results[n].id)) and r.terminal}

    def audit(self, records: Mapping[int, Record], effects: Counter[str], lost: int) -> int:
        """Check every value, and that every effect came once; return how many came twice.

        Only those may do so whose leases ended while they ran, which are `lost` at most.
        """
        for number in self.numbers:
            assert (records[number].state, records[number].value) == (
                State.SUCCESS,
                str(number * 2),
            )
        counted = {number: effects[f"charge {number}"] for number in self.numbers}
        assert {n: count for n, count in counted.items() if not count} == {}
        doubled = {n: count - 1 for n, count in counted.items() if count > 1}
        assert sum(doubled.values()) <= lost, doubled
        for first in self.firsts:
            squares = sum((first + n) ** 2 for n in range(MEMBERS))
            record = records[-first - 1]
            assert (record.state, record.value) == (State.SUCCESS, f"[{MEMBERS},{squares}]")
        return sum(doubled.values())


class Switches:
    """The faults that the stand-in of Service Bus makes by itself, of each request it is sent."""

    _KINDS: ClassVar = {Fault.ERROR: "error", Fault.THROTTLED: "busy"}

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/_faults"
        self._chances: dict[Fault, float] = {}
        self._past: Counter[Fault] = Counter()
        self.requests = 0  # those that go through the proxy

    @property
    def chances(self) -> Mapping[Fault, float]:
        return self._chances

    @chances.setter
    def chances(self, chances: Mapping[Fault, float]) -> None:
        self._past = self.counts
        self._ask("DELETE")
        self._chances = {fault: chances[fault] for fault in self._KINDS if chances.get(fault)}
        for place, (fault, chance) in enumerate(self._chances.items()):
            wanted = {"kind": self._KINDS[fault], "count": 0}
            self._ask("POST", {**wanted, "chance": chance, "seed": SEED + place})

    @property
    def counts(self) -> Counter[Fault]:
        names = {kind: fault for fault, kind in self._KINDS.items()}
        now = {names[each["kind"]]: each["hits"] for each in self._ask("GET")["faults"]}
        return self._past + Counter(now)

    def _ask(self, method: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)


Source = FaultProxy | GrpcFaultProxy | WireFaultProxy | Switches


class Drill:
    """Workers behind proxies, and the runs that they stand."""

    def __init__(
        self, name: str, sources: Sequence[Source], place: Place, workers: Sequence[Worker]
    ) -> None:
        self.name = name
        self.place = place
        self._sources = sources
        self._workers = workers
        self._first = 0

    @property
    def counts(self) -> Counter[Fault]:
        """The faults that came so far, by their kinds."""
        return sum((source.counts for source in self._sources), Counter[Fault]())

    @property
    def requests(self) -> int:
        """The requests that the services, or the faults in their place, were sent."""
        return sum(source.requests for source in self._sources)

    def _set(self, chances: Mapping[Fault, float]) -> None:
        for source in self._sources:
            source.chances = dict(chances)

    def run(
        self, chances: Mapping[Fault, float], *, calls: int, chords: int, bundle: int = 1
    ) -> float:
        """Run a load with these chances of faults, audit it, show its figures; its seconds."""
        requests, faults = self.requests, self.counts
        self._set(chances)
        load = Load(self.place.app, self._first, calls=calls, chords=chords, bundle=bundle)
        self._first += 100_000
        records = load.run()
        took = time.monotonic() - load.began
        self._set({})
        lost = sum(worker.log().count("its lease was lost while") for worker in self._workers)
        doubled = load.audit(records, self.place.counts(), lost)
        came = {str(fault): count for fault, count in (self.counts - faults).items()}
        mix = ", ".join(f"{chance:.0%} {fault}" for fault, chance in chances.items())
        print(
            f"{self.name}, {mix or 'no faults'}, seed {SEED}: "
            f"{calls} calls and {chords} chords of {MEMBERS} in {took:.1f} s "
            f"({load.sent_after:.1f} s to send them), {self.requests - requests} requests, "
            f"faults: {came or 'none'}: 0 lost, {doubled} doubled by lost leases, 0 wrong",
            flush=True,
        )
        return took

    def warm(self) -> None:
        """Have the workers open their connections, which is not to be measured."""
        Load(self.place.app, self._first, calls=20, chords=1).run()
        self._first += 100_000

    def compare(self, chances: Mapping[Fault, float], *, calls: int, chords: int) -> None:
        """Run a load without faults and one with them, and show how many times as long it takes."""
        self.warm()
        without = self.run({}, calls=calls, chords=chords)
        with_faults = self.run(chances, calls=calls, chords=chords)
        print(
            f"{self.name}: {with_faults / without:.1f} times as long as without faults (aim: {AIM})"
        )
        self.stop()

    @property
    def worker(self) -> Worker:
        """The first of the workers."""
        return self._workers[0]

    def stop(self) -> None:
        """Stop the workers as an operator does."""
        assert [worker.stop() for worker in self._workers] == [0] * len(self._workers)


Sources = tuple[str, str, Sequence[Source]]
"""The URLs of a broker and of a store, and what makes their faults."""


def aws_sources(aws: Endpoint, stack: ExitStack) -> Sources:
    """SQS and DynamoDB, over one proxy."""
    proxy = stack.enter_context(FaultProxy(aws.url, seed=SEED, batches=held_back))
    at = f"?endpoint_url={proxy.url}"
    return f"sqs://{at}", f"dynamodb://{unique('drill')}{at}", [proxy]


def gcp_sources(pubsub: Endpoint, firestore: Endpoint, stack: ExitStack) -> Sources:
    """Pub/Sub and Firestore, each over a proxy of its own."""
    queue = stack.enter_context(GrpcFaultProxy(f"127.0.0.1:{pubsub.port}", seed=SEED))
    upstream = f"127.0.0.1:{firestore.port}"
    store = stack.enter_context(GrpcFaultProxy(upstream, seed=SEED + 1, batches=gcp.held_back))
    return (
        f"pubsub://{PROJECT}?emulator={queue.address}",
        f"firestore://{PROJECT}/{unique('drill')}?emulator={store.address}",
        [queue, store],
    )


def azure_sources(servicebus: Endpoint, tables: Endpoint, stack: ExitStack) -> Sources:
    """Service Bus and Tables, each over a proxy of its own.

    The URL says how long locks last, as it must where clocks are wrong.
    """
    wire = WireFaultProxy("127.0.0.1", servicebus.port, seed=SEED, frames=azure.frame)
    upstream = f"http://127.0.0.1:{tables.port}"
    store = FaultProxy(upstream, seed=SEED + 1, batches=azure.held_back, refusals=azure.TABLES)
    for proxy in (wire, store):
        stack.enter_context(proxy)
    admin = int(servicebus.environment["CLOUDQ_BROKER"].rpartition(":")[2])
    table = unique("drill").replace("-", "")
    backend = tables.environment["CLOUDQ_BACKEND"].replace("/cloudq?", f"/{table}?")
    return (
        f"servicebus://127.0.0.1:{wire.port}?emulator=true&admin=127.0.0.1:{admin}&lock={LEASE}",
        backend.replace(upstream, store.url),
        [wire, Switches(admin), store],
    )


@contextmanager
def behind(
    name: str,
    sources: Sources,
    folder: Path,
    skews: Sequence[float] = (0.0,),
) -> Generator[Drill]:
    """Run workers whose requests, as those of their callers, go through proxies.

    There is one for each of `skews`, by so many seconds its clock is ahead.
    """
    broker, backend, proxies = sources
    app = CloudQ("drills", broker=broker, backend=backend, task_default_queue=unique("drill"))
    place = Place(
        app=app,
        broker=broker,
        backend=backend,
        queue=app.conf.task_default_queue,
        folder=folder,
        tasks="fault_tasks:app",
    )
    place.environment["CLOUDQ_TASK_DEFAULT_QUEUE"] = place.queue
    make(place, lease=LEASE)
    with closing(place):
        for skew in skews:
            place.environment["DRILL_SKEW"] = str(skew)
            place.start(*WORKER, ready=False)
        place.await_workers()
        yield Drill(name, proxies, place, place.workers)


@contextmanager
def drilled(aws: Endpoint, folder: Path, handler: type[_Handler] = _Handler) -> Generator[Drill]:
    """Run a worker on SQS and DynamoDB, whose requests go through a proxy with this handler."""
    with ExitStack() as stack:
        sources = aws_sources(aws, stack)
        proxy = sources[2][0]
        assert isinstance(proxy, FaultProxy)
        proxy._server.RequestHandlerClass = handler  # pyright: ignore[reportPrivateUsage]
        yield stack.enter_context(behind("SQS + DynamoDB", sources, folder))
