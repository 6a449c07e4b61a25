"""Carries out settlements in batches: makes outcomes durable, then settles the messages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from cloudq.amounts import counted
from cloudq.driver import Code, Delivery
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.errors import BackendError
from cloudq.execution.bundles import Held, Part, whole_of
from cloudq.execution.consume import Consumer
from cloudq.execution.settlement import NEVER, Action, Settled, Settlement
from cloudq.execution.spoiled import replace_record, spoiled
from cloudq.results.backend import Backend
from cloudq.results.bundle_item import PlainEnd
from cloudq.worker.control.counters import Counters
from cloudq.worker.in_flight import Ends, Flight, Tray
from cloudq.worker.work_off import Crew

log = Log("cloudq.worker")

Pair = tuple[Flight, Settlement]
Bundled = Sequence[Pair] | Ends
"""Outcomes of calls of one bundle."""

# Outcomes that are committed together at most, where a request is no round trip.
_BATCH = 256
# How long acks wait for company where requests are billed.
_LINGER = 0.05
# Threads that help where a request is a round trip: where enough waits for a full one, or where one
# is slow, or is tried again by an SDK.
_COMMIT_HELPERS, _DISPOSE_HELPERS = 7, 5
# How often it is looked for outcomes that have waited long enough for their bundle, in seconds.
_HELD = 0.25
# A message that cannot be dead-lettered is looked at again after this, so that it is not hot.
_UNBURIED_AFTER = 900.0
# Of as many tasks as this that go back together each has a line in the log.
_FEW = 3
# Seconds that the threads of each kind get to end.
_ENDING = 5.0


class Settler:
    """Makes outcomes durable in some threads, and settles the messages in others.

    Results are recorded at once. Acks may wait a moment to fill a batch, since nobody waits for
    them, unless a queue is `starved`: it waits for slots that are taken. What the store or the
    broker refuses is kept, with its lease extended, and tried again: at once after a try in which
    something passed, else after growing pauses.
    `released` is called with the flights whose messages are settled, `ended` with the tray and the
    number of plain calls that need no more.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        released: Callable[[Sequence[Flight]], None],
        starved: Callable[[], bool],
        ended: Callable[[Tray, int], None] | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._consumer = consumer
        self._counters = counters or Counters()
        self._released = released
        self._ended_plainly = ended
        self._outcomes: Crew[Pair] = Crew(self._commit, name="commit", full=_BATCH)
        self._messages: Crew[Pair] = Crew(
            self._dispose, name="dispose", full=_BATCH, linger=_LINGER, hurries=starved
        )
        # A bundle's outcomes are one request.
        self._bundles: Crew[Bundled] = Crew(self._commit_bundle, name="bundle", full=1)
        self._held = Held[Pair | Ends](_delivery)
        self._holding = threading.Event()
        self._ended = threading.Event()
        self._lets_go = threading.Thread(target=self._let_go, name="held", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        backend = self._consumer.backend
        if backend is not None and backend.driver.limits.billed:
            self._outcomes.full = backend.driver.limits.put
            self._outcomes.start(_COMMIT_HELPERS)
            self._bundles.start(_COMMIT_HELPERS)
        else:
            self._outcomes.start()
            self._bundles.start()
        self._messages.start(_DISPOSE_HELPERS)
        self._lets_go.start()

    def stop(self) -> None:
        """End the threads; what is queued is still done if the services are up."""
        self._ended.set()
        self._holding.set()
        self._pass_on(self._held.left())
        self._bundles.end(_ENDING)
        self._outcomes.end(_ENDING)
        self._messages.end(_ENDING)

    def settle(self, pairs: Iterable[Pair]) -> None:
        """Count these outcomes and carry them out."""
        pairs = list(pairs)
        self._counters.add([(flight.delivery, settlement) for flight, settlement in pairs])
        for flight, _ in pairs:
            flight.settling = True
        self._pass_on(self._held.ready(pairs))
        if self._held:
            self._holding.set()

    def settle_plain(self, ended: Sequence[Ends]) -> None:
        """Count plain calls that have succeeded, and carry that out."""
        for each in ended:
            self._counters.add_plain(each)
            self._pass_on(self._held.added(each.tray.parcel, each.numbers, [each]))
        if self._held:
            self._holding.set()

    def _pass_on(self, outcomes: Sequence[Pair | Ends]) -> None:
        """Give outcomes to the threads that commit; those of one bundle together."""
        parcels: dict[int, list[Pair | Ends]] = {}
        others: list[Pair] = []
        for outcome in outcomes:
            if isinstance(outcome, Ends):
                parcels.setdefault(id(outcome.tray.parcel), []).append(outcome)
            elif isinstance(part := outcome[0].delivery, Part):
                parcels.setdefault(id(part.parcel), []).append(outcome)
            else:
                others.append(outcome)
        if parcels:
            self._bundles.put([_together(each) for each in parcels.values()])
        if others and all(_is_bare(s) for _, s in others) and self._may_skip(others):
            self._commit(others)
        elif others:
            self._outcomes.put(others)

    def _let_go(self) -> None:
        """Pass on what was held for long enough for its bundle to be whole."""
        while self._holding.wait() and not self._ended.wait(_HELD):
            self._holding.clear()
            self._pass_on(self._held.overdue())
            if self._held:
                self._holding.set()

    def release(self, flights: Iterable[Flight], reason: str, after: float = 0.0) -> None:
        """Put these back in their queues, due after this many seconds.

        Of many one line says why, and one for each is for debugging.
        """
        back = list(flights)
        if len(back) > _FEW:
            log.info("%s back to the queues: %s", counted(len(back), "task"), reason)
            reason = ""
        self.settle([(flight, flight.released(reason, after)) for flight in back])

    # ---- outcomes

    def _may_skip(self, pairs: Sequence[Pair]) -> bool:
        """Tell whether these, of which nothing is to be made durable, need no thread for that."""
        backend = self._consumer.backend
        history = backend.history if backend is not None else None
        if history is not None and any(history.keeps(settled.state) for _, settled in pairs):
            return False
        return self._consumer.broker.limits(pairs[0][0].delivery.queue).billed

    def _commit(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Commit outcomes, and return those to try again."""
        flights = {id(flight.delivery): flight for flight, _ in pairs}
        now = time.monotonic()
        settled = [(flight.delivery, _guarded(flight, s, now)) for flight, s in pairs]
        try:
            if done := self._consumer.settle_at_once(settled):
                self._released([flights[id(delivery)] for delivery, _ in done])
                gone = {id(delivery) for delivery, _ in done}
                pairs = [pair for pair in pairs if id(pair[0].delivery) not in gone]
                settled = [pair for pair in settled if id(pair[0]) not in gone]
                if not settled:
                    return []
            result = self._consumer.commit(settled)
        except BaseException as error:  # without this thread nothing would ever be settled again
            pass_ends(error)
            if len(settled) > 1:
                return [left for pair in pairs for left in self._commit([pair])]
            log.exception("an outcome cannot be carried out")
            delivery, buried = spoiled(settled[0], error)
            settled = replace_record((delivery, buried), None)[1]
            self._messages.put([(flights[id(delivery)], settled)])
            return []
        ready = [(flights[id(delivery)], settlement) for delivery, settlement in result.ready]
        ready = self._of_whole_messages(ready)
        self._messages_of(ready)
        if result.failed:
            log.warning("%d outcomes wait to be recorded: %s", len(result.failed), result.error)
        return [(flights[id(delivery)], settlement) for delivery, settlement in result.failed]

    def _messages_of(self, ready: list[Pair]) -> None:
        """Settle the messages of outcomes that are durable."""
        if not ready:
            return
        limits = self._consumer.broker.limits(ready[0][0].delivery.queue)
        if not limits.billed:
            ready = self._dispose(ready)  # no batch to wait for, so no thread to hand it to
        self._messages.full = limits.batch
        if ready:
            self._messages.put(ready)

    def _commit_bundle(self, bundles: Sequence[Bundled]) -> list[Bundled]:
        left = [
            self._commit_plain(each) if isinstance(each, Ends) else self._commit(each)
            for each in bundles
        ]
        return [each for each in left if each]

    def _commit_plain(self, ended: Ends) -> Bundled:
        """Record plain ends as one; return those to try again."""
        tray, ends = ended.tray, ended.ends
        parcel, backend = tray.parcel, self._consumer.backend
        revoked: set[int] | None = None
        placed = tray.placed(ends)
        try:
            if backend is not None and not self._consumer.log.isEnabledFor(logging.DEBUG):
                revoked = backend.bundles.add_plain(parcel.name, tray.end, placed, parcel.delivered)
                if revoked is not None:
                    _log_ends(backend, tray, placed)
        except BaseException as error:  # as above
            pass_ends(error)
            if isinstance(error, BackendError) and error.code not in NEVER:
                log.warning("%d outcomes wait to be recorded: %s", len(ends), error)
                return ended
            log.debug("plain ends are not recorded together", exc_info=error)
        if revoked is None:
            return self._commit(tray.pairs(ends))
        parcel.revoked = revoked.difference(place for place, *_ in placed)
        numbers = ended.numbers
        if parcel.done(numbers):
            tray.flight.settling = True
            self._messages_of(tray.pairs([ends[-1]]))
            numbers.pop()
        if numbers and self._ended_plainly is not None:
            self._ended_plainly(tray, len(numbers))
        return []

    def _of_whole_messages(self, pairs: list[Pair]) -> list[Pair]:
        """Leave out the parts of bundles with which nothing is to be done but to count them."""
        left: list[Pair] = []
        done: list[Flight] = []
        for flight, settlement in pairs:
            part = flight.delivery
            if (
                not isinstance(part, Part)
                or settlement.action is not Action.ACK
                or part.parcel.settled(part, settlement)
            ):
                left.append((flight, settlement))
            else:
                done.append(flight)
        if done:
            self._released(done)
        return left

    # ---- messages

    def _dispose(self, pairs: Sequence[Pair]) -> list[Pair]:
        settled: list[Settled] = [(flight.delivery, s) for flight, s in pairs]
        try:
            refused = {id(r.delivery): r for r in self._consumer.dispose(settled)}
        except BaseException as error:  # as above
            pass_ends(error)
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
        self._consumer.broker.release([whole_of(delivery)], after=_UNBURIED_AFTER)


def _delivery(outcome: Pair | Ends) -> Delivery:
    return outcome.part if isinstance(outcome, Ends) else outcome[0].delivery


def _together(outcomes: Sequence[Pair | Ends]) -> Bundled:
    """Return the plain ends of one bundle as one; all as outcomes of flights where some are."""
    plain = [each for each in outcomes if isinstance(each, Ends)]
    if len(plain) == len(outcomes):
        return Ends(tray=plain[0].tray, ends=[end for each in plain for end in each.ends])
    pairs = [each for each in outcomes if not isinstance(each, Ends)]
    return pairs + [pair for each in plain for pair in each.tray.pairs(each.ends)]


def _is_bare(settlement: Settlement) -> bool:
    """Tell whether all there is to do is to settle the message."""
    return (
        settlement.record is None
        and settlement.resend is None
        and settlement.starts is None
        and settlement.extra is None
        and settlement.drop is None
        and settlement.member_result is None
        and settlement.unique_claim is None
        and settlement.failed_steps is None
    )


def _log_ends(backend: Backend, tray: Tray, placed: Sequence[PlainEnd]) -> None:
    """Log plain ends, where ends are logged; what is refused holds nothing back."""
    history = backend.history
    if history is None or history.ends is None or not history.logs_successes:
        return
    numbers = [number for number, *_ in placed]
    history.ends.add_bundle(tray.end, tray.parcel.name, numbers)
    backend.write_ends(due=True)


def _guarded(flight: Flight, settlement: Settlement, now: float) -> Settlement:
    """Write conditionally where the lease may have passed to someone else."""
    if flight.lost or flight.doubtful or now > flight.lease_ends:
        return replace(settlement, fenced=True)
    return settlement
