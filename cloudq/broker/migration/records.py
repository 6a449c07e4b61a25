"""Updates the records of delayed tasks with their new handles, which revoking needs."""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.driver import Change, Check, ConditionFailed, Op, Scheduled
from cloudq.driver.log import Log
from cloudq.errors import BackendError
from cloudq.results.backend import Backend
from cloudq.results.record import DelayedMessage, key

log = Log("cloudq.migration")


def note_handles(
    backend: Backend, queue: str, target: str, moved: Sequence[tuple[Scheduled, str]]
) -> None:
    """Replace the old handles, which could name other messages by now.

    A handle of "" is none: a revoked task is then dropped when it is due.
    """
    for message, handle in moved:
        before = DelayedMessage(queue=queue, handle=message.handle).to_text()
        after = DelayedMessage(queue=target, handle=handle).to_text()
        change = Change(
            set={"scheduled": after} if handle else {},
            remove=frozenset() if handle else frozenset({"scheduled"}),
            keep_expires=True,
            when=(Check(field="scheduled", op=Op.EQ, value=before),),
        )
        try:
            backend.update(key(message.id), change)
        except ConditionFailed:
            continue  # nothing is recorded of it
        except BackendError as error:
            log.warning("task %s cannot be revoked before it is due: %s", message.id, error)
