"""Carries out settlements: `commit` makes outcomes durable, `dispose` then settles the messages.

A commit sends what is to be sent, records what is to be recorded, then does what follows from
the records. In this order a crash at any point repeats work and loses none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cloudq.amounts import counted
from cloudq.broker.broker import Broker, Refused
from cloudq.canvas.joins import Joins
from cloudq.canvas.tails import StepsLost, calls_of, record_all
from cloudq.driver import Code, Delivery, Failure, Item
from cloudq.driver.log import Log
from cloudq.errors import BackendError
from cloudq.execution.bundles import Part, body_of, by_parcel, dispose_parts
from cloudq.execution.dead_reason import dead_reason
from cloudq.execution.idempotency import end_claim
from cloudq.execution.leaving import leave_joins
from cloudq.execution.outgoing import send_outgoing, store_new_joins
from cloudq.execution.settlement import NEVER, Action, Batch, FailedSteps, Settled, happened
from cloudq.execution.sharing import add_to_bundle, add_to_series, let_stand, sharing, too_late
from cloudq.execution.side_by_side import side_by_side
from cloudq.execution.spoiled import (
    is_one_s_own,
    replace_record,
    smaller,
    spoiled,
)
from cloudq.messages.ids import IS_PLACED, place_of
from cloudq.results.backend import Backend
from cloudq.results.record import Record, State, to_item
from cloudq.tasks.limits.unique import free_key

log = Log("cloudq.execution")


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
            each(batch, partial(store_new_joins, backend=backend))
        each(batch, partial(send_outgoing, broker=broker))
    if backend is not None:
        each(batch, partial(_write_records, backend=backend))
        if any(s.drop for _, s in batch.ready):
            each(batch, partial(_end_claims, backend=backend), recorded=True)
        if any(s.failed_steps or s.member_result or s.unique_claim for _, s in batch.ready):
            each(batch, partial(_fail_steps, backend=backend, joins=joins), recorded=True)
            each(batch, partial(leave_joins, joins=joins), recorded=True)
            each(batch, partial(_end_unique_claims, backend=backend), recorded=True)
    if batch.failed and batch.error is None:
        refused = f"{counted(len(batch.failed), 'record')} not taken"
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


# ---- the record


def _write_records(batch: Batch, backend: Backend) -> None:
    """Write records: plain ends in one batch, all others one by one, conditionally."""
    bundled = [pair for pair in batch.ready if isinstance(pair[0], Part) and _ends(pair)]
    if bundled:
        done = {id(pair) for pair in bundled}
        batch.ready = [pair for pair in batch.ready if id(pair) not in done]
    fenced = [pair for pair in batch.ready if _is_conditional(pair)]
    if fenced:
        conditional = {id(pair) for pair in fenced}
        plain = [pair for pair in batch.ready if id(pair) not in conditional]
    else:
        plain = batch.ready
    batch.ready = []
    if plain:
        _store(batch, plain, backend)
    for pairs in by_parcel(bundled) if bundled else ():
        add_to_bundle(batch, pairs, _events(pairs, backend), backend)
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


def _ends(pair: Settled) -> bool:
    record = pair[1].record
    return record is not None and record.terminal


def _is_conditional(pair: Settled) -> bool:
    """Tell whether what is recorded already must be heeded.

    What is no end is written beside a mark of revocation, which concerns the next try. The end of
    a call of a bundle that came by itself lies with those of its bundle, and a call that was given
    its id may have taken that of another.
    """
    settlement = pair[1]
    record = settlement.record
    if record is None or settlement.fenced or not record.terminal or record.call is not None:
        return settlement.fenced or record is not None
    return record.id[IS_PLACED] == "8" and place_of(record.id) is not None


def _store(batch: Batch, settled: list[Settled], backend: Backend) -> None:
    """Write records over what is there; small ends of one series as one."""
    together = sharing(settled) if backend.driver.limits.bills_kilobytes else []
    alone = settled
    if together:
        shared = {id(pair) for calls in together for pair in calls.settled}
        alone = [pair for pair in settled if id(pair) not in shared]
    items, owners = _owned_items(alone, backend)
    for calls in together:
        if calls.is_whole:
            items.append(backend.series.item(calls.series, calls.ends))
            owners.append(calls.settled)
    items += _events(settled, backend)
    try:
        failures = backend.put(items) if items else {}
    except BackendError as error:
        batch.fail(settled, error)
        return
    batch.ready = settled
    if failures:
        _take_back(batch, owners, failures)
    if together:
        add_to_series(batch, [calls for calls in together if not calls.is_whole], backend)


def items_of(settled: Sequence[Settled], backend: Backend) -> list[Item]:
    """Make the items of outcomes, and of their events."""
    items, _ = _owned_items(settled, backend)
    items += _events(settled, backend)
    return items


def _owned_items(
    settled: Sequence[Settled], backend: Backend
) -> tuple[list[Item], list[Sequence[Settled]]]:
    """Make the items of outcomes, with the owners of each."""
    expires = backend.clock() + backend.expires
    items: list[Item] = []
    owners: list[Sequence[Settled]] = []
    for pair in settled:
        settlement = pair[1]
        if settlement.record is not None:
            items.append(to_item(settlement.record, expires))
            owners.append((pair,))
        if settlement.extra is not None:
            items.append(settlement.extra)
            owners.append((pair,))
    return items, owners


def _take_back(
    batch: Batch, owners: Sequence[Sequence[Settled]], failures: Mapping[int, Failure]
) -> None:
    """Fail the owners of items that the store has refused."""
    refused = {
        id(pair): (pair, failure)
        for i, failure in failures.items()
        if i < len(owners)
        for pair in owners[i]
    }
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
    """Write a record only if no later delivery and no end is recorded.

    A later try may have started: the copy for it is sent before the retry is recorded.
    """
    delivery, settlement = pair
    if settlement.extra is not None:
        for failure in backend.put([settlement.extra]).values():
            raise BackendError(failure.reason, code=failure.code)
    if settlement.record is None:
        return pair
    standing = backend.advance(settlement.record)
    if standing is None:
        backend.note(settlement.record, body_of(delivery))
        return pair
    if standing.call != settlement.record.call:  # a later call of its id keeps the record
        log.info(
            "task %s: its %s is not recorded, since a later call of its id is",
            settlement.task_id,
            settlement.state,
        )
        backend.note(settlement.record, body_of(delivery))
        return pair
    if standing.terminal:
        return let_stand(pair, standing)
    if settlement.action is Action.ACK and not settlement.record.terminal:  # its copy has started
        backend.note(settlement.record, body_of(delivery))
        return pair
    return too_late(pair)


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


def _end_claims(batch: Batch, backend: Backend) -> None:
    """End the claims of idempotent calls that have not succeeded; a later delivery's stay."""
    for pair in batch.ready:
        settlement = pair[1]
        if settlement.drop is None or settlement.action is Action.NOTHING:
            continue
        try:
            end_claim(backend, settlement.drop, settlement.task_id, settlement.claim_fence)
        except BackendError as error:
            batch.fail([pair], error)


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
    parts = [pair for pair in settled if isinstance(pair[0], Part)]
    if not parts:
        return _dispose(settled, broker)
    done = dispose_parts(parts, broker, broker.clock())
    others = [pair for pair in settled if not isinstance(pair[0], Part)]
    return done.told(_dispose([*others, *done.wholes], broker))


def _dispose(settled: Sequence[Settled], broker: Broker) -> list[Refused]:
    acks: list[Delivery] = []
    releases: dict[float, list[Delivery]] = {}
    burials: dict[str, list[Delivery]] = {}
    for delivery, settlement in settled:
        if settlement.action is Action.ACK:
            acks.append(delivery)
        elif settlement.action is Action.RELEASE:
            releases.setdefault(settlement.after, []).append(delivery)
        elif settlement.action is Action.DEAD_LETTER:
            burials.setdefault(dead_reason(settlement, broker), []).append(delivery)
    refused = broker.ack(acks) if acks else []
    for after, deliveries in releases.items():
        refused += broker.release(deliveries, after=after)
    for reason, deliveries in burials.items():
        refused += broker.dead_letter(deliveries, reason=reason)
    return refused


def _events(settled: Sequence[Settled], backend: Backend) -> list[Item]:
    """Make the items of events that are recorded; one that cannot be made is only logged."""
    history = backend.history
    if history is None:
        return []
    made: list[Item] = []
    ended: list[Record] = []
    logs_successes = history.logs_successes
    for delivery, settlement in settled:
        state = settlement.state
        if state is State.SUCCESS and logs_successes and settlement.record is not None:
            ended.append(settlement.record)  # most are such
            continue
        if state not in history.told:
            continue
        try:
            record = happened(delivery, settlement, history.clock())
            made += history.items(record, body_of(delivery))
        except Exception as error:  # nothing waits for an event
            log.warning("an event of task %s is not recorded: %s", settlement.task_id, error)
    due = history.ends.add(ended) if ended and history.ends is not None else None
    return made if due is None else [*made, due]
