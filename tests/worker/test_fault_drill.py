"""Every fault of a network at once, before SQS and DynamoDB: nothing is lost, doubled or wrong."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cloudq import AsyncResult, CloudQ, chord
from cloudq.errors import PartlyStarted, ServiceError
from cloudq.results.record import Record, State
from cloudq.testing import Fault, FaultProxy
from cloudq.testing.kit.proxy import _Handler  # pyright: ignore[reportPrivateUsage]
from cloudq_aws.partial import held_back
from localstack.servers import Endpoint
from tests.servers import unique
from tests.worker import fault_tasks
from tests.worker.conftest import make
from tests.worker.harness import Place, Worker

pytestmark = pytest.mark.drill

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
CALLS, CHORDS = (3300, 200) if FULL else (300, 20)
MEMBERS = 10
CHANCE = 0.05
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

    def audit(self, records: Mapping[int, Record], effects: Counter[str]) -> None:
        """Check every value, and that every effect came once."""
        for number in self.numbers:
            assert (records[number].state, records[number].value) == (
                State.SUCCESS,
                str(number * 2),
            )
        counted = {number: effects[f"charge {number}"] for number in self.numbers}
        assert {n: count for n, count in counted.items() if count != 1} == {}
        for first in self.firsts:
            squares = sum((first + n) ** 2 for n in range(MEMBERS))
            record = records[-first - 1]
            assert (record.state, record.value) == (State.SUCCESS, f"[{MEMBERS},{squares}]")


class Contradictory(_Handler):
    """Names each message of a receive twice, and a deleted one among the refused ones as well."""

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        status, headers, answer = super()._passed_on(body)
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if status == 200 and operation in ("ReceiveMessage", "DeleteMessageBatch"):
            told = json.loads(answer)
            if operation == "ReceiveMessage" and told.get("Messages"):
                told["Messages"] *= 2
            elif told.get("Successful"):
                failed = {"Code": "InternalError", "Message": "so they say", "SenderFault": False}
                odd = [each for each in told["Successful"] if int(each["Id"]) % 3 == 1]
                told["Failed"] = [{**failed, "Id": each["Id"]} for each in odd]
            answer = json.dumps(told).encode()
        return status, headers, answer


class Drill:
    """A worker behind a proxy, and the runs that it stands."""

    def __init__(self, proxy: FaultProxy, place: Place, worker: Worker) -> None:
        self.proxy = proxy
        self.place = place
        self.worker = worker
        self._first = 0

    def run(
        self, chances: Mapping[Fault, float], *, calls: int, chords: int, bundle: int = 1
    ) -> float:
        """Run a load with these chances of faults, audit it, show its figures; its seconds."""
        self.proxy.chances = dict(chances)
        requests, faults = self.proxy.requests, self.proxy.counts.copy()
        load = Load(self.place.app, self._first, calls=calls, chords=chords, bundle=bundle)
        self._first += 100_000
        records = load.run()
        took = time.monotonic() - load.began
        self.proxy.chances = {}
        load.audit(records, self.place.counts())
        came = {str(fault): count for fault, count in (self.proxy.counts - faults).items()}
        print(
            f"{calls} calls and {chords} chords of {MEMBERS} in {took:.1f} s "
            f"({load.sent_after:.1f} s to send them), {self.proxy.requests - requests} requests, "
            f"faults: {came or 'none'}: 0 lost, 0 doubled, 0 wrong"
        )
        return took

    def compare(self, chances: Mapping[Fault, float], *, calls: int, chords: int) -> None:
        """Run a load without faults and one with them, and show how many times as long it takes."""
        without = self.run({}, calls=calls, chords=chords)
        with_faults = self.run(chances, calls=calls, chords=chords)
        print(f"{with_faults / without:.1f} times as long as without faults (aim: {AIM})")
        assert set(chances) <= set(self.proxy.counts)
        assert self.worker.stop() == 0


@contextmanager
def drilled(aws: Endpoint, folder: Path, handler: type[_Handler] = _Handler) -> Iterator[Drill]:
    """A worker whose requests, as those of its callers, go through a proxy."""
    proxy = FaultProxy(aws.url, seed=12, batches=held_back)
    proxy._server.RequestHandlerClass = handler  # pyright: ignore[reportPrivateUsage]
    with proxy:
        broker, backend = f"sqs://?endpoint_url={proxy.url}", f"dynamodb://{unique('drill')}"
        backend += f"?endpoint_url={proxy.url}"
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
        make(place)
        with closing(place):
            yield Drill(proxy, place, place.start(*WORKER))


@pytest.mark.timeout(3600)
def test_with_every_fault_at_once_nothing_is_lost_doubled_or_wrong(
    aws: Endpoint, tmp_path: Path
) -> None:
    with drilled(aws, tmp_path) as drill:
        drill.compare(dict.fromkeys(Fault, CHANCE), calls=CALLS, chords=CHORDS)


@pytest.mark.timeout(3600)
def test_with_every_fault_at_once_nothing_of_bundles_is_lost_doubled_or_wrong(
    aws: Endpoint, tmp_path: Path
) -> None:
    with drilled(aws, tmp_path) as drill:
        calls, chords = (CALLS, CHORDS) if FULL else (200, 4)
        drill.run(dict.fromkeys(Fault, CHANCE), calls=calls, chords=chords, bundle=20)


@pytest.mark.skipif(not FULL, reason="CLOUDQ_DRILL=full runs it")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", Fault)
def test_with_much_of_one_fault_nothing_is_lost_doubled_or_wrong(
    aws: Endpoint, tmp_path: Path, fault: Fault
) -> None:
    with drilled(aws, tmp_path) as drill:
        drill.compare({fault: 0.2}, calls=300, chords=20)


@pytest.mark.timeout(3600)
def test_with_answers_that_contradict_themselves_nothing_is_lost_doubled_or_wrong(
    aws: Endpoint, tmp_path: Path
) -> None:
    with drilled(aws, tmp_path, Contradictory) as drill:
        drill.compare({}, calls=60, chords=4)
