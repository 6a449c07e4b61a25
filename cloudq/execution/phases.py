"""Takes batches of outcomes through the phases of a commit; what stops one stops no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloudq.errors import CloudQError
from cloudq.execution.settlement import Settled
from cloudq.execution.spoiled import is_one_s_own, replace_record, spoiled

log = logging.getLogger("cloudq.execution")


@dataclass(slots=True, kw_only=True)
class Batch:
    """Outcomes on their way through the phases of a commit.

    `ready` have passed every phase so far, and after the last one may be disposed of. `failed`
    are to be committed again; `error` is the first reason.
    """

    ready: list[Settled]
    failed: list[Settled] = field(default_factory=list[Settled])
    error: CloudQError | None = None

    def fail(self, pairs: Sequence[Settled], error: CloudQError | None) -> None:
        """Move outcomes to `failed`: the later phases skip them.

        Makes `ready` a new list, so that a phase may call this while it goes through the old one.
        """
        gone = {id(pair) for pair in pairs}
        self.ready = [pair for pair in self.ready if id(pair) not in gone]
        self.failed += pairs
        self.error = self.error or error

    def add(self, other: Batch) -> None:
        """Take over the outcomes of another batch."""
        self.ready = [*self.ready, *other.ready]
        self.failed += other.failed
        self.error = self.error or other.error


_Phase = Callable[[Batch], None]


def each(batch: Batch, phase: _Phase, *, recorded: bool = False) -> None:
    """Take outcomes through a phase: all at once, and one by one where one of them stops it.

    An error that is no outage is one outcome's. It fails and is dead-lettered; if it is
    `recorded` already, what was to follow is left out.
    """
    tried = Batch(ready=batch.ready)
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
