"""Checks the limits before each call, which then starts with a permit or waits."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from cloudq.clock import grown
from cloudq.driver import Key
from cloudq.driver.log import Log
from cloudq.errors import ServiceError
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.tasks.arguments import Arguments
from cloudq.tasks.limits.concurrency import (
    NoPermit,
    Permit,
    PermitRequest,
    acquire,
    permits_key,
    release,
)
from cloudq.tasks.limits.global_rate import GlobalRates, has_come
from cloudq.tasks.limits.renewer import LeaseRenewer
from cloudq.tasks.limits.rules import Rate, Throttle, key_text, need_store
from cloudq.tasks.limits.worker_rate import FARTHEST, WorkerRates

log = Log("cloudq.throttling")

# A call that gets no permit tries again after about this many seconds, longer each time.
_FIRST_LOOK, _LONGEST_LOOK = 1.0, 60.0
# A task with a hard time limit up to this gets one lease for all of it, never renewed.
_WHOLE_RUN = 3600.0
_AFTER_LIMIT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A call is over a limit: try again after `after` seconds, at its `turn` if it has one."""

    after: float
    reason: str
    turn: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A call about to start. `hard` is its hard time limit in seconds.

    `again`: an earlier delivery of it may hold a permit.
    """

    message: TaskMessage
    request: PermitRequest
    again: bool
    hard: float | None


@dataclass(kw_only=True)
class Gate:
    """The limits of one process. Safe to use from many threads.

    A permit is free again `lease` seconds after its last renewal.
    `has_rates` is true once a task has had a rate here; before, there is no rate to check.
    """

    lease: float
    has_rates: bool = False

    # Made at first use, since most apps have no limits.

    @cached_property
    def _worker_rates(self) -> WorkerRates:
        self.has_rates = True
        return WorkerRates()

    @cached_property
    def _global_rates(self) -> GlobalRates:
        return GlobalRates()

    @cached_property
    def renewer(self) -> LeaseRenewer:
        """The renewer of what this process's calls hold."""
        return LeaseRenewer()

    def change_rate(self, task: str, rate: Rate | None) -> None:
        """Change the rate of a task in this worker; None for no limit."""
        self._worker_rates.change(task, rate)

    def rate(self, task: str, throttle: Throttle | None) -> Rate | None:
        """Return the rate of a task in this worker."""
        return self._worker_rates.rate(task, throttle.rate if throttle else None)

    def pace(self, message: TaskMessage, throttle: Throttle | None) -> Wait | None:
        """Return the wait if a call is over this worker's own rate. Costs no request."""
        rate = self.rate(message.task, throttle)
        if rate is None:
            return None
        after = self._worker_rates.wait(message.task, rate, returned=message.waits > 0)
        return Wait(after=after, reason=f"over {rate} in this worker") if after else None

    def stopped(
        self,
        backend: Backend | None,
        throttle: Throttle,
        message: TaskMessage,
        arguments: Arguments,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        """Free the permit of a call whose process was killed. Raises as `Visit.enter`."""
        if throttle.concurrency is not None and backend is not None:
            text = key_text(throttle.concurrency.key, arguments, args, kwargs)
            release(backend, permits_key(arguments.name, text), message.id)

    def visit(self) -> Visit:
        """Make the visit of one call, which lasts while the call runs."""
        return Visit(self.lease, self._global_rates, self.renewer)


class Visit:
    """One call at the gate: `enter`, then run; the end of the block releases its permit."""

    __slots__ = ("_global_rates", "_lease", "_permit", "_renewer")

    def __init__(self, lease: float, global_rates: GlobalRates, renewer: LeaseRenewer) -> None:
        self._lease = lease
        self._global_rates = global_rates
        self._renewer = renewer
        self._permit: Permit | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._permit is not None:
            self._release(self._permit)

    def enter(
        self,
        backend: Backend | None,
        throttle: Throttle,
        caller: Caller,
        arguments: Arguments,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Wait | None:
        """Acquire a permit and a token, or return how long to wait.

        Raises `BackendError`, `ConfigurationError`, and what the user's key function raises.
        """
        if throttle.concurrency is None and throttle.global_rate is None:
            return None
        if backend is None:
            return need_store(arguments.name, throttle)
        if throttle.concurrency is not None:
            text = key_text(throttle.concurrency.key, arguments, args, kwargs)
            key = permits_key(arguments.name, text)  # one for all names of the task
            refused = self._acquire(backend, throttle.concurrency.most, caller, key)
            if refused is not None:
                return _look_again(
                    caller.message, f"{text or 'the task'} is busy with {refused.owner}"
                )
        if throttle.global_rate is None or has_come(caller.message.turn, backend.clock()):
            return None
        turn = self._global_rates.take(backend, arguments.name, throttle.global_rate)
        now = backend.clock()
        if turn is not None and turn <= now:
            return None
        after = FARTHEST * random.uniform(0.5, 1.0) if turn is None else turn - now
        return Wait(after=after, turn=turn, reason=f"over {throttle.global_rate} in all")

    def _acquire(self, backend: Backend, most: int, caller: Caller, key: Key) -> NoPermit | None:
        whole = caller.hard is not None and caller.hard <= _WHOLE_RUN
        lease = (caller.hard or 0.0) + _AFTER_LIMIT if whole else self._lease
        permit = acquire(backend, key, most, caller.request, lease, again=caller.again)
        if isinstance(permit, NoPermit):
            return permit
        self._permit = permit
        if not whole:
            self._renewer.add(permit)
        return None

    def _release(self, permit: Permit) -> None:
        self._renewer.remove(permit)
        try:
            permit.release()
        except ServiceError as error:
            log.warning(
                "cannot release the permit of %s, which ends within %g s: %s",
                permit.key.partition,
                permit.lease,
                error,
            )


def _look_again(message: TaskMessage, reason: str) -> Wait:
    longest = grown(_FIRST_LOOK, message.waits, _LONGEST_LOOK, factor=1.5)
    return Wait(after=longest * random.uniform(0.5, 1.0), reason=reason)
