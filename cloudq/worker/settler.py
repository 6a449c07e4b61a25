"""Carries out settlements in batches: makes outcomes durable, then settles the messages."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from cloudq.driver import Code, Delivery
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import Settled, Settlement
from cloudq.execution.spoiled import replace_record, spoiled
from cloudq.worker.control.counters import Counters
from cloudq.worker.in_flight import Flight
from cloudq.worker.work_off import drain, work_off

log = logging.getLogger("cloudq.worker")

Pair = tuple[Flight, Settlement]

_BATCH = 256
# How long acks wait for company where requests are billed.
_LINGER = 0.05
# Threads of each kind where a request is a round trip: one that is slow, or that an SDK tries
# again, holds one of them.
_THREADS = 4
# Where each thread that commits has been at it for as long as this, in seconds, so many more help.
_LATE = 0.2
_HELPERS = 4
# A message that cannot be dead-lettered is looked at again after this, so that it is not hot.
_UNBURIED_AFTER = 900.0


class Settler:
    """Makes outcomes durable in some threads, and settles the messages in others.

    Results are recorded at once. Acks may wait a moment to fill a batch, since nobody waits for
    them. What the store or the broker refuses is kept, with its lease extended, and tried again:
    at once after a try in which something passed, else after growing pauses.
    `released` is called with the flights whose messages are settled; `starved` says whether every
    slot is taken.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        released: Callable[[Sequence[Flight]], None],
        starved: Callable[[], bool],
        counters: Counters | None = None,
    ) -> None:
        self._consumer = consumer
        self._counters = counters or Counters()
        self._released = released
        self._starved = starved
        self._outcomes: queue.SimpleQueue[Sequence[Pair] | None] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[Sequence[Pair] | None] = queue.SimpleQueue()
        self._batches: queue.SimpleQueue[Sequence[Pair] | None] = queue.SimpleQueue()
        self._commits: list[threading.Thread] = []
        self._began: dict[int, float] = {}  # when a thread of these began its commit, by its id
        self._helpers: list[threading.Thread] = []
        self._ended = threading.Event()
        self._gathers: list[threading.Thread] = []
        self._disposes: list[threading.Thread] = []

    def start(self) -> None:
        backend = self._consumer.backend
        billed = backend is not None and backend.driver.limits.billed
        self._commits = _started(self._commit_all, "commit", _THREADS if billed else 1)
        self._helpers = _started(self._help, "late-commit", _HELPERS if billed else 0)
        self._gathers = _started(self._gather_all, "gather", 1)
        self._disposes = _started(self._dispose_all, "dispose", _THREADS)

    def stop(self) -> None:
        """End the threads; what is queued is still done if the services are up."""
        self._ended.set()
        _end(self._outcomes, self._commits)
        for helper in self._helpers:
            helper.join(5.0)
        _end(self._messages, self._gathers)
        _end(self._batches, self._disposes)

    def settle(self, pairs: Iterable[Pair]) -> None:
        """Count these outcomes and carry them out."""
        pairs = list(pairs)
        self._counters.add([settlement for _, settlement in pairs])
        for flight, _ in pairs:
            flight.settling = True
        if len(self._commits) == 1:
            self._outcomes.put(pairs)
            return
        for pair in pairs:  # so that the threads share them
            self._outcomes.put([pair])

    def release(self, flights: Iterable[Flight], reason: str, after: float = 0.0) -> None:
        """Put these back in their queues, due after this many seconds."""
        self.settle([(flight, flight.released(reason, after)) for flight in flights])

    # ---- outcomes

    def _commit_all(self) -> None:
        work_off(self._outcomes, self._timed, most=_BATCH)

    def _timed(self, pairs: Sequence[Pair]) -> list[Pair]:
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            return self._commit(pairs)
        finally:
            del self._began[thread]

    def _help(self) -> None:
        """Commit for as long as all others are late: what comes meanwhile would wait for them.

        Where the store is down they pause, and are not late.
        """
        while not self._ended.wait(_LATE):
            while self._all_late():
                pairs, ended = drain(self._outcomes, 0.0, _BATCH)
                left = self._commit(pairs) if pairs else []
                if left:
                    self._outcomes.put(left)
                if ended:  # this one was meant for another thread
                    self._outcomes.put(None)
                if left or not pairs:
                    break

    def _all_late(self) -> bool:
        began = list(self._began.values())
        return len(began) == len(self._commits) and time.monotonic() - max(began) >= _LATE

    def _commit(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Commit outcomes, and return those to try again."""
        flights = {id(flight.delivery): flight for flight, _ in pairs}
        now = time.monotonic()
        settled = [(flight.delivery, _guarded(flight, s, now)) for flight, s in pairs]
        try:
            result = self._consumer.commit(settled)
        except Exception as error:  # without this thread nothing would ever be settled again
            if len(settled) > 1:
                return [left for pair in pairs for left in self._commit([pair])]
            log.exception("an outcome cannot be carried out")
            delivery, buried = spoiled(settled[0], error)
            settled = replace_record((delivery, buried), None)[1]
            self._messages.put([(flights[id(delivery)], settled)])
            return []
        ready = [(flights[id(delivery)], settlement) for delivery, settlement in result.ready]
        if ready and not self._consumer.broker.limits(ready[0][0].delivery.queue).billed:
            ready = self._dispose(ready)  # no batch to wait for, so no thread to hand it to
        for pair in ready:
            self._messages.put([pair])
        if result.failed:
            log.warning("%d outcomes wait to be recorded: %s", len(result.failed), result.error)
        return [(flights[id(delivery)], settlement) for delivery, settlement in result.failed]

    # ---- messages

    def _gather_all(self) -> None:
        """Hand on messages in full batches, or those that have waited long enough."""
        waiting: list[Pair] = []
        full_by = 0.0
        while True:
            patience = max(0.0, full_by - time.monotonic()) if waiting else None
            fresh, ended = drain(self._messages, patience, _BATCH)
            if fresh and not waiting:
                full_by = time.monotonic() + _LINGER
            waiting += fresh
            batch, waiting = self._split(waiting, whole=ended or time.monotonic() >= full_by)
            if batch:
                size = self._consumer.broker.limits(batch[0][0].delivery.queue).batch
                share = -(-len(batch) // (_THREADS * size)) * size
                for start in range(0, len(batch), share):
                    self._batches.put(batch[start : start + share])
            if ended:
                return

    def _dispose_all(self) -> None:
        work_off(self._batches, self._dispose, most=1)  # a batch at a time

    def _split(self, waiting: list[Pair], *, whole: bool) -> tuple[list[Pair], list[Pair]]:
        """Split messages into those to settle now and those to hold until their batch is full.

        Full batches cost the least. Nothing is held while every slot is taken, since the worker
        could not receive then.
        """
        if not waiting or whole or self._starved():
            return waiting, []
        size = self._consumer.broker.limits(waiting[0][0].delivery.queue).batch
        full = len(waiting) - len(waiting) % size
        return waiting[:full], waiting[full:]

    def _dispose(self, pairs: Sequence[Pair]) -> list[Pair]:
        settled: list[Settled] = [(flight.delivery, s) for flight, s in pairs]
        try:
            refused = {id(r.delivery): r for r in self._consumer.dispose(settled)}
        except Exception:  # as above
            log.exception("%d messages wait to be settled", len(settled))
            return list(pairs)
        again: list[Pair] = []
        done: list[Flight] = []
        for flight, settlement in pairs:
            refusal = refused.get(id(flight.delivery))
            if refusal is None:
                done.append(flight)
            elif refusal.code in (Code.THROTTLED, Code.UNREACHABLE, Code.UNKNOWN):
                log.warning("%s is tried again: %s", settlement.action, refusal.reason)
                again.append((flight, settlement))
            else:
                self._put_aside(flight.delivery, settlement, refusal.reason)
                done.append(flight)
        self._released(done)
        return again

    def _put_aside(self, delivery: Delivery, settlement: Settlement, reason: str) -> None:
        log.error(
            "message %s on %s: cannot %s it (%s); it stays on the queue",
            delivery.id,
            delivery.queue,
            settlement.action,
            reason,
        )
        self._consumer.broker.release([delivery], after=_UNBURIED_AFTER)


def _guarded(flight: Flight, settlement: Settlement, now: float) -> Settlement:
    """Write conditionally where the lease may have passed to someone else."""
    if flight.lost or flight.doubtful or now > flight.lease_ends:
        return replace(settlement, fenced=True)
    return settlement


def _started(work: Callable[[], None], name: str, count: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, name=name, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def _end(source: queue.SimpleQueue[Any], threads: Sequence[threading.Thread]) -> None:
    """End the threads that take from a queue, waiting some seconds for what is queued."""
    ends = time.monotonic() + 5.0
    for _ in threads:
        source.put(None)
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
