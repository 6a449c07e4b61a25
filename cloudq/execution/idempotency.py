"""Claims idempotency keys: of equal calls one runs, and the others get its result.

The states are those of Powertools' idempotency: in progress until a time, then completed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.driver.ends import Died
from cloudq.errors import BackendError, EncodeError, InvalidArguments
from cloudq.execution.error_text import reason_of
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.settlement import NEVER, Action, Settlement
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.results.record import State, is_same_try
from cloudq.tasks.arguments import Arguments, EachResult
from cloudq.tasks.limits.templates import text_of
from cloudq.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A claim that succeeded: run the task, then complete or drop the claim."""

    key: Key
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An equal call that has succeeded, with its value as JSON text, or why that was not kept."""

    owner: str
    value: str | None
    unkept: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """An equal call that is running."""

    owner: str


def key_of(
    message: TaskMessage, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Key | None:
    """Make the key of a call's claim; None if the call is not idempotent."""
    rule = task.policy.idempotent
    if message.idempotency_key is not None:
        name = message.idempotency_key
    elif callable(rule):
        name = text_of(rule(*args, **kwargs))
        if not name:
            raise InvalidArguments("the key function returned an empty text: it is one key for all")
    elif rule:
        name = task.arguments.key(args, kwargs)
    else:
        return None
    return Key(f"once#{task.name}#{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """The owner of a claim: a task's id, its delivery's fence and name, and its call's mark.

    A later delivery takes over the claim of an earlier one, and the same delivery may claim
    again. Another copy of the same message may not, however often it was delivered: a message is
    known by the time at which it was `sent`, in epoch milliseconds. One that was sent in place
    of others (`stands_in`) is a later delivery of these.
    """

    owner: str
    fence: int = 0
    delivery: str = ""
    call: str | None = None
    sent: int | None = None
    stands_in: bool = False


class ClaimInDoubt(BackendError):
    """Raised where the store refuses a claim, and then to say whether it was made.

    Only a later delivery of the message can take such a claim over.
    """


def claim(backend: Backend, key: Key, claimant: Claimant, lease: float) -> Claimed | Done | Busy:
    """Claim a key for `lease` seconds, in one request if the key is free.

    The claim of a call that has ended without completing it, say since its process was stopped, is
    taken over; if it succeeded its value counts. One more read if another call has the claim.

    Raises `BackendError`, of which `ClaimInDoubt` alone leaves a claim behind.
    """
    current = _write_claim(backend, key, claimant, lease, when=_ABSENT)
    claimed = Claimed(key=key, fence=claimant.fence)
    if current is None:
        return claimed
    ended = None
    if not current.get("done") and not _is_of(current, claimant):
        found = backend.record(str(current.get("owner")))
        is_its = found is not None and found.call == current.get("call")
        ended = found if is_its and found is not None and found.terminal else None
    if ended is not None and ended.state == State.SUCCESS:
        return Done(owner=ended.id, value=ended.value)
    if ended is not None or _is_ours(current, claimant):
        unchanged = tuple(_still(name, current) for name in ("owner", "done", "fence", "delivery"))
        current = _write_claim(backend, key, claimant, lease, when=unchanged)
        if current is None or _is_made(current, claimant):
            return claimed
    other = str(current.get("owner"))
    if not current.get("done"):
        return Busy(owner=other)
    return Done(owner=other, value=_text(current, "value"), unkept=_text(current, "unkept"))


def _text(current: Mapping[str, Value], name: str) -> str | None:
    found = current.get(name)
    return found if isinstance(found, str) else None


_FIELDS = frozenset({"owner", "fence", "delivery", "done", "value", "unkept", "call", "sent"})
_ABSENT = (Check(field="owner", op=Op.ABSENT),)


def _write_claim(
    backend: Backend,
    key: Key,
    claimant: Claimant,
    lease: float,
    *,
    when: tuple[Check, ...],
) -> Mapping[str, Value] | None:
    """Write the claim if `when` holds; else return the fields that are stored."""
    fields: dict[str, Value] = {
        "owner": claimant.owner,
        "fence": claimant.fence,
        "delivery": claimant.delivery,
        "done": False,
    }
    if claimant.call is not None:
        fields["call"] = claimant.call
    if claimant.sent is not None:
        fields["sent"] = claimant.sent
    change = Change(
        set=fields,
        remove=_FIELDS - fields.keys(),
        expires=backend.clock() + lease,
        when=when,
    )
    try:
        backend.insist(key, change)
    except ConditionFailed as error:
        return error.current.fields if error.current else {}
    except BackendError as error:
        if error.code not in NEVER:
            _unclaim(backend, key, claimant, error)
        raise
    return None


def _unclaim(backend: Backend, key: Key, claimant: Claimant, why: BackendError) -> None:
    """Free a claim that may have been made although the store refused it."""
    change = Change(
        remove=_FIELDS,
        keep_expires=True,
        when=_running(claimant),
    )
    try:
        backend.insist(key, change)
    except ConditionFailed:
        return
    except BackendError as error:
        raise ClaimInDoubt(f"{why}; and: {error}", code=error.code) from error


def _running(claimant: Claimant) -> tuple[Check, ...]:
    return (
        Check(field="owner", op=Op.EQ, value=claimant.owner),
        Check(field="fence", op=Op.EQ, value=claimant.fence),
        Check(field="delivery", op=Op.EQ, value=claimant.delivery),
        Check(field="done", op=Op.EQ, value=False),
    )


def renew(backend: Backend, key: Key, claimant: Claimant, lease: float) -> bool:
    """Have a claim last for `lease` seconds from now; return False if it is not this call's.

    Raises `BackendError`.
    """
    until = backend.clock() + lease
    change = Change(set={"done": False}, expires=until, when=_running(claimant))
    try:
        backend.update(key, change)
    except ConditionFailed:
        return False
    return True


def _still(name: str, current: Mapping[str, Value]) -> Check:
    value = current.get(name)
    if value is None:
        return Check(field=name, op=Op.ABSENT)
    return Check(field=name, op=Op.EQ, value=value)


def _is_of(current: Mapping[str, Value], claimant: Claimant) -> bool:
    return (current.get("owner"), current.get("call")) == (claimant.owner, claimant.call)


def _is_ours(current: Mapping[str, Value], claimant: Claimant) -> bool:
    if not _is_of(current, claimant) or current.get("done"):
        return False
    if current.get("delivery") == claimant.delivery:
        return True
    fence, sent = current.get("fence"), current.get("sent")
    if not isinstance(fence, int) or fence >= claimant.fence:
        return False
    is_copy = None not in (sent, claimant.sent) and sent != claimant.sent
    return not is_copy or claimant.stands_in or not is_same_try(fence, claimant.fence)


def _is_made(current: Mapping[str, Value], claimant: Claimant) -> bool:
    """Tell whether a claim stands as it was to be written: the answer to the first try was lost."""
    made = (claimant.owner, claimant.fence, claimant.delivery, False)
    return tuple(map(current.get, ("owner", "fence", "delivery", "done"))) == made


def settled(settlement: Settlement, claim: Claimed, expires: float) -> Settlement:
    """Complete the claim after a success, drop it after another end; a call that goes on keeps it.

    A message that is released, or that a later delivery has, is still this call's.
    """
    goes_on = settlement.action in (Action.RELEASE, Action.NOTHING)
    if goes_on or settlement.state is State.RETRY or settlement.resend is not None:
        return settlement
    settlement = replace(settlement, claim_fence=claim.fence)
    if settlement.state is not State.SUCCESS:
        return replace(settlement, drop=claim.key)
    value = settlement.record.value if settlement.record else None
    done = completed(claim.key, settlement.task_id, value, expires, fence=claim.fence)
    if settlement.kept is not None:
        done = replace(done, fields={**done.fields, **settlement.kept})
    return replace(settlement, extra=done, kept=None)


def keep(
    settlement: Settlement,
    message: TaskMessage,
    task: Task[..., Any],
    results: Arguments | EachResult,
    value: object,
) -> Settlement:
    """Keep the value of an idempotent call that records nothing, for equal calls that ask for it.

    `results` writes it. A value that cannot be written is no failure of the call, which does not
    ask for it.
    """
    if message.idempotency_key is None and not task.policy.idempotent:
        return settlement
    try:
        text = results.written_result(value)
    except Died:
        raise
    except BaseException as error:  # also what the value's own methods raise
        return replace(settlement, kept={"value": None, "unkept": reason_of(error)})
    return replace(settlement, kept={"value": None if text == "null" else text})


def without_value(done: Item, why: str) -> Item:
    """Leave the value out of a completed claim, and say why."""
    return replace(done, fields={**done.fields, "value": None, "unkept": why})


def answered(outcomes: Outcomes, job: Job, done: Done) -> Settlement:
    """Settle a call with the value of an equal one; fail it if it asks for what was not kept."""
    if done.unkept is None or outcomes.is_unread(job.message):
        return outcomes.succeeded(job, done.value, None)
    why = (
        f"the equal call {done.owner} has run, and ignored its result, which was not kept "
        f"({done.unkept}): make both calls with ignore_result, or none"
    )
    return outcomes.failed(job, EncodeError(why))


def end_claim(backend: Backend, key: Key, owner: str, fence: int) -> None:
    """Make a claim free, unless another call or a later delivery has it. Raises `BackendError`."""
    change = Change(
        remove=_FIELDS,
        keep_expires=True,
        when=(
            Check(field="owner", op=Op.EQ, value=owner),
            Check(field="fence", op=Op.LE, value=fence),
        ),
    )
    try:
        backend.update(key, change)
    except ConditionFailed:
        return


def completed(key: Key, owner: str, value: str | None, expires: float, *, fence: int = 0) -> Item:
    """Make the item that gives equal calls the value."""
    fields = {"owner": owner, "fence": fence, "done": True, "value": value}
    return Item(key=key, fields=fields, expires=expires)


def kept(key: Key, owner: str, call: str | None, expires: float, *, fence: int) -> Item:
    """Make the item of a claim whose call goes on elsewhere, until the end of it is recorded."""
    fields: dict[str, Value] = {"owner": owner, "fence": fence, "delivery": "", "done": False}
    if call is not None:
        fields["call"] = call
    return Item(key=key, fields=fields, expires=expires)
