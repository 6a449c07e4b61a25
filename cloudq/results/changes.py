"""The conditional changes of a task's record."""

from __future__ import annotations

from dataclasses import replace

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op
from cloudq.results.record import RECORD_FIELDS, TERMINAL, Record, State, to_fields
from cloudq.results.shared_items import Items

# What belongs to one state and not to the next, say how far a try had come.
_OF_A_STATE = frozenset({"custom", "meta"})
_NO_MARK = Check(field="revoked", op=Op.ABSENT)


def make(items: Items, key: Key, change: Change) -> Item:
    """Make a change of a record; a mark of revocation that is there is kept as long as it was.

    Raises `ConditionFailed`. Only where there is such a mark does it take a second request.
    """
    try:
        return items.update(key, change)
    except ConditionFailed as error:
        standing = error.current
        if standing is None or _NO_MARK not in change.when or not standing.fields.get("revoked"):
            raise
        when = tuple(check for check in change.when if check is not _NO_MARK)
        longer = _longer(change.expires, standing)
        return items.update(key, replace(change, when=when, expires=longer))


def _longer(expires: float | None, standing: Item) -> float | None:
    if expires is None or standing.expires is None:
        return None
    return max(expires, standing.expires)


def advance(record: Record, expires: float) -> Change:
    """Write a record unless a later delivery, a later call or an end is there; kept till then.

    One that is no end is to be made by `make`.
    """
    fields = to_fields(record)
    own = [] if record.call is None else [_no_later_call(record.call)]
    if not record.terminal:
        own.append(_NO_MARK)
        if record.call is None:  # a call with a mark is a later one of this id
            own.append(Check(field="call", op=Op.ABSENT))
    return Change(
        set=fields,
        # What an earlier state has left, say a retry's error, is not part of the end.
        remove=(RECORD_FIELDS if record.terminal else _OF_A_STATE) - fields.keys(),
        expires=expires,
        when=(
            *own,
            Check(field="fence", op=Op.LE, value=record.fence, or_absent=True),
            *_not_ended(),
        ),
    )


def claim_of(end: Record) -> Record:
    """Return the record that keeps earlier deliveries out while an end is written elsewhere."""
    fence, call = end.fence, end.call
    return Record(id=end.id, state=State.STARTED, fence=fence, task=end.task, call=call)


def replacement(record: Record, standing: Item, expires: float) -> Change:
    """Write a record over the one that stands there, as long as that does.

    A mark of revocation goes by the id: it stays until an end comes.
    """
    fields = to_fields(record)
    gone = RECORD_FIELDS - fields.keys()
    there = standing.fields
    if there.get("revoked") and not record.terminal and there.get("state") not in TERMINAL:
        gone -= {"revoked"}
        longer = _longer(expires, standing)
    else:
        longer = expires
    return Change(
        set=fields,
        remove=gone,
        expires=longer,
        when=tuple(_unchanged(standing, name) for name in ("state", "fence", "call", "revoked")),
    )


def revocation(expires: float) -> Change:
    """Mark a task that has not ended as one that no worker is to start; to be made by `make`."""
    return Change(set={"revoked": True}, expires=expires, when=(_NO_MARK, *_not_ended()))


def _not_ended() -> tuple[Check, ...]:
    return tuple(
        Check(field="state", op=Op.NE, value=str(state), or_absent=True)
        for state in sorted(TERMINAL)
    )


def _no_later_call(call: str) -> Check:
    return Check(field="call", op=Op.LE, value=call, or_absent=True)


def _unchanged(item: Item, name: str) -> Check:
    value = item.fields.get(name)
    if value is None:
        return Check(field=name, op=Op.ABSENT)
    return Check(field=name, op=Op.EQ, value=value)
