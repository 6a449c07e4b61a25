"""Replaces an outcome that a service can never take, so that it holds up no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cloudq.driver import Code
from cloudq.driver.log import Log
from cloudq.errors import CloudQError, Rejected, ServiceError
from cloudq.execution.error_text import reason_of
from cloudq.execution.idempotency import without_value
from cloudq.execution.outcomes import failed_steps_of, member_result_of
from cloudq.execution.settlement import NEVER, Action, Settled, Settlement
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record, State, fence
from cloudq.tasks.limits.unique import unique_key
from cloudq.tasks.secrecy import hiding

log = Log("cloudq.execution")

_TYPE = "cloudq.errors.EncodeError"
# What a driver raises, wrapped, for a value that cannot be written: no service is asked then.
_LOCAL = (TypeError, OverflowError, RecursionError, UnicodeEncodeError)


def is_one_s_own(error: ServiceError) -> bool:
    """Tell whether an error concerns one outcome alone, and comes back whenever it is tried."""
    return error.code in NEVER or isinstance(error.__cause__, _LOCAL)


def smaller(pair: Settled, code: Code, reason: str) -> Settled:
    """Shrink a record that the store will never take; any other is tried again as it is.

    One that is small already is left out, and its message dead-lettered.
    """
    delivery, settlement = pair
    record = settlement.record
    if code not in NEVER:
        return pair
    done = settlement.extra
    if record is None and done is not None and done.fields.get("value") is not None:
        # Nobody reads the value of this call; an equal one that does is told why it has none.
        why = f"it could not be stored: {reason}"
        return delivery, replace(settlement, extra=without_value(done, why))
    if record is None or record.error_type == _TYPE:
        return spoiled(replace_record(pair, None), reason)
    small = _failure(record, f"the result could not be stored: {reason}")
    return replace_record((delivery, settlement), small)


def _failure(record: Record, text: str) -> Record:
    """Make the record of a failure, without what the store or a broker may have refused."""
    return replace(
        record,
        state=State.FAILURE,
        value=None,
        meta=None,
        error_type=_TYPE,
        error=text,
        error_args=None,
        error_state=None,
        traceback=None,
        children=None,
    )


def replace_record(pair: Settled, record: Record | None) -> Settled:
    """Put another record, of a failure, in the place of an outcome's own."""
    delivery, settlement = pair
    member_result = settlement.member_result
    if member_result is not None and record is not None:
        member_result = replace(member_result, record=record)
    # An equal call may run: nothing tells it this one's value.
    drop = settlement.extra.key if settlement.extra else settlement.drop
    return delivery, replace(
        settlement,
        state=State.FAILURE,
        record=record,
        extra=None,
        drop=drop,
        member_result=member_result,
    )


def spoiled(pair: Settled, why: BaseException | str) -> Settled:
    """Fail and dead-letter the call of an outcome that cannot be carried out.

    What was to be sent is given up.
    """
    delivery, settlement = pair
    with hiding(settlement.hide):
        reason = why if isinstance(why, str) else reason_of(why)
    text = f"its outcome could not be carried out: {reason}"
    log.error("task %s: %s", settlement.task_id or delivery.id, text)
    given = settlement.record
    if given is None and settlement.resend is not None:
        given, settlement = _of_copy(settlement.resend, settlement, delivery.attempts)
    if given is not None:
        given = replace(_failure(given, text), dead_lettered=True)
    delivery, settlement = replace_record((delivery, settlement), given)
    return delivery, replace(
        settlement,
        action=Action.DEAD_LETTER,
        reason=text,
        resend=None,
        starts=None,
    )


def _of_copy(
    message: TaskMessage, settlement: Settlement, attempts: int
) -> tuple[Record, Settlement]:
    """Make the record of a call whose copy cannot be sent, and what its end must tell."""
    sent = message.retries + message.replaced + message.continued
    record = Record(
        id=message.id,
        state=State.FAILURE,
        task=message.task,
        retries=message.retries,
        fence=fence(sent, attempts),
        queue=message.queue,
        parent=message.parent,
        join=message.gather,
        call=message.call,
    )
    ended = replace(
        settlement,
        member_result=member_result_of(message, record),
        failed_steps=failed_steps_of(message, record),
        unique_claim=unique_key(message) if message.unique_key is not None else None,
    )
    return record, ended


def unsendable(pair: Settled, never: Mapping[int, Rejected]) -> Settled:
    """Fail an outcome with a message that no broker will ever take."""
    found = next((never[id(m)] for m in pair[1].outgoing if id(m) in never), None)
    return pair if found is None else spoiled(pair, f"{found.id} cannot be sent: {found.reason}")


def kept(pair: Settled, why: CloudQError, now: float) -> Settled:
    """Keep the message itself in place of a copy that can never be sent."""
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
