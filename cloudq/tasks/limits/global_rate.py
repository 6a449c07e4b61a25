"""The rates that all workers and functions keep together: one token bucket a task, in the store.

The bucket is one number, the time of the next token (GCRA). Taking a token moves it on by one
step, in one request that never conflicts with another. Who is over the rate has a token all the
same: one that is due later. So a call asks once, waits for its turn as a delayed message, and
need not ask again.
"""

from __future__ import annotations

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op
from cloudq.results.backend import Backend
from cloudq.tasks.limits.rules import Rate
from cloudq.tasks.limits.worker_rate import EARLY, FARTHEST

# Whole microseconds: a float would lose them in stores that add for themselves.
_UNIT = 1_000_000
# A turn lasts this long. What was kept from it, by workers that were down say, takes another one;
# else all of them would start at once.
_TURN = 30.0
_KEPT = 3600.0
_TRIES = 10


class GlobalRates:
    """The buckets of one store. Safe to use from many threads."""

    def __init__(self) -> None:
        # Where each bucket was last seen, which says what to ask for first.
        self._seen: dict[str, int] = {}

    def take(self, backend: Backend, task: str, rate: Rate) -> float | None:
        """Take the next token: the time of its turn, epoch seconds; None if it is too far off.

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
        return None  # the clocks of two machines must differ by much


def has_come(turn: float | None, now: float) -> bool:
    """Whether a turn that was given earlier is now."""
    return turn is not None and turn - EARLY <= now <= turn + _TURN


def _key(task: str) -> Key:
    return Key(f"rate#{task}")


def _opened(now: int, step: int) -> Change:
    """The first token of a bucket that is full."""
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
