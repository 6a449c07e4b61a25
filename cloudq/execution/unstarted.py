"""Puts off a call that the store has refused to start."""

from __future__ import annotations

import logging

from cloudq.errors import ServiceError
from cloudq.execution.idempotency import ClaimInDoubt
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.settlement import Action, Settlement, unrecorded
from cloudq.results.backend import Backend

log = logging.getLogger("cloudq.execution")

# The pause of a call that something else than the store has refused, in seconds.
_PAUSE = 5.0


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
