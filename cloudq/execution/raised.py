"""Settles a call by the exception that ended it."""

from __future__ import annotations

from cloudq.errors import Ignore, Reject, Replaced, Retry
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.settlement import Action, Settlement, unrecorded
from cloudq.tasks.checkpoints import Continued, Superseded
from cloudq.tasks.secrecy import hiding_values
from cloudq.tasks.task import Task


def settle_raised(
    outcomes: Outcomes, job: Job, task: Task[..., object], error: BaseException, started: float
) -> Settlement:
    """Decide from an exception if the call is retried, replaced, ignored, rejected or failed."""
    with hiding_values(task.app.runtime, job.message):
        return _settled(outcomes, job, task, error, started)


def _settled(
    outcomes: Outcomes, job: Job, task: Task[..., object], error: BaseException, started: float
) -> Settlement:
    if isinstance(error, Ignore):
        return outcomes.ignored(job)
    if isinstance(error, Reject):
        return outcomes.rejected(job, error, started)
    if isinstance(error, Continued):
        return outcomes.continued(job)
    if isinstance(error, Superseded):
        return unrecorded(job.message, Action.NOTHING, reason=str(error))
    if isinstance(error, Replaced):
        return outcomes.replaced(job, error)
    if isinstance(error, Retry):
        return outcomes.retry(
            job,
            error.cause or error,
            started,
            max_retries=error.max_retries,
            countdown=error.countdown,
            changes=error.changes,
        )
    if task.policy.retries_by_itself(job.message.id, error):
        given = task.policy.retry_kwargs
        return outcomes.retry(
            job,
            error,
            started,
            max_retries=given.get("max_retries"),
            countdown=None if task.policy.retry_backoff else given.get("countdown"),
        )
    return outcomes.failed(job, error, started)
