"""Checks the limits before each call: the call starts, holding a place, or waits."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from cloudq.clock import grown
from cloudq.errors import ServiceError
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.tasks.limits.concurrency import Busy, Held, Holder, Keeper, free, hold, hold_key
from cloudq.tasks.limits.global_rate import GlobalRates, has_come
from cloudq.tasks.limits.rules import Rate, Throttle, key_text, need_store
from cloudq.tasks.limits.worker_rate import FARTHEST, WorkerRates

log = logging.getLogger("cloudq.throttling")

# A call that finds its key busy tries again after about this many seconds, longer each time.
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

    `again`: an earlier delivery of it may hold a place.
    """

    message: TaskMessage
    holder: Holder
    again: bool
    hard: float | None


@dataclass(kw_only=True)
class Gate:
    """The limits of one process. Safe to use from many threads.

    A place under a key is free again `lease` seconds after its holder last renewed it.
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
    def _keeper(self) -> Keeper:
        return Keeper()

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
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        named: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Free the place of a call whose process was killed. Raises as `Visit.enter`."""
        if throttle.concurrency is not None and backend is not None:
            text = key_text(throttle.concurrency.key, args, kwargs, named)
            free(backend, hold_key(message.task, text), message.id)

    def visit(self) -> Visit:
        """Make the visit of one call, which lasts while the call runs."""
        return Visit(self.lease, self._global_rates, self._keeper)


class Visit:
    """One call at the gate: `enter`, then run; the end of the block frees its place."""

    __slots__ = ("_global_rates", "_held", "_keeper", "_lease")

    def __init__(self, lease: float, global_rates: GlobalRates, keeper: Keeper) -> None:
        self._lease = lease
        self._global_rates = global_rates
        self._keeper = keeper
        self._held: Held | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._held is not None:
            self._leave(self._held)

    def enter(
        self,
        backend: Backend | None,
        throttle: Throttle,
        caller: Caller,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        named: Callable[[], Mapping[str, Any]],
    ) -> Wait | None:
        """Take a place and a token, or say how long to wait.

        Raises `BackendError`, `ConfigurationError`, and what the user's key function raises.
        """
        if throttle.concurrency is None and throttle.global_rate is None:
            return None
        if backend is None:
            return need_store(caller.message.task, throttle)
        if throttle.concurrency is not None:
            text = key_text(throttle.concurrency.key, args, kwargs, named)
            busy = self._take_place(backend, throttle.concurrency.most, caller, text)
            if busy is not None:
                return _look_again(
                    caller.message, f"{text or 'the task'} is busy with {busy.owner}"
                )
        if throttle.global_rate is None or has_come(caller.message.turn, backend.clock()):
            return None
        turn = self._global_rates.take(backend, caller.message.task, throttle.global_rate)
        now = backend.clock()
        if turn is not None and turn <= now:
            return None
        after = FARTHEST * random.uniform(0.5, 1.0) if turn is None else turn - now
        return Wait(after=after, turn=turn, reason=f"over {throttle.global_rate} in all")

    def _take_place(self, backend: Backend, most: int, caller: Caller, text: str) -> Busy | None:
        whole = caller.hard is not None and caller.hard <= _WHOLE_RUN
        lease = (caller.hard or 0.0) + _AFTER_LIMIT if whole else self._lease
        key = hold_key(caller.message.task, text)
        held = hold(backend, key, most, caller.holder, lease, again=caller.again)
        if isinstance(held, Busy):
            return held
        self._held = held
        if not whole:
            self._keeper.keep(held)
        return None

    def _leave(self, held: Held) -> None:
        self._keeper.drop(held)
        try:
            held.leave()
        except ServiceError as error:
            log.warning(
                "the place under %s stays taken for up to %g s: %s",
                held.key.partition,
                held.lease,
                error,
            )


def _look_again(message: TaskMessage, reason: str) -> Wait:
    longest = grown(_FIRST_LOOK, message.waits, _LONGEST_LOOK, factor=1.5)
    return Wait(after=longest * random.uniform(0.5, 1.0), reason=reason)
