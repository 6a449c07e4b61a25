"""Takes the members of chords that have ended out of their joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cloudq.canvas.joins import JoinBusy, Joins
from cloudq.canvas.slots import MemberResult
from cloudq.errors import ServiceError
from cloudq.execution.settlement import Action, Batch, Settled
from cloudq.execution.side_by_side import side_by_side


def leave_joins(batch: Batch, joins: Joins | None) -> None:
    """Mark the members of chords that have ended as done."""
    leaving: list[Settled] = []
    results: list[MemberResult] = []
    for pair in batch.ready:
        settlement = pair[1]
        if settlement.member_result is not None and settlement.action is not Action.NOTHING:
            leaving.append(pair)
            results.append(settlement.member_result)
    if not leaving:
        return
    assert joins is not None, "members without their joins"
    busy: dict[int, Settled] = {}
    for at, problem in _left(results, joins).items():
        pair = leaving[at]
        if not isinstance(problem, JoinBusy):
            batch.fail([pair], problem)
            continue
        # Release the message until the other process's claim has ended.
        delivery, settlement = pair
        busy[id(pair)] = (
            delivery,
            replace(settlement, action=Action.RELEASE, after=problem.after, reason=str(problem)),
        )
    if busy:
        batch.ready = [busy.get(id(pair), pair) for pair in batch.ready]


def _left(results: Sequence[MemberResult], joins: Joins) -> Mapping[int, ServiceError]:
    """As `Joins.leave`, for several joins at a time: each takes some requests in turn."""
    billed = joins.backend.driver.limits.billed
    places: dict[str, list[int]] = {}
    for at, result in enumerate(results):
        places.setdefault(result.slot.join if billed else "", []).append(at)

    def leave(own: Sequence[int]) -> Mapping[int, ServiceError]:
        wrong = joins.leave([results[at] for at in own])
        return {own[index]: problem for index, problem in wrong.items()}

    left = side_by_side(leave, list(places.values()), billed=billed)
    return {at: problem for wrong in left for at, problem in wrong.items()}
