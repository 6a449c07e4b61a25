"""Notes of where delayed messages wait, so that revoking their calls finds them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from cloudq.amounts import counted
from cloudq.driver import Change, Check, ConditionFailed, Op
from cloudq.errors import BackendError
from cloudq.results.backend import LONGEST_MARK, Backend
from cloudq.results.record import DelayedMessage, Record, State, key, to_item

Places = Mapping[str, tuple[str, str, str, float]]
"""Task id -> task, queue, handle, and when it is due, in epoch seconds."""


def note_scheduled(backend: Backend, places: Places) -> None:
    """Remember where delayed messages wait.

    The tasks must be new: nothing may be recorded of them yet. Raises `BackendError`.
    """
    items = [
        to_item(
            Record(
                id=id,
                state=State.PENDING,
                task=task,
                queue=queue,
                scheduled=DelayedMessage(queue=queue, handle=handle),
            ),
            due + backend.expires,
        )
        for id, (task, queue, handle, due) in places.items()
    ]
    failures = backend.put(items)
    if failures:
        first = next(iter(failures.values()))
        raise BackendError(f"{counted(len(failures), 'record')}: {first.reason}", code=first.code)


def note_named(backend: Backend, places: Places) -> None:
    """Do as `note_scheduled`, for tasks that may have a record; a run's record stays."""
    for id, (task, queue, handle, due) in places.items():
        change = Change(
            set={
                "state": str(State.PENDING),
                "task": task,
                "queue": queue,
                "scheduled": DelayedMessage(queue=queue, handle=handle).to_text(),
            },
            # A revocation may be there, and must be when it is due.
            expires=due + max(backend.expires, LONGEST_MARK),
            when=(Check(field="state", op=Op.EQ, value=str(State.PENDING), or_absent=True),),
        )
        with suppress(ConditionFailed):
            backend.update(key(id), change)
