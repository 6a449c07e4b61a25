"""What is to be done about a delivery, as data, and the one place that does it.

`commit` makes the outcome durable: it sends what is to be sent, then records what is to be
recorded. `dispose` then does with the messages what the settlements say. In this order a crash
at any point repeats work and loses none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import attrgetter

from cloudq.broker.broker import Broker, Refused
from cloudq.canvas.joins import JoinBusy, Joins
from cloudq.canvas.plan import Plan
from cloudq.canvas.slots import MemberResult
from cloudq.driver import Code, Delivery, Failure, Item, Key
from cloudq.errors import (
    BackendError,
    BrokerError,
    CloudQError,
    ConfigurationError,
    EncodeError,
    PublishError,
)
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.results.events import History
from cloudq.results.record import Record, State, to_item
from cloudq.tasks.limits.unique import free_key

log = logging.getLogger("cloudq.execution")


class Action(StrEnum):
    """What happens to the message."""

    ACK = "ack"
    RELEASE = "release"  # it comes back after `after` seconds
    DEAD_LETTER = "dead-letter"  # with `reason`
    NOTHING = "nothing"  # it belongs to someone else by now


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The outcome of one delivery.

    `state` is what became of the task, None where nothing is to be said of it. `record` is
    written whole, or, when `fenced`, only if no later delivery and no end is recorded. `extra`
    is stored and `drop` deleted along with it. `starts` is what the end starts, sent before it is
    recorded; `member_result` is left at the task's join afterwards, and `unique_claim`, the claim
    of a unique call, is ended. `failed_steps` are the ids that fail with it: the steps of its chain
    that never come. `error` stays in this process.
    """

    action: Action
    task_id: str = ""
    task: str = ""
    state: State | None = None
    reason: str = ""
    after: float = 0.0
    resend: TaskMessage | None = None
    record: Record | None = None
    fenced: bool = False
    extra: Item | None = None
    drop: Key | None = None
    starts: Plan | None = None
    member_result: MemberResult | None = None
    unique_claim: Key | None = None
    failed_steps: Sequence[str] = ()
    error: BaseException | None = field(default=None, compare=False)

    @property
    def outgoing(self) -> Sequence[TaskMessage]:
        """All that is to be sent."""
        started = self.starts.messages if self.starts is not None else ()
        return (*started, self.resend) if self.resend is not None else started


Settled = tuple[Delivery, Settlement]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a commit achieved: act upon `ready`; commit `failed` again, `error` says why."""

    ready: Sequence[Settled]
    failed: Sequence[Settled] = ()
    error: CloudQError | None = None


def commit(
    settled: Sequence[Settled],
    broker: Broker,
    backend: Backend | None,
    joins: Joins | None = None,
) -> Committed:
    """Make outcomes durable, in as few requests as the services allow.

    `joins` are the app's: without them no outcome may be that of a chord's member.

    Never raises `ServiceError`: what could not be done comes back to be tried again, without its
    copy where that is out already.
    """
    prepared, failed, error = _prepare(settled, backend)
    sent, unsent, problem = _send(prepared, broker)
    error = error or problem
    unsent += failed
    if backend is None:
        return Committed(ready=sent, failed=unsent, error=error)
    plain = [pair for pair in sent if not pair[1].fenced]
    ready: list[Settled] = []
    failed = list(unsent)
    try:
        stored, refused = _store(plain, backend)
        ready += stored
        failed += refused
    except BackendError as down:
        error = down
        failed += plain
    for pair in sent:
        if not pair[1].fenced:
            continue
        try:
            ready.append(_advance(pair, backend))
        except BackendError as down:
            error = down
            failed.append(_refused(pair, Failure(index=0, code=Code(down.code), reason=str(down))))
    ready, undoomed, problem = _after_record(
        ready, _failed_steps, lambda each: _doom(each, backend)
    )
    failed += undoomed
    error = error or problem
    if joins is None:
        assert not any(settlement.member_result for _, settlement in ready), (
            "members without their joins"
        )
    else:
        ready, silent, problem = _leave_words(ready, joins)
        failed += silent
        error = error or problem
    ready, unfreed, problem = _after_record(
        ready, _unique_claim, lambda each: _free_key(each, backend)
    )
    failed += unfreed
    error = error or problem
    if failed and error is None:
        error = BackendError(f"{len(failed)} records were not taken", code=Code.THROTTLED)
    return Committed(ready=ready, failed=failed, error=error)


def _prepare(
    settled: Sequence[Settled], backend: Backend | None
) -> tuple[list[Settled], list[Settled], CloudQError | None]:
    """Store what joins keep before their members are sent; the pairs to go on with, and others."""
    items = [item for _, s in settled if s.starts is not None for item in s.starts.items]
    if not items or backend is None:
        return list(settled), [], None
    try:
        failures = backend.put(items)
    except BackendError as down:
        problem: CloudQError = down
    else:
        if not failures:
            return list(settled), [], None
        first = next(iter(failures.values()))
        problem = BackendError(f"a join was not stored: {first.reason}", code=first.code)
    waits = [pair for pair in settled if pair[1].starts is not None and pair[1].starts.items]
    goes_on = [pair for pair in settled if pair[1].starts is None or not pair[1].starts.items]
    return goes_on, waits, problem


_failed_steps = attrgetter("failed_steps")
_unique_claim = attrgetter("unique_claim")


def _after_record(
    settled: Sequence[Settled],
    wanted: Callable[[Settlement], object],
    do: Callable[[Settlement], None],
) -> tuple[list[Settled], list[Settled], CloudQError | None]:
    """Do what follows each record that counts; the pairs that are done, and those to try again.

    Nothing is done where it is `wanted` for none.
    """
    if not any(wanted(settlement) for _, settlement in settled):
        return list(settled), [], None
    done: list[Settled] = []
    failed: list[Settled] = []
    error: CloudQError | None = None
    for pair in settled:
        try:
            if pair[1].action is not Action.NOTHING:
                do(pair[1])
        except BackendError as problem:
            error = problem
            failed.append(pair)
        else:
            done.append(pair)
    return done, failed, error


def _doom(settlement: Settlement, backend: Backend) -> None:
    """Record what fails with a task, so that nobody waits for it, as Celery does.

    It costs a request for each such step, and only chains that fail have any.
    """
    if settlement.record is not None:
        for id in settlement.failed_steps:
            backend.advance(replace(settlement.record, id=id, task="", children=None))


def _free_key(settlement: Settlement, backend: Backend) -> None:
    """End the claim of a unique call that has ended."""
    if settlement.unique_claim is not None:
        free_key(backend, settlement.unique_claim, settlement.task_id)


def _leave_words(
    settled: Sequence[Settled], joins: Joins
) -> tuple[list[Settled], list[Settled], CloudQError | None]:
    """Tell the joins what has ended; the pairs that are done, and those to try again."""
    leaving = [
        (place, settlement.member_result)
        for place, (_, settlement) in enumerate(settled)
        if settlement.member_result is not None and settlement.action is not Action.NOTHING
    ]
    if not leaving:
        return list(settled), [], None
    wrong = {
        leaving[at][0]: e
        for at, e in joins.leave([member_result for _, member_result in leaving]).items()
    }
    done: list[Settled] = []
    failed: list[Settled] = []
    error: CloudQError | None = None
    for place, pair in enumerate(settled):
        problem = wrong.get(place)
        if problem is None:
            done.append(pair)
        elif isinstance(problem, JoinBusy):
            # Its message asks again when the claim has ended: nothing else has to wait for that.
            again = replace(pair[1], action=Action.RELEASE, after=problem.after)
            done.append((pair[0], replace(again, reason=str(problem))))
        else:
            error = problem
            failed.append(pair)
    return done, failed, error


def _send(
    settled: Sequence[Settled], broker: Broker
) -> tuple[list[Settled], list[Settled], CloudQError | None]:
    """Send the copies and what ends start; the pairs that are out (or send nothing), and others."""
    copies = [message for _, settlement in settled for message in settlement.outgoing]
    if not copies:
        return list(settled), [], None
    refused: set[int] = set()
    error: CloudQError | None = None
    try:
        broker.send(copies)
    except PublishError as partly:
        error = partly
        refused = {id(copies[rejected.index]) for rejected in partly.rejected}
    except BrokerError as whole:
        error = whole
        refused = {id(copy) for copy in copies}
    except (EncodeError, ConfigurationError) as never:
        # One of them, and nothing was sent: a retry makes a body longer, or the queue cannot delay.
        if len(settled) == 1:
            return [_kept(settled[0], never, broker.clock())], [], None
        return _send_singly(settled, broker)
    sent: list[Settled] = []
    unsent: list[Settled] = []
    for delivery, settlement in settled:
        if any(id(message) in refused for message in settlement.outgoing):
            unsent.append((delivery, settlement))
        elif settlement.outgoing:
            sent.append((delivery, replace(settlement, resend=None, starts=None)))
        else:
            sent.append((delivery, settlement))
    return sent, unsent, error


def _send_singly(
    settled: Sequence[Settled], broker: Broker
) -> tuple[list[Settled], list[Settled], CloudQError | None]:
    sent: list[Settled] = []
    unsent: list[Settled] = []
    error: CloudQError | None = None
    for pair in settled:
        out, left, problem = _send([pair], broker)
        sent += out
        unsent += left
        error = error or problem
    return sent, unsent, error


def _kept(pair: Settled, why: CloudQError, now: float) -> Settled:
    """The message itself in place of a copy that can never be sent."""
    delivery, settlement = pair
    due = settlement.resend.not_before if settlement.resend else None
    return delivery, replace(
        settlement,
        action=Action.RELEASE,
        after=max(0.0, due - now) if due else 0.0,
        resend=None,
        record=None,
        reason=f"{settlement.reason}; kept, since its copy cannot be sent: {why}",
    )


def _store(settled: Sequence[Settled], backend: Backend) -> tuple[Sequence[Settled], list[Settled]]:
    """Write records over what is there; the pairs that are done, and those to try again."""
    expires = backend.clock() + backend.expires
    items: list[Item] = []
    owners: list[int] = []
    for place, (_, settlement) in enumerate(settled):
        parts = (settlement.record and to_item(settlement.record, expires), settlement.extra)
        for item in parts:
            if item is not None:
                items.append(item)
                owners.append(place)
    if backend.history is not None:
        items += _events(settled, backend.history)
    dropped = [settlement.drop for _, settlement in settled if settlement.drop is not None]
    failures = backend.put(items) if items else {}
    if dropped:
        backend.delete(dropped)
    if not failures:
        return settled, []
    # Events stand behind all others; nothing waits for those that are refused.
    refused = {owners[i]: failure for i, failure in failures.items() if i < len(owners)}
    unkept = [failure for i, failure in failures.items() if i >= len(owners)]
    if unkept:
        log.warning("%d events are not recorded: %s", len(unkept), unkept[0].reason)
    ready = [pair for place, pair in enumerate(settled) if place not in refused]
    failed = [_refused(settled[place], failure) for place, failure in refused.items()]
    return ready, failed


def _events(settled: Sequence[Settled], history: History) -> list[Item]:
    return [
        item
        for delivery, settlement in settled
        if history.keeps(settlement.state)
        for item in history.items(_happened(delivery, settlement, history.clock()), delivery.body)
    ]


def _happened(delivery: Delivery, settlement: Settlement, now: float) -> Record:
    """What an event says of an outcome, also of one that leaves no record."""
    if settlement.record is not None:
        return settlement.record
    return Record(
        id=settlement.task_id,
        state=settlement.state or State.PENDING,
        task=settlement.task,
        queue=delivery.queue,
        error=settlement.reason or None,
        finished_at=now,
    )


def _refused(pair: Settled, failure: Failure) -> Settled:
    """What to try next for a record that was refused: a smaller one, or the same later."""
    delivery, settlement = pair
    if settlement.record is None or failure.code not in (Code.TOO_LARGE, Code.INVALID):
        return pair
    return delivery, _shrunk(settlement, settlement.record, failure.reason)


def _shrunk(settlement: Settlement, record: Record, reason: str) -> Settlement:
    """A record that the store will never take, without what makes it large."""
    error = f"the result could not be stored: {reason}"
    small = replace(
        record,
        state=State.FAILURE,
        value=None,
        meta=None,
        error_type="cloudq.errors.EncodeError",
        error=error,
        error_args=None,
        traceback=None,
    )
    # An equal call may run: nothing tells it this one's value.
    drop = settlement.extra.key if settlement.extra else settlement.drop
    member_result = settlement.member_result and replace(settlement.member_result, record=small)
    return replace(
        settlement,
        state=State.FAILURE,
        record=small,
        extra=None,
        drop=drop,
        member_result=member_result,
    )


def _advance(pair: Settled, backend: Backend) -> Settled:
    delivery, settlement = pair
    if settlement.extra is not None:
        backend.put([settlement.extra])
    if settlement.drop is not None:
        backend.delete([settlement.drop])
    if settlement.record is None:
        return pair
    standing = backend.advance(settlement.record)
    if standing is None:
        backend.note(settlement.record, delivery.body)
        return pair
    if standing.terminal:  # what is recorded counts, also at its join
        member_result = settlement.member_result and replace(
            settlement.member_result, record=standing
        )
        failed_steps = settlement.failed_steps if standing.state == State.FAILURE else ()
        return delivery, replace(settlement, member_result=member_result, failed_steps=failed_steps)
    log.warning(
        "task %s: its lease was lost while it ran, so its late %s is not recorded",
        settlement.task_id,
        settlement.state,
    )
    return delivery, replace(settlement, action=Action.NOTHING)


def dispose(settled: Sequence[Settled], broker: Broker) -> list[Refused]:
    """Ack, release and dead-letter in batches; what the broker refused comes back."""
    refused: list[Refused] = []
    acks = [delivery for delivery, settlement in settled if settlement.action is Action.ACK]
    if acks:
        refused += broker.ack(acks)
    releases: dict[float, list[Delivery]] = {}
    burials: dict[str, list[Delivery]] = {}
    for delivery, settlement in settled:
        if settlement.action is Action.RELEASE:
            releases.setdefault(settlement.after, []).append(delivery)
        elif settlement.action is Action.DEAD_LETTER:
            burials.setdefault(settlement.reason, []).append(delivery)
    for after, deliveries in releases.items():
        refused += broker.release(deliveries, after=after)
    for reason, deliveries in burials.items():
        refused += broker.dead_letter(deliveries, reason=reason)
    return refused
