"""Concurrency limits: each running call of a key holds one of its places, under a lease.

The holders of a key are fields of one item. A free place is taken by a conditional write to an
absent field, so two calls can never take the same; a refused write returns all holders. A holder
that died is replaced when its lease has ended, or at once by a later delivery of its message.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from cloudq.driver import Change, Check, ConditionFailed, Key, Op, Value
from cloudq.errors import ServiceError
from cloudq.results.backend import Backend

log = logging.getLogger("cloudq.throttling")

# The store deletes an unused item after these seconds, which is longer than any lease.
_KEPT = 7200.0
_TRIES = 10
_ABSENT = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A task's id, the fence of its delivery, and the name of that very delivery."""

    owner: str
    fence: int
    delivery: str

    @property
    def mark(self) -> str:
        """A short hash of the delivery, without spaces."""
        return hashlib.sha256(self.delivery.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Every place is taken, one of them by `owner`; the first lease ends at `until`."""

    owner: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHolder:
    """A holder as stored in its place; its lease ends at `until` (epoch seconds)."""

    until: float
    fence: int
    mark: str
    owner: str

    @classmethod
    def of(cls, holder: Holder, until: float) -> StoredHolder:
        """Make the stored form of a holder with a lease."""
        return cls(until=until, fence=holder.fence, mark=holder.mark, owner=holder.owner)

    def to_text(self) -> str:
        """Return the stored text: four words; only the last, the task's id, may contain spaces."""
        return f"{self.until:.3f} {self.fence} {self.mark} {self.owner}"

    @classmethod
    def from_text(cls, text: str) -> StoredHolder:
        """Read the text that `to_text` wrote. Raises `ValueError`."""
        until, fence, mark, owner = text.split(" ", 3)
        return cls(until=float(until), fence=int(fence), mark=mark, owner=owner)


class Held:
    """A place held under a key until `leave`. Safe to use from many threads."""

    def __init__(
        self, backend: Backend, key: Key, place: str, text: str, holder: Holder, lease: float
    ) -> None:
        self.key = key
        self.place = place
        self.holder = holder
        self.lease = lease
        self.renew_at = 0.0  # monotonic
        self._backend = backend
        self._text = text  # the stored text, the end of the lease included
        self._lock = threading.Lock()
        self._left = False

    def renew(self) -> bool:
        """Renew the lease; False if another call has the place by now.

        Raises `BackendError`.
        """
        with self._lock:
            if self._left:
                return False
            until = self._backend.clock() + self.lease
            text = StoredHolder.of(self.holder, until).to_text()
            if not _write(self._backend, self.key, self.place, self._text, text)[0]:
                log.warning(
                    "task %s lost its place under %s", self.holder.owner, self.key.partition
                )
                return False
            self._text = text
            return True

    def leave(self) -> None:
        """Free the place, if it is still ours. Raises `BackendError`."""
        with self._lock:
            self._left = True
            change = Change(
                remove=frozenset({self.place}),
                keep_expires=True,
                when=(Check(field=self.place, op=Op.EQ, value=self._text),),
            )
            try:
                self._backend.update(self.key, change)
            except ConditionFailed:
                log.debug("the place under %s has passed on", self.key.partition)


def hold_key(task: str, key: str) -> Key:
    """Return the key of the store's item with the holders of a key."""
    return Key(f"busy#{task}#{key}")


def hold(
    backend: Backend, key: Key, most: int, holder: Holder, lease: float, *, again: bool = False
) -> Held | Busy:
    """Take a place for `lease` seconds; one request if the first one tried is free.

    `again`: an earlier delivery may hold a place, so read the holders first. Raises `BackendError`.
    """
    places = [f"h{number}" for number in range(most)]
    # Tasks start at different places, so that the first try mostly finds a free one; a copy of the
    # same message starts at the same place, and so meets this one.
    place, there = places[zlib.crc32(holder.owner.encode()) % most], _ABSENT
    fields: Mapping[str, Value] = {}
    if again:
        found = backend.get([key])
        fields = found[key].fields if key in found else {}
        chosen = _choice(fields, places, holder, backend.clock())
        if isinstance(chosen, Busy):
            return chosen
        place, there = chosen
    for _ in range(_TRIES):
        text = StoredHolder.of(holder, backend.clock() + lease).to_text()
        written, fields = _write(backend, key, place, there, text)
        if written:
            return Held(backend, key, place, text, holder, lease)
        chosen = _choice(fields, places, holder, backend.clock())
        if isinstance(chosen, Busy):
            return chosen
        place, there = chosen
    return Busy(owner="many", until=backend.clock())


def free(backend: Backend, key: Key, owner: str) -> None:
    """Free the place of a task that was stopped from outside. Raises `BackendError`."""
    found = backend.get([key])
    for place, text in found[key].fields.items() if key in found else ():
        if isinstance(text, str) and StoredHolder.from_text(text).owner == owner:
            seen = Check(field=place, op=Op.EQ, value=text)
            change = Change(remove=frozenset({place}), keep_expires=True, when=(seen,))
            try:
                backend.update(key, change)
            except ConditionFailed:
                log.debug("the place under %s has passed on", key.partition)


def _write(
    backend: Backend, key: Key, place: str, there: str | None, text: str
) -> tuple[bool, Mapping[str, Value]]:
    """Write a place if it is unchanged; returns True if it was, and the item's fields."""
    seen = (
        Check(field=place, op=Op.ABSENT)
        if there is None
        else Check(field=place, op=Op.EQ, value=there)
    )
    change = Change(set={place: text}, expires=backend.clock() + _KEPT, when=(seen,))
    try:
        return True, backend.update(key, change).fields
    except ConditionFailed as error:
        return False, error.current.fields if error.current else {}


def _choice(
    fields: Mapping[str, Value], places: list[str], holder: Holder, now: float
) -> tuple[str, str | None] | Busy:
    """Choose the place to take, with its present text; `Busy` if there is none."""
    taken: list[Busy] = []
    free: list[tuple[str, str | None]] = []
    for place in places:
        text = fields.get(place)
        if not isinstance(text, str):
            free.append((place, None))
            continue
        there = StoredHolder.from_text(text)
        if there.owner == holder.owner:
            # Ours, from before; but another copy of the same message may be running just now.
            if there.fence < holder.fence or there.mark == holder.mark or there.until <= now:
                return place, text
            return Busy(owner=there.owner, until=there.until)
        if there.until <= now:
            free.append((place, text))
        else:
            taken.append(Busy(owner=there.owner, until=there.until))
    return free[0] if free else min(taken, key=attrgetter("until"))


class Keeper:
    """Renews each lease after a third of its time, in a thread started by the first `keep`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[Held] = []
        self._woken = threading.Event()
        self._started = False

    def keep(self, held: Held) -> None:
        """Renew a lease until `drop`."""
        held.renew_at = time.monotonic() + held.lease / 3
        with self._lock:
            self._held.append(held)
            start, self._started = not self._started, True
        if start:
            threading.Thread(target=self._run, name="holds", daemon=True).start()
        self._woken.set()

    def drop(self, held: Held) -> None:
        """Stop renewing a lease."""
        with self._lock:
            if held in self._held:
                self._held.remove(held)

    def _run(self) -> None:
        while True:
            with self._lock:
                due = min((held.renew_at for held in self._held), default=None)
            self._woken.wait(None if due is None else max(0.0, due - time.monotonic()))
            self._woken.clear()
            now = time.monotonic()
            with self._lock:
                late = [held for held in self._held if held.renew_at <= now]
            for held in late:
                self._renew(held)

    def _renew(self, held: Held) -> None:
        try:
            if not held.renew():
                self.drop(held)
        except ServiceError as error:
            log.warning("the place under %s is not renewed: %s", held.key.partition, error)
        held.renew_at = time.monotonic() + held.lease / 3
