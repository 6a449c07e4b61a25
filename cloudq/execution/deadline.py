"""Runs tasks within the time that a function's invocation has left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import Self

from cloudq.amounts import seconds
from cloudq.errors import ConfigurationError, SoftTimeLimitExceeded, TimeLimitExceeded
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action, Settlement
from cloudq.results.record import State
from cloudq.tasks.checkpoints import Progress

# The part of an invocation's time for recording and reporting: three margins.
_MARGIN = 1.0
_MARGIN_SHARE = 0.1
# A task starts if at least this share of the time is left, whatever its limit.
_ENOUGH = 0.5
_SHORTEST = 0.001

NO_TIME = "no time left in this invocation"


class Deadline:
    """The end of an invocation. `remaining` returns the seconds until then; None means never.

    A task starts only if its hard time limit, or `reserve` seconds if it has none, is left; half
    of the invocation's time is always enough. A task that is still running near the end is
    interrupted: by its soft limit three margins before, by its hard limit two margins before. A
    task that has saved its state continues in another message.
    """

    def __init__(self, remaining: Callable[[], float] | None, *, reserve: float) -> None:
        self._remaining = remaining
        self._reserve = seconds(reserve, "reserve", ConfigurationError)
        total = self.remaining()
        self._enough = total * _ENOUGH
        self._margin = min(_MARGIN, total * _MARGIN_SHARE)

    @classmethod
    def after(cls, timeout: float, *, reserve: float) -> Self:
        """Make the deadline of an invocation that starts now and lasts so many seconds."""
        ends = time.monotonic() + seconds(timeout, "timeout", ConfigurationError)
        return cls(partial(_until, ends), reserve=reserve)

    def remaining(self) -> float:
        """Return the seconds until the platform stops this process or redelivers the message."""
        return inf if self._remaining is None else self._remaining()

    def until_late(self) -> float:
        """Return the seconds until finished outcomes must be made durable, whatever still runs."""
        return max(0.0, self.remaining() - 3 * self._margin)

    def permits(self, hard: float | None) -> bool:
        """Say if a task with this hard limit may start now."""
        needed = self._reserve if hard is None else hard
        return self.remaining() >= min(needed, self._enough)

    def run(self, executor: Executor, job: Job) -> Settlement:
        """Run a job, and release it if the end of the invocation interrupts it."""
        if self._remaining is None:
            return executor.run(job)
        soft, hard = executor.limits(job.message)
        remaining = self.remaining()
        our_soft = max(_SHORTEST, remaining - 3 * self._margin)
        our_hard = max(_SHORTEST, remaining - 2 * self._margin)
        progress = Progress(time.monotonic() + our_soft)
        limited = Job(
            delivery=job.delivery,
            message=job.message,
            fenced=job.fenced,
            limits=(
                our_soft if soft is None else min(soft, our_soft),
                our_hard if hard is None else min(hard, our_hard),
            ),
            progress=progress,
        )
        settlement = executor.run(limited)
        if settlement.state is not State.FAILURE:
            return settlement
        ours: dict[type[BaseException | None], bool] = {
            SoftTimeLimitExceeded: soft is None or our_soft < soft,
            TimeLimitExceeded: hard is None or our_hard < hard,
        }
        if ours.get(type(settlement.error), False):
            # Its saved work is kept, so this is no failed try.
            return executor.continued(job) if progress.saved else _interrupted(settlement)
        return settlement


def _until(ends: float) -> float:
    return ends - time.monotonic()


def _interrupted(settlement: Settlement) -> Settlement:
    """Release a job instead of failing it: another invocation gives it more time."""
    return replace(
        settlement,
        action=Action.RELEASE,
        state=None,
        record=None,
        after=0.0,
        reason=f"interrupted: {NO_TIME}",
    )


def released(job: Job, reason: str = NO_TIME) -> Settlement:
    """Settle a job that is given back unrun."""
    message = job.message
    return Settlement(action=Action.RELEASE, task_id=message.id, task=message.task, reason=reason)
