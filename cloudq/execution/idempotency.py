"""Claims idempotency keys: of equal calls one runs, and the others get its result.

The states are those of Powertools' idempotency: in progress until a time, then completed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.errors import BackendError, InvalidArguments
from cloudq.execution.settlement import NEVER, Settlement
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.results.record import State
from cloudq.tasks.limits.templates import text_of
from cloudq.tasks.task import Task

# The length of a running call's claim where the call has no time limit, in seconds.
_IN_PROGRESS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A claim that succeeded: run the task, then complete or drop the claim."""

    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An equal call that has succeeded, with its value as JSON text."""

    owner: str
    value: str | None


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
    again. Another copy of the same message, delivered at the same time, may not.
    """

    owner: str
    fence: int = 0
    delivery: str = ""
    call: str | None = None


class ClaimInDoubt(BackendError):
    """Raised where the store refuses a claim, and then to say whether it was made.

    Only a later delivery of the message can take such a claim over.
    """


def claim(
    backend: Backend, key: Key, claimant: Claimant, time_limit: float | None
) -> Claimed | Done | Busy:
    """Claim a key, in one request if the key is free.

    The claim of a call that has ended without completing it, say since its process was stopped, is
    taken over; if it succeeded its value counts. One more read if another call has the claim.

    Raises `BackendError`, of which `ClaimInDoubt` alone leaves a claim behind.
    """
    current = _write_claim(backend, key, claimant, time_limit, when=_ABSENT)
    if current is None:
        return Claimed(key=key)
    ended = None
    if not current.get("done") and not _is_of(current, claimant):
        found = backend.record(str(current.get("owner")))
        is_its = found is not None and found.call == current.get("call")
        ended = found if is_its and found is not None and found.terminal else None
    if ended is not None and ended.state == State.SUCCESS:
        return Done(owner=ended.id, value=ended.value)
    if ended is not None or _is_ours(current, claimant):
        unchanged = tuple(_still(name, current) for name in ("owner", "done", "fence", "delivery"))
        current = _write_claim(backend, key, claimant, time_limit, when=unchanged)
        if current is None or _is_made(current, claimant):
            return Claimed(key=key)
    other = str(current.get("owner"))
    if not current.get("done"):
        return Busy(owner=other)
    value = current.get("value")
    return Done(owner=other, value=value if isinstance(value, str) else None)


_ABSENT = (Check(field="owner", op=Op.ABSENT),)


def _write_claim(
    backend: Backend,
    key: Key,
    claimant: Claimant,
    time_limit: float | None,
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
    change = Change(
        set=fields,
        remove=frozenset({"value", "call"} if claimant.call is None else {"value"}),
        expires=backend.clock() + (time_limit or _IN_PROGRESS),
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
        remove=frozenset({"owner", "fence", "delivery", "done"}),
        keep_expires=True,
        when=(
            Check(field="owner", op=Op.EQ, value=claimant.owner),
            Check(field="fence", op=Op.EQ, value=claimant.fence),
            Check(field="delivery", op=Op.EQ, value=claimant.delivery),
            Check(field="done", op=Op.EQ, value=False),
        ),
    )
    try:
        backend.insist(key, change)
    except ConditionFailed:
        return
    except BackendError as error:
        raise ClaimInDoubt(f"{why}; and: {error}", code=error.code) from error


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
    fence = current.get("fence")
    earlier = isinstance(fence, int) and fence < claimant.fence
    return earlier or current.get("delivery") == claimant.delivery


def _is_made(current: Mapping[str, Value], claimant: Claimant) -> bool:
    """Tell whether a claim stands as it was to be written: the answer to the first try was lost."""
    made = (claimant.owner, claimant.fence, claimant.delivery, False)
    return tuple(map(current.get, ("owner", "fence", "delivery", "done"))) == made


def settled(settlement: Settlement, claim: Claimed, expires: float) -> Settlement:
    """Complete the claim after a success, keep it for a retry, drop it after anything else."""
    if settlement.state is State.RETRY or settlement.resend is not None:
        return settlement
    if settlement.state is not State.SUCCESS:
        return replace(settlement, drop=claim.key)
    value = settlement.record.value if settlement.record else None
    done = completed(claim.key, settlement.task_id, value, expires)
    return replace(settlement, extra=done)


def completed(key: Key, owner: str, value: str | None, expires: float) -> Item:
    """Make the item that gives equal calls the value."""
    return Item(key=key, fields={"owner": owner, "done": True, "value": value}, expires=expires)
