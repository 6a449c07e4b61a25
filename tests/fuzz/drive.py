"""Takes bodies through a worker's steps in one process, and tells what did not end as it should."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudq import CloudQ, State
from cloudq.driver import Delivery, Outgoing
from cloudq.driver.log import Log
from cloudq.execution.bundles import Part
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import Settled, Settlement
from cloudq.messages.body import encode
from cloudq.messages.ids import bundled_id
from cloudq.messages.message import TaskMessage
from cloudq.worker.pool import pipe
from tests.fuzz.bodies import GOOD, KEYS, QUEUE

SLOW = 1.0
"""Seconds of the process's own time that no body may take."""
_ROUNDS = 20  # a call that is put off comes back in each


@dataclass(slots=True, kw_only=True)
class Findings:
    """The bodies that did not end as they should, and how the others ended."""

    wrong: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    ends: Counter[str] = field(default_factory=Counter[str])
    slowest: float = 0.0
    bodies: int = 0
    bundled: int = 0

    @property
    def memory(self) -> float:
        """The most memory that this process has had, in MB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True, slots=True)
class Order:
    id: int


def make_app(name: str, **settings: Any) -> CloudQ:
    """Make an app with a task of every kind that the bodies name."""
    given: dict[str, Any] = {
        "broker": f"memory://{name}",
        "queue_accept": {QUEUE: ["celery"]},
        "signing_keys": {key: value.decode() for key, value in KEYS.items()},
        "signing_required": False,
        "task_events": "tracked",
        "default_retry_delay": 0.0,
        "max_retries": 2,
    }
    app = CloudQ("fuzz", **(given | settings))
    app.task(name="echo")(_echo)
    app.task(name="boom", autoretry_for=[KeyError])(_boom)
    app.task(name="again", bind=True, max_retries=2)(_again)
    app.task(name="typed", pydantic=True)(_typed)
    app.task(name="order")(_order)
    app.task(name="limited", soft_time_limit=5.0, rate_limit="1000000/s")(_echo_limited)
    app.task(name="once", idempotent=True)(_echo_once)
    app.task(name="many", concurrency="{a}")(_many)
    app.task(name="awaited", track_started=True)(_awaited)
    return app


def _echo(*args: object, **kwargs: object) -> object:
    return args[0] if args else None


def _echo_limited(*args: object, **kwargs: object) -> object:
    return args[0] if args else None


def _echo_once(*args: object, **kwargs: object) -> object:
    return args[0] if args else None


def _boom(*args: object, **kwargs: object) -> None:
    raise ValueError(args)


def _again(self: Any, *args: object, **kwargs: object) -> None:
    raise self.retry()


def _typed(a: int) -> int:
    return a


def _order(order: Order) -> int:
    return order.id


def _many(a: object = None) -> object:
    return a


async def _awaited(*args: object) -> object:
    await asyncio.sleep(0)
    return args[0] if args else None


class Drive:
    """A worker's steps over one app after the other, which have these settings too."""

    def __init__(self, **settings: Any) -> None:
        self.found = Findings()
        self._settings = settings
        self._apps = 0

    def run(self, bodies: Sequence[bytes]) -> None:
        """Take bodies through an app of their own, in batches beside calls that must succeed."""
        self._apps += 1
        with make_app(f"fuzz-{self._apps}-{id(self)}", **self._settings) as app:
            consumer = Consumer(app.executor(), log=Log("tests.fuzz"))
            for start in range(0, len(bodies), 9):
                self._batch(app, consumer, bodies[start : start + 9], f"good-{start}")

    def _batch(self, app: CloudQ, consumer: Consumer, bodies: Sequence[bytes], good: str) -> None:
        innocent = encode(TaskMessage(id=good, task="echo", args=[good]))
        driver = app.broker.driver
        sent = [Outgoing(id=f"{good}-{n}", body=body) for n, body in enumerate([*bodies, innocent])]
        assert not driver.send(QUEUE, sent)
        for _ in range(_ROUNDS):  # what the calls start is in the queue too
            deliveries = app.broker.receive(QUEUE, count=100, wait=0.0, lease=600.0)
            if not deliveries:
                break
            self._finish(app, consumer, deliveries)
        assert app.backend is not None
        record = app.backend.record(good)
        if record is None or record.state is not State.SUCCESS:
            self.found.wrong.append((f"its neighbour ended as {record}", b"\n".join(bodies)))
        self.found.bodies += len(bodies)

    def _finish(self, app: CloudQ, consumer: Consumer, deliveries: Sequence[Delivery]) -> None:
        pairs = self._settled(app, consumer, deliveries)
        batch = consumer.commit(pairs)
        for _ in range(3):  # a record that is too large is written again, smaller
            if batch.failed:
                done, batch = batch.ready, consumer.commit(batch.failed)
                batch.ready += done
        for delivery, _ in batch.failed:
            self._wrong(f"its outcome is not taken: {batch.error}", delivery)
        for refused in consumer.dispose(batch.ready):
            self._wrong(f"its message is not settled: {refused.reason}", refused.delivery)

    def _settled(
        self, app: CloudQ, consumer: Consumer, deliveries: Sequence[Delivery]
    ) -> list[Settled]:
        pairs: list[Settled] = []
        for delivery in deliveries:
            before = time.perf_counter()
            try:
                settled = _settle(app, consumer, delivery)
                took = time.perf_counter() - before
                if took > SLOW:  # the machine may be busy: what of it was ours?
                    before = time.process_time()
                    _settle(app, consumer, delivery)
                    took = time.process_time() - before
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                self._wrong(f"{type(error).__name__}: {error}"[:300], delivery)
                continue
            self.found.slowest = max(self.found.slowest, took)
            if took > SLOW:
                self._wrong(f"it took {took:.1f} s", delivery)
            if len({id(each) for each, _ in settled}) != len(settled) or not settled:
                self._wrong(f"{len(settled)} outcomes", delivery)
            self.found.bundled += isinstance(settled[0][0], Part)
            pairs += settled
            for each, settlement in settled:
                self.found.ends[str(settlement.state or settlement.action)] += 1
                self._judge(each, settlement)
        return pairs

    def _judge(self, delivery: Delivery, settlement: Settlement) -> None:
        """Note an innocent call of a bundle that did not succeed."""
        if not isinstance(delivery, Part) or not isinstance(delivery.call, TaskMessage):
            return
        call, name = delivery.call, delivery.parcel.name
        is_good = call.id == bundled_id(name, GOOD) and (call.task, call.args) == ("echo", [name])
        is_plain = call.model_fields_set <= {"id", "task", "queue", "args", "kwargs", "headers"}
        if is_good and is_plain and settlement.state is not State.SUCCESS:
            self._wrong(f"an innocent call of a bundle: {settlement.reason}", delivery)

    def _wrong(self, what: str, delivery: Delivery) -> None:
        self.found.wrong.append((what, delivery.body))


def _settle(app: CloudQ, consumer: Consumer, delivery: Delivery) -> list[Settled]:
    """Open and run a delivery as the processes of a worker do, pipes included."""
    jobs, settled = consumer.open([delivery])
    for job in jobs:
        packed = pipe.pack_job(1, job)
        theirs = pipe.unpack_job(packed)
        outcome = pipe.pack_settlement(1, consumer.run_job(theirs))
        settled.append((job.delivery, pipe.unpack_settlement(outcome)))
    return settled
