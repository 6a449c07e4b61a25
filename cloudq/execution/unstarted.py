"""Settles calls that are not to start: one has ended before, or the store is down."""

from __future__ import annotations

from dataclasses import replace

from cloudq.driver.log import Log
from cloudq.errors import ServiceError
from cloudq.execution.idempotency import ClaimInDoubt
from cloudq.execution.outcomes import Job, Outcomes, failed_steps_of, member_result_of
from cloudq.execution.settlement import Action, Settlement, unrecorded
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.results.record import Record, State

log = Log("cloudq.execution")

# The pause of a call that something else than the store has refused, in seconds.
_PAUSE = 5.0
PAYLOAD_PAUSE = 60.0
"""The pause of a call whose payload is not in its store any more, in seconds."""


def unstarted(
    outcomes: Outcomes, job: Job, backend: Backend | None, error: ServiceError
) -> Settlement:
    """Put a call off: for a second, or as long as the store has been down.

    It goes on as a copy, which does not count as a delivery. Where it may have left a claim behind,
    which only a later delivery takes over, it goes back to its queue.
    """
    log.warning("task %s waits for the store: %s", job.message.id, error)
    after = backend.pause if backend is not None else _PAUSE
    reason = f"the store is down: {error}"
    if isinstance(error, ClaimInDoubt):
        return unrecorded(job.message, Action.RELEASE, after=after, reason=reason)
    return outcomes.later(job, after, reason)


def own_word(record: Record | None, message: TaskMessage) -> Record | None:
    """Return what a record says of this call, None if it is of another call of the same id.

    A revocation is of the id: it concerns each call that has not ended.
    """
    if record is None or record.call == message.call:
        return record
    is_revoked = record.revoked and not record.terminal
    return Record(id=record.id, state=State.PENDING, revoked=True) if is_revoked else None


def already_buried(job: Job, record: Record, reason: str) -> Settlement | None:
    """Settle a message whose task is among the dead letters; None if it was sent again from there.

    A redelivery makes up for a burial that was cut short. A first delivery of a message that is
    older than the end came to a worker that stood still meanwhile, or there are two of it.
    """
    delivery = job.delivery
    if delivery.attempts > 1:
        return unrecorded(job.message, Action.DEAD_LETTER, reason=reason)
    sent, ended = delivery.sent_at, record.finished_at
    if sent is None or ended is None or sent > ended:
        return None
    return unrecorded(job.message, Action.NOTHING, reason="a later delivery has it")


def already_done(message: TaskMessage, record: Record) -> Settlement:
    """Settle a message whose task has ended, or been retried, with what its end may still lack.

    The payloads of one that was retried are those of its next try.
    """
    ended = record.terminal
    done = unrecorded(
        message,
        Action.ACK,
        reason="already done",
        member_result=member_result_of(message, record) if ended else None,
        failed_steps=failed_steps_of(message, record) if ended else None,
    )
    return done if ended else replace(done, frees=())
