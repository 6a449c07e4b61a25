"""Writes the ends that share an item of the store: those of a bundle, and of a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cloudq.driver import Item
from cloudq.driver.log import Log
from cloudq.errors import BackendError
from cloudq.execution.bundles import Part
from cloudq.execution.settlement import Action, Batch, Settled
from cloudq.execution.side_by_side import side_by_side
from cloudq.messages.ids import IS_PLACED, SERIES, place_in_series
from cloudq.results.backend import Backend
from cloudq.results.record import Record, State
from cloudq.results.series import is_small

log = Log("cloudq.execution")


@dataclass(slots=True)
class Together:
    """Calls of one series whose ends are written as one."""

    series: str
    settled: list[Settled] = field(default_factory=list[Settled])
    ends: dict[int, Record] = field(default_factory=dict[int, Record])

    @property
    def is_whole(self) -> bool:
        return len(self.ends) == SERIES


def sharing(settled: Sequence[Settled]) -> list[Together]:
    """Find the outcomes whose records may be written with another's."""
    found: dict[str, Together] = {}
    for pair in settled:
        record = pair[1].record
        if record is None or record.id[IS_PLACED] != "8" or pair[1].extra is not None:
            continue
        place = place_in_series(record.id)
        if place is None or not is_small(record):
            continue
        calls = found.get(place.bundle)
        if calls is None:
            calls = found[place.bundle] = Together(place.bundle)
        if place.number not in calls.ends:
            calls.settled.append(pair)
            calls.ends[place.number] = record
    return [calls for calls in found.values() if len(calls.ends) > 1]


def add_to_series(batch: Batch, together: Sequence[Together], backend: Backend) -> None:
    """Add ends to those of their series that others have written, or may write."""

    def add(calls: Together) -> BackendError | None:
        try:
            backend.series.add(calls.series, calls.ends)
        except BackendError as error:
            return error
        return None

    errors = side_by_side(add, together, billed=True)
    for calls, error in zip(together, errors, strict=True):
        if error is not None:
            batch.fail(calls.settled, error)


def add_to_bundle(
    batch: Batch, settled: list[Settled], events: Sequence[Item], backend: Backend
) -> None:
    """Write the ends of calls of one bundle, in one request; an end that stands there counts.

    `events` are the items of their events.
    """
    first = settled[0][0]
    assert isinstance(first, Part)
    parcel = first.parcel
    ended = [s.record for _, s in settled if s.record is not None]
    records = {_place(record.id, parcel.name): record for record in ended}
    extras = [pair[1].extra for pair in settled if pair[1].extra is not None]
    try:
        _put(extras, events, backend)
        fenced = any(pair[1].fenced for pair in settled)
        standing = backend.bundles.add(parcel.name, records, parcel.delivered, fenced=fenced)
    except BackendError as error:
        batch.fail(settled, error)
        return
    if standing is not None:
        parcel.revoked = standing.revoked - standing.records.keys()
    for pair in settled:
        if standing is None:
            batch.ready.append(too_late(pair))
        else:
            place = _place(pair[1].task_id, parcel.name)
            batch.ready.append(let_stand(pair, standing.records.get(place)))


def _put(items: Sequence[Item], events: Sequence[Item], backend: Backend) -> None:
    """Store items, and events, for which nothing waits. Raises `BackendError`."""
    failures = backend.put([*items, *events]) if items or events else {}
    for at, failure in failures.items():
        if at < len(items):
            raise BackendError(failure.reason, code=failure.code)
        log.warning("an event is not recorded: %s", failure.reason)


def _place(id: str, bundle: str) -> int:
    """Return the place of a call in its bundle, of which its id was made."""
    return int(id[len(bundle) :], 16)


def let_stand(pair: Settled, standing: Record | None) -> Settled:
    """Let the end that is recorded count, also for the task's chord; None if it lies apart."""
    delivery, settlement = pair
    if standing is None or not (settlement.member_result or settlement.failed_steps):
        return pair
    member_result = settlement.member_result and replace(settlement.member_result, record=standing)
    failed_steps = settlement.failed_steps
    if failed_steps is not None:
        ended = standing.state is State.SUCCESS
        failed_steps = None if ended else replace(failed_steps, because=standing)
    return delivery, replace(settlement, member_result=member_result, failed_steps=failed_steps)


def too_late(pair: Settled) -> Settled:
    """Leave out the late outcome of a delivery whose lease was lost."""
    delivery, settlement = pair
    log.warning(
        "task %s: its lease was lost while it ran, so its late %s is not recorded",
        settlement.task_id,
        settlement.state,
    )
    return delivery, replace(settlement, action=Action.NOTHING)
