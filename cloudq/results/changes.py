"""The conditional changes of a task's record."""

from __future__ import annotations

from cloudq.driver import Change, Check, Item, Op
from cloudq.results.record import RECORD_FIELDS, TERMINAL, Record, to_fields

# What belongs to one state and not to the next, say how far a try had come.
_OF_A_STATE = frozenset({"custom", "meta"})


def advance(record: Record, expires: float) -> Change:
    """Write a record unless a later delivery, a later call or an end is there; kept till then."""
    fields = to_fields(record)
    own = [] if record.call is None else [_no_later_call(record.call)]
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


def replacement(record: Record, standing: Item, expires: float) -> Change:
    """Write a record over the one that stands there, as long as that does."""
    fields = to_fields(record)
    return Change(
        set=fields,
        remove=RECORD_FIELDS - fields.keys(),
        expires=expires,
        when=tuple(_unchanged(standing, name) for name in ("state", "fence", "call")),
    )


def revocation(expires: float) -> Change:
    """Mark a task that has not ended as one that no worker is to start."""
    return Change(set={"revoked": True}, expires=expires, when=_not_ended())


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
