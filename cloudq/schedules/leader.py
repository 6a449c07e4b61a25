"""Leader election by a lease in the result store, without synchronised clocks.

The leader increments a number. Another contender takes the lead when that number has not changed
for a while by its own monotonic clock, so wall clocks may differ or be set. The leader stops by
itself before another can take over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cloudq.driver import Change, Check, Code, ConditionFailed, Item, Key, Op, Value
from cloudq.driver.log import Log
from cloudq.errors import BackendError
from cloudq.results.backend import Backend

log = Log("cloudq.schedules")

# Fractions of the lease's length. A contender first reads the last number of a dead leader up to
# `_LOOK` after it was written and then waits for `_WAIT`, which together is less than 1. The leader
# counts `_LEADS` from before its request, and that is less than the others wait.
_LOOK, _LEADS, _WAIT = 0.2, 0.65, 0.75


class LeaderLease:
    """One contender for the lead. Not to be shared by threads.

    `length` is the longest time in seconds until a running contender replaces a dead leader. A
    request is made every fifth of it: a write by the leader, a read by the others.
    """

    def __init__(
        self,
        backend: Backend,
        key: Key,
        owner: str,
        length: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._key = key
        self._owner = owner
        self._length = length
        self._clock = monotonic
        self.pause = _LOOK * length
        """Seconds between two calls of `look`."""
        self._until = -1.0  # we lead until then, if we lead
        self._seen: tuple[Value, Value] | None = None
        self._seen_at = 0.0
        self.look_at = 0.0
        """Time of the next call of `look`, by the monotonic clock."""

    @property
    def held(self) -> bool:
        """Tell whether this contender leads now."""
        return self._clock() < self._until

    def look(self) -> bool:
        """Renew the lease or take a free one; returns `held`. Raises `BackendError`."""
        began = self._clock()
        self.look_at = began + self.pause
        if self._until >= 0:
            self._renew(began)
        else:
            self._contend(began)
        return self.held

    def leave(self) -> None:
        """Give up the lead, so another takes it at its next look. Raises `BackendError`."""
        if self._until < 0:
            return
        self._until = -1.0
        mine = Check(field="owner", op=Op.EQ, value=self._owner)
        change = Change(remove=frozenset({"owner"}), keep_expires=True, when=(mine,))
        try:
            self._backend.update(self._key, change)
        except ConditionFailed:
            log.debug("another beat has taken the lead already")

    def _renew(self, began: float) -> None:
        if not self._write(began, (Check(field="owner", op=Op.EQ, value=self._owner),)):
            log.warning("%s lost the lead to another beat", self._owner)
            self._until = -1.0

    def _contend(self, began: float) -> None:
        found = self._backend.get([self._key]).get(self._key)
        state = _state(found)
        if found is not None and _is_odd(found):
            self._clear()
            return
        if state[0] is None:
            self._take(began, (Check(field="owner", op=Op.ABSENT),))
            return
        if self._seen is None:
            log.info("%s leads, and %s stands by", state[0], self._owner)
        if state != self._seen:
            self._seen, self._seen_at = state, began
        expires = self._seen_at + _WAIT * self._length
        if began >= expires:
            log.info("%s has not renewed its lease, taking the lead", state[0])
            owner = Check(field="owner", op=Op.EQ, value=state[0])
            beats = Check(field="beats", op=Op.EQ, value=state[1])
            self._take(began, (owner, beats))
        else:
            self.look_at = min(self.look_at, expires)

    def _take(self, began: float, when: tuple[Check, ...]) -> None:
        if self._write(began, when):
            log.info("%s leads", self._owner)

    def _write(self, began: float, when: tuple[Check, ...]) -> bool:
        change = Change(
            set={"owner": self._owner}, increment={"beats": 1}, keep_expires=True, when=when
        )
        try:
            self._backend.update(self._key, change)
        except ConditionFailed as refused:
            # It is ours where the answer to the first try was lost.
            if _state(refused.current)[0] != self._owner:
                return False
        except BackendError as error:
            if error.code is not Code.INVALID:
                raise
            self._clear()
            return False
        self._until = began + _LEADS * self._length
        return True

    def _clear(self) -> None:
        """Delete an item that another program has spoilt, else nobody would ever lead again.

        The next look of any contender takes the lead.
        """
        log.warning("the lease of the beats was written by another program, and is made anew")
        self._backend.delete([self._key])


def _is_odd(item: Item) -> bool:
    """Tell whether an item is no lease: its owner is a name or not there, its beats are counted."""
    owner, beats = item.fields.get("owner", ""), item.fields.get("beats", 0)
    if isinstance(beats, bool) or not isinstance(beats, int | float):
        return True
    return not (isinstance(owner, str) and math.isfinite(beats))


def _state(item: Item | None) -> tuple[Value, Value]:
    if item is None:
        return None, None
    return item.fields.get("owner"), item.fields.get("beats")
