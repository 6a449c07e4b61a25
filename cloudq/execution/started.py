"""Tells that a call has started, where the task or the event log keeps that."""

from __future__ import annotations

from typing import Any

from cloudq.driver.log import Log
from cloudq.errors import ServiceError
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.results.record import State
from cloudq.runtime import Runtime
from cloudq.tasks.task import Task

log = Log("cloudq.execution")


def tell_started(
    runtime: Runtime, outcomes: Outcomes, job: Job, task: Task[..., Any], started: float
) -> None:
    """Record that a call of an app with a result store has started, where that is kept."""
    is_tracked = outcomes.tracks(task) and not outcomes.ignores_result(job.message)
    if not (is_tracked or runtime.keeps_events):
        return  # and the store is not opened for it: that loads a cloud's SDK
    backend = runtime.backend
    if backend is None:
        return
    history = backend.history
    is_kept = history is not None and history.keeps(State.STARTED)
    if not (is_tracked or is_kept):
        return
    record = outcomes.record(job, State.STARTED, started)
    if is_tracked:
        try:
            backend.advance(record)
        except ServiceError as error:  # the task can still run, and its end is recorded
            log.warning("task %s: STARTED is not recorded: %s", job.message.id, error)
    if is_kept:
        backend.note(record)
