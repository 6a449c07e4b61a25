"""Global rate limits, shared by all workers and functions: a token bucket per task, stored.

The bucket is one number, the time of the next token (GCRA). Taking a token adds one step to it, in
one request that never conflicts with another. A call over the rate gets a token too, but one that
is due later: the call waits for that turn as a delayed message, and asks the store only once.
"""

from __future__ import annotations

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op
from cloudq.results.backend import Backend
from cloudq.tasks.limits.rules import Rate
from cloudq.tasks.limits.worker_rate import EARLY, FARTHEST

# Times are whole microseconds: a store that increments floats would round them.
_UNIT = 1_000_000
# A turn is valid for this many seconds. A call that misses it, because the workers were down say,
# takes another; else all that missed theirs would start at once.
_TURN = 30.0
_KEPT = 3600.0
_TRIES = 10


class GlobalRates:
    """The buckets of one store. Safe to use from many threads."""

    def __init__(self) -> None:
        # The last known time of each bucket; it chooses the write that is tried first.
        self._seen: dict[str, int] = {}

    def take(self, backend: Backend, task: str, rate: Rate) -> float | None:
        """Take the next token; returns its turn in epoch seconds, None if that is too far off.

        One request, two after a pause. Raises `BackendError`.
        """
        step = max(1, round(rate.every * _UNIT))
        ahead = (rate.burst - 1) * step
        seen = self._seen.get(task)
        for _ in range(_TRIES):
            now = int(backend.clock() * _UNIT)
            farthest = now + ahead + int(FARTHEST * _UNIT)
            change = (
                _opened(now, step) if seen is None or seen < now else _next(now, farthest, step)
            )
            try:
                seen = _due(backend.update(_key(task), change))
            except ConditionFailed as error:
                seen = _due(error.current)
                if seen is not None and seen > farthest:
                    return None
                continue
            assert seen is not None
            self._seen[task] = seen
            return max(now, seen - step - ahead) / _UNIT
        return None  # only if the clocks of two machines differ by much


def has_come(turn: float | None, now: float) -> bool:
    """Say if the turn that a call was given earlier is now."""
    return turn is not None and turn - EARLY <= now <= turn + _TURN


def _key(task: str) -> Key:
    return Key(f"rate#{task}")


def _opened(now: int, step: int) -> Change:
    """Make the change that takes the first token of a full bucket."""
    return Change(
        set={"due": now + step},
        expires=now / _UNIT + _KEPT,
        when=(Check(field="due", op=Op.LT, value=now, or_absent=True),),
    )


def _next(now: int, farthest: int, step: int) -> Change:
    return Change(
        increment={"due": step},
        expires=now / _UNIT + _KEPT,
        when=(
            Check(field="due", op=Op.GE, value=now),
            Check(field="due", op=Op.LE, value=farthest),
        ),
    )


def _due(item: Item | None) -> int | None:
    found = item.fields.get("due") if item else None
    return int(found) if isinstance(found, int | float) else None
