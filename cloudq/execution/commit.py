"""Carries out settlements: `commit` makes outcomes durable, `dispose` then settles the messages.

A commit sends what is to be sent, records what is to be recorded, then does what follows from
the records. In this order a crash at any point repeats work and loses none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from cloudq.broker.broker import Broker, Refused
from cloudq.canvas.join_items import store_joins
from cloudq.canvas.joins import Joins
from cloudq.canvas.tails import StepsLost, calls_of, record_all
from cloudq.driver import Code, Delivery, Failure, Item
from cloudq.errors import (
    BackendError,
    BrokerError,
    CloudQError,
    ConfigurationError,
    EncodeError,
    PublishError,
)
from cloudq.execution.leaving import leave_joins
from cloudq.execution.settlement import NEVER, Action, Batch, FailedSteps, Settled, happened
from cloudq.execution.side_by_side import side_by_side
from cloudq.execution.spoiled import (
    is_one_s_own,
    kept,
    replace_record,
    smaller,
    spoiled,
    unsendable,
)
from cloudq.results.backend import Backend
from cloudq.results.events import History
from cloudq.results.record import State, to_item
from cloudq.tasks.limits.unique import free_key

log = logging.getLogger("cloudq.execution")


def commit(
    settled: Sequence[Settled],
    broker: Broker,
    backend: Backend | None,
    joins: Joins | None = None,
) -> Batch:
    """Make outcomes durable, in as few requests as the services allow.

    `joins` are the app's: without them no outcome may be that of a chord's member.

    Never raises `ServiceError`: an outcome that failed comes back to be committed again, without
    its messages if these are sent already.
    """
    batch = Batch(ready=list(settled), failed=[])
    if any(s.starts or s.resend for _, s in batch.ready):
        if backend is not None:
            each(batch, partial(_store_joins, backend=backend))
        each(batch, partial(_send, broker=broker))
    if backend is not None:
        each(batch, partial(_write_records, backend=backend))
        if any(s.failed_steps or s.member_result or s.unique_claim for _, s in batch.ready):
            each(batch, partial(_fail_steps, backend=backend, joins=joins), recorded=True)
            each(batch, partial(leave_joins, joins=joins), recorded=True)
            each(batch, partial(_end_unique_claims, backend=backend), recorded=True)
    if batch.failed and batch.error is None:
        refused = f"{len(batch.failed)} records were not taken"
        batch.error = BackendError(refused, code=Code.THROTTLED)
    return batch


_Phase = Callable[[Batch], None]


def each(batch: Batch, phase: _Phase, *, recorded: bool = False) -> None:
    """Take outcomes through a phase: all at once, and one by one where one of them stops it.

    An error that is no outage is one outcome's. It fails and is dead-lettered; if it is
    `recorded` already, what was to follow is left out.
    """
    tried = Batch(ready=batch.ready, failed=[])
    wrong = _taken(tried, phase)
    again: list[Settled] = []
    if wrong is not None:
        again, tried.failed = tried.failed, []
    batch.ready = tried.ready
    for pair in again:
        single = Batch(ready=[pair])
        wrong = _taken(single, phase) if len(again) > 1 else wrong
        if wrong is None:
            batch.add(single)
        elif recorded:
            log.error("task %s: what follows its end is left out: %s", pair[1].task_id, wrong)
            batch.ready.append(pair)
        else:
            batch.add(_given_up(pair, wrong, phase))
    batch.failed += tried.failed
    batch.error = batch.error or (tried.error if tried.failed else None)


def _taken(batch: Batch, phase: _Phase) -> BaseException | None:
    """Carry out a phase; return the error if it is no outage, with those it hit in `failed`."""
    given = batch.ready
    try:
        phase(batch)
    except Exception as error:
        log.debug("a phase of a commit raised", exc_info=error)
        batch.ready, batch.failed = [], list(given)
        return error
    wrong = batch.error
    return wrong if batch.failed and wrong is not None and is_one_s_own(wrong) else None


def _given_up(pair: Settled, why: BaseException, phase: _Phase) -> Batch:
    """Take the failure of an outcome through the phase that has refused it, or nothing of it."""
    failed = spoiled(pair, why)
    single = Batch(ready=[failed])
    if _taken(single, phase) is None:
        return single
    return Batch(ready=[replace_record(failed, None)])


# ---- before the record: joins, then messages


def _store_joins(batch: Batch, backend: Backend) -> None:
    """Store new joins before their members are sent."""
    waiting: list[Settled] = []
    items: list[Item] = []
    for pair in batch.ready:
        plan = pair[1].starts
        if plan is not None and plan.items:
            waiting.append(pair)
            items += plan.items
    if not waiting:
        return
    try:
        store_joins(items, backend)
    except BackendError as error:
        batch.fail(waiting, error)


def _send(batch: Batch, broker: Broker) -> None:
    """Send copies, and the messages that an end starts."""
    sending = [
        pair for pair in batch.ready if pair[1].resend is not None or pair[1].starts is not None
    ]
    messages = [message for _, settlement in sending for message in settlement.outgoing]
    if not messages:
        return
    refused: set[int] = set()
    error: CloudQError | None = None
    try:
        broker.send(messages)
    except PublishError as partly:
        error = partly
        refused = {id(messages[rejected.index]) for rejected in partly.rejected}
        never = {id(messages[r.index]): r for r in partly.rejected if r.code in NEVER}
        batch.ready = [unsendable(pair, never) for pair in batch.ready] if never else batch.ready
        sending = [pair for pair in batch.ready if pair[1].outgoing]
    except BrokerError as whole:
        error = whole
        refused = {id(message) for message in messages}
    except (EncodeError, ConfigurationError) as never:
        # Nothing was sent, since one message can never be: a retry is too long for the queue, say.
        if len(batch.ready) == 1:
            batch.ready = [kept(batch.ready[0], never, broker.clock())]
        else:
            _send_singly(batch, broker)
        return
    unsent = [pair for pair in sending if any(id(m) in refused for m in pair[1].outgoing)]
    if unsent:
        batch.fail(unsent, error)
    batch.ready = [_without_messages(pair) for pair in batch.ready]


def _send_singly(batch: Batch, broker: Broker) -> None:
    """Send one outcome's messages at a time, so that the one at fault stops no other."""
    pairs, batch.ready = batch.ready, []
    for pair in pairs:
        single = Batch(ready=[pair])
        _send(single, broker)
        batch.ready += single.ready
        batch.failed += single.failed
        batch.error = batch.error or single.error


def _without_messages(pair: Settled) -> Settled:
    delivery, settlement = pair
    if not settlement.outgoing:
        return pair
    return delivery, replace(settlement, resend=None, starts=None)


# ---- the record


def _write_records(batch: Batch, backend: Backend) -> None:
    """Write records: in one batch, but those that are `fenced` one by one, conditionally."""
    fenced = [pair for pair in batch.ready if pair[1].fenced]
    plain = [pair for pair in batch.ready if not pair[1].fenced] if fenced else batch.ready
    batch.ready = []
    if plain:
        _store(batch, plain, backend)
    if not fenced:
        return
    advance = partial(_advanced, backend=backend)
    written = side_by_side(advance, fenced, billed=backend.driver.limits.billed)
    for pair, advanced in zip(fenced, written, strict=True):
        if not isinstance(advanced, BackendError):
            batch.ready.append(advanced)
        elif advanced.code in NEVER:
            batch.failed.append(smaller(pair, Code(advanced.code), str(advanced)))
        else:
            batch.fail([pair], advanced)


def _store(batch: Batch, settled: list[Settled], backend: Backend) -> None:
    """Write records over what is there."""
    expires = backend.clock() + backend.expires
    items: list[Item] = []
    owners: list[Settled] = []
    dropped = [settlement.drop for _, settlement in settled if settlement.drop is not None]
    for pair in settled:
        settlement = pair[1]
        if settlement.record is not None:
            items.append(to_item(settlement.record, expires))
            owners.append(pair)
        if settlement.extra is not None:
            items.append(settlement.extra)
            owners.append(pair)
    if backend.history is not None:
        items += _events(settled, backend.history)
    try:
        failures = backend.put(items) if items else {}
        if dropped:
            backend.delete(dropped)
    except BackendError as error:
        batch.fail(settled, error)
        return
    batch.ready = settled
    if failures:
        _take_back(batch, owners, failures)


def _take_back(batch: Batch, owners: Sequence[Settled], failures: Mapping[int, Failure]) -> None:
    """Fail the owners of items that the store has refused."""
    refused = {id(owners[i]): (owners[i], f) for i, f in failures.items() if i < len(owners)}
    batch.ready = [pair for pair in batch.ready if id(pair) not in refused]
    batch.failed += [smaller(pair, f.code, f.reason) for pair, f in refused.values()]
    # Events stand behind all other items; nothing waits for those that are refused.
    lost = [failure for i, failure in failures.items() if i >= len(owners)]
    if lost:
        log.warning("%d events are not recorded: %s", len(lost), lost[0].reason)


def _advanced(pair: Settled, backend: Backend) -> Settled | BackendError:
    try:
        return _advance(pair, backend)
    except BackendError as error:
        return error


def _advance(pair: Settled, backend: Backend) -> Settled:
    """Write a record only if no later delivery and no end is recorded."""
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
    if standing.call != settlement.record.call:  # a later call of its id keeps the record
        log.info(
            "task %s: its %s is not recorded, since a later call of its id is",
            settlement.task_id,
            settlement.state,
        )
        backend.note(settlement.record, delivery.body)
        return pair
    if standing.terminal:  # the recorded end counts, also for the task's chord
        member_result = settlement.member_result and replace(
            settlement.member_result, record=standing
        )
        failed_steps = settlement.failed_steps
        if failed_steps is not None:
            ended = standing.state is State.SUCCESS
            failed_steps = None if ended else replace(failed_steps, because=standing)
        return delivery, replace(settlement, member_result=member_result, failed_steps=failed_steps)
    log.warning(
        "task %s: its lease was lost while it ran, so its late %s is not recorded",
        settlement.task_id,
        settlement.state,
    )
    return delivery, replace(settlement, action=Action.NOTHING)


def _events(settled: Sequence[Settled], history: History) -> list[Item]:
    made: list[Item] = []
    for delivery, settlement in settled:
        if not history.keeps(settlement.state):
            continue
        try:
            made += history.items(happened(delivery, settlement, history.clock()), delivery.body)
        except Exception as error:  # nothing waits for an event
            log.warning("an event of task %s is not recorded: %s", settlement.task_id, error)
    return made


# ---- after the record


def _fail_steps(batch: Batch, backend: Backend, joins: Joins | None) -> None:
    """Record the end of the steps that never come, so that nobody waits for them.

    It costs a request for each such step up to 25, and a few for each 25 more; only chains that
    fail have any.
    """
    for pair in batch.ready:
        steps = pair[1].failed_steps
        if steps is None or pair[1].action is Action.NOTHING:
            continue
        try:
            record_all(steps.records(_stored_calls(steps, joins)), backend)
        except BackendError as error:
            batch.fail([pair], error)


def _stored_calls(steps: FailedSteps, joins: Joins | None) -> Sequence[tuple[str, str]]:
    """Read the calls among the later steps that lie in the store. Raises `BackendError`."""
    if not steps.stored or joins is None:
        return ()
    try:
        return calls_of(joins.tails.whole(steps.stored))[0]
    except StepsLost as error:
        log.error("the steps after task %s are not recorded as failed: %s", steps.because.id, error)
        return ()


def _end_unique_claims(batch: Batch, backend: Backend) -> None:
    """End the claims of unique calls that have ended."""
    for pair in batch.ready:
        settlement = pair[1]
        if settlement.unique_claim is None or settlement.action is Action.NOTHING:
            continue
        try:
            free_key(backend, settlement.unique_claim, settlement.task_id)
        except BackendError as error:
            batch.fail([pair], error)


# ---- messages


def dispose(settled: Sequence[Settled], broker: Broker) -> list[Refused]:
    """Ack, release and dead-letter in batches, and return what the broker refused."""
    acks: list[Delivery] = []
    releases: dict[float, list[Delivery]] = {}
    burials: dict[str, list[Delivery]] = {}
    for delivery, settlement in settled:
        if settlement.action is Action.ACK:
            acks.append(delivery)
        elif settlement.action is Action.RELEASE:
            releases.setdefault(settlement.after, []).append(delivery)
        elif settlement.action is Action.DEAD_LETTER:
            burials.setdefault(settlement.reason, []).append(delivery)
    refused = broker.ack(acks) if acks else []
    for after, deliveries in releases.items():
        refused += broker.release(deliveries, after=after)
    for reason, deliveries in burials.items():
        refused += broker.dead_letter(deliveries, reason=reason)
    return refused
