"""An app on drivers of its own, and the steps of a worker one by one."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any, cast

from cloudq import AsyncResult, CloudQ
from cloudq.broker.broker import Broker
from cloudq.broker.claim_check import ClaimCheck
from cloudq.broker.delayed import DelayedStore
from cloudq.driver import Delivery, Peeked
from cloudq.execution.commit import commit, dispose
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Settled, Settlement
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.results.record import Record, State
from cloudq_local.memory_backend import MemoryBackend, MemoryItems
from cloudq_local.memory_broker import MemoryBroker, MemoryQueues
from tests.support.faults import FaultyBroker, FaultyStore

_REAL = time.time


class Clock:
    """Everybody's `time.time`: the real one, and as much later as a test wants."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._still: float | None = None

    def stand_still(self, at: float | None = None) -> None:
        """Let no time pass but what a test wants, so that each run of it is the same."""
        self._still = _REAL() if at is None else at

    def __call__(self) -> float:
        if self._still is None:
            return _REAL() + self.ahead
        self._still += 1e-6  # no two moments are one
        return self._still + self.ahead


class Bench(CloudQ):
    """An app whose services can be made to fail, with a worker's steps as methods."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("bench", broker=f"memory://{uuid.uuid4().hex}", **settings)
        self.clock = Clock()
        time.time = self.clock
        self.held = MemoryQueues(self.clock)
        self.memory = MemoryBroker(self.held)
        self.wire = FaultyBroker(self.memory)
        self.store = FaultyStore(MemoryBackend(MemoryItems(self.clock)))
        self.runtime._backend = backend = Backend(
            self.store, url="faulty://", expires=self.conf.result_expires
        )
        self.runtime._broker = Broker(
            self.wire,
            url="faulty://",
            publish_retries=self.conf.publish_retries,
            delayed_store=DelayedStore(lambda: backend),
            claims=ClaimCheck(
                self.runtime.codec, self.runtime.payloads, self.conf.payload_store_over
            ),
        )

    def close(self) -> None:
        super().close()
        time.time = _REAL

    @property
    def results(self) -> Backend:
        assert self.backend is not None
        return self.backend

    @property
    def runner(self) -> Executor:
        if "_runner" not in self.__dict__:
            self._runner = self.executor(hostname="bench")
        return self._runner

    def configure_deliveries(self, most: int) -> None:
        self.conf.max_deliveries = most

    def post(self, message: TaskMessage) -> None:
        self.broker.send([message])

    def receive(self, count: int = 10, *, queue: str = "default") -> Sequence[Delivery]:
        return self.broker.receive(queue, count=count, wait=0.0, lease=60.0)

    def one(self, *, queue: str = "default") -> Delivery:
        deliveries = self.receive(1, queue=queue)
        assert deliveries, "there is nothing to receive"
        return deliveries[0]

    def lose_leases(self) -> None:
        """Let every lease end, and every short delay pass; results are kept for longer."""
        self.clock.ahead += 1000.0

    def settle(self, delivery: Delivery) -> Settlement:
        """Open and run one delivery; what is to be done about it, not done yet."""
        jobs, settled = self.runner.open([delivery])
        if jobs:
            return self.runner.run(jobs[0])
        return settled[0][1]

    def job(self, delivery: Delivery) -> Job:
        jobs, settled = self.runner.open([delivery])
        assert not settled, settled
        return jobs[0]

    def finish(self, delivery: Delivery, settlement: Settlement) -> Settlement:
        """Commit and dispose one settlement; what the commit made of it."""
        pair: Settled = (delivery, settlement)
        result = commit([pair], self.broker, self.backend, self.workflows.joins)
        assert not result.failed, result.error
        assert dispose(result.ready, self.broker) == []
        return result.ready[0][1]

    def step(self, *, queue: str = "default") -> Settlement:
        """Everything a worker does with the next message."""
        delivery = self.one(queue=queue)
        return self.finish(delivery, self.settle(delivery))

    def work(self, *, queue: str = "default") -> list[Settlement]:
        """Step until the queue is empty, with all delays passing at once."""
        done: list[Settlement] = []
        while self.left(queue):
            if not (deliveries := self.receive(1, queue=queue)):
                self.lose_leases()
                continue
            done.append(self.finish(deliveries[0], self.settle(deliveries[0])))
            assert len(done) < 1000, "it never ends"
        return done

    def left(self, queue: str = "default") -> int:
        stats = self.memory.stats(queue)
        return sum(n or 0 for n in (stats.ready, stats.delayed, stats.leased))

    def dead(self, queue: str = "default") -> Sequence[Peeked]:
        return self.memory.peek_dead(queue, count=10)

    def state(self, result: AsyncResult[Any] | str) -> State:
        return self.record(result).state

    def record(self, result: AsyncResult[Any] | str) -> Record:
        task_id = result if isinstance(result, str) else result.id
        return self.results.record(task_id) or Record(id=task_id, state=State.PENDING)

    def sent(self, queue: str = "default") -> list[dict[str, Any]]:
        """The messages that wait on the queue, as plain JSON."""
        peeked = self.memory.peek(queue, count=1000)
        return [cast("dict[str, Any]", json.loads(message.body)) for message in peeked]
