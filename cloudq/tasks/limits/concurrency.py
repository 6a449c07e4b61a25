"""Concurrency limits: each running call of a key holds one of its permits, under a lease.

The permits of a key are fields of one item. A free permit is taken by a conditional write to an
absent field, so two calls can never take the same one; a refused write returns all fields. The
permit of a dead call is taken over when its lease has ended, or at once by a later delivery of the
call's message.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from cloudq.driver import Change, Check, ConditionFailed, Key, Op, Value
from cloudq.driver.log import Log
from cloudq.results.backend import Backend
from cloudq.tasks.limits.renewer import Held

log = Log("cloudq.throttling")

# The store deletes an unused item after these seconds, which is longer than any lease.
_KEPT = 7200.0
_TRIES = 10
_ABSENT = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitRequest:
    """A request for a permit: the task's id, its delivery's fence, and its delivery's name."""

    owner: str
    fence: int
    delivery: str

    @property
    def mark(self) -> str:
        """A short hash of the delivery, without spaces."""
        return hashlib.sha256(self.delivery.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPermit:
    """No permit is free; the lease that ends first is that of `owner` and ends at `until`."""

    owner: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPermit:
    """The stored form of a permit; its lease ends at `until` (epoch seconds)."""

    until: float
    fence: int
    mark: str
    owner: str

    @classmethod
    def of(cls, request: PermitRequest, until: float) -> StoredPermit:
        """Make the stored form of a permit that this request got."""
        return cls(until=until, fence=request.fence, mark=request.mark, owner=request.owner)

    def to_text(self) -> str:
        """Return the stored text: four words; only the last, the task's id, may contain spaces."""
        return f"{self.until:.3f} {self.fence} {self.mark} {self.owner}"

    @classmethod
    def from_text(cls, text: str) -> StoredPermit:
        """Read the text that `to_text` wrote. Raises `ValueError`."""
        until, fence, mark, owner = text.split(" ", 3)
        return cls(until=float(until), fence=int(fence), mark=mark, owner=owner)


class Permit(Held):
    """A permit of a key, held until `release`. Safe to use from many threads."""

    kind = "permit"

    def __init__(
        self,
        backend: Backend,
        key: Key,
        field: str,
        text: str,
        request: PermitRequest,
        lease: float,
    ) -> None:
        super().__init__(key, lease)
        self.field = field
        self.request = request
        self._backend = backend
        self._text = text  # the stored text, the end of the lease included
        self._lock = threading.Lock()
        self._released = False

    def renew(self) -> bool:
        """Renew the lease; return False if another call has taken the permit over.

        Raises `BackendError`.
        """
        with self._lock:
            if self._released:
                return False
            until = self._backend.clock() + self.lease
            text = StoredPermit.of(self.request, until).to_text()
            if not _write(self._backend, self.key, self.field, self._text, text)[0]:
                log.warning("task %s lost its permit of %s", self.request.owner, self.key.partition)
                return False
            self._text = text
            return True

    def release(self) -> None:
        """Free the permit, if it is still ours. Raises `BackendError`."""
        with self._lock:
            self._released = True
            change = Change(
                remove=frozenset({self.field}),
                keep_expires=True,
                when=(Check(field=self.field, op=Op.EQ, value=self._text),),
            )
            try:
                self._backend.update(self.key, change)
            except ConditionFailed:
                log.debug("another call has taken over the permit of %s", self.key.partition)


def permits_key(task: str, key: str) -> Key:
    """Return the key of the item that stores the permits of a concurrency key."""
    return Key(f"busy#{task}#{key}")


def acquire(
    backend: Backend,
    key: Key,
    most: int,
    request: PermitRequest,
    lease: float,
    *,
    again: bool = False,
) -> Permit | NoPermit:
    """Acquire a permit for `lease` seconds; costs one request if the first one tried is free.

    `again`: an earlier delivery may hold one, so read the permits first. Raises `BackendError`.
    """
    names = [f"h{number}" for number in range(most)]
    # Tasks start at different permits, so the first try mostly finds a free one. Copies of one
    # message start at the same permit, so the second finds that of the first.
    field, there = names[zlib.crc32(request.owner.encode()) % most], _ABSENT
    fields: Mapping[str, Value] = {}
    if again:
        found = backend.get([key])
        fields = found[key].fields if key in found else {}
        chosen = _choice(fields, names, request, backend.clock())
        if isinstance(chosen, NoPermit):
            return chosen
        field, there = chosen
    for _ in range(_TRIES):
        text = StoredPermit.of(request, backend.clock() + lease).to_text()
        written, fields = _write(backend, key, field, there, text)
        if written:
            return Permit(backend, key, field, text, request, lease)
        chosen = _choice(fields, names, request, backend.clock())
        if isinstance(chosen, NoPermit):
            return chosen
        field, there = chosen
    return NoPermit(owner="many", until=backend.clock())


def release(backend: Backend, key: Key, owner: str) -> None:
    """Free the permit of a task whose process was killed. Raises `BackendError`."""
    found = backend.get([key])
    for field, text in found[key].fields.items() if key in found else ():
        there = _permit_in(text)
        if there is not None and there.owner == owner:
            seen = Check(field=field, op=Op.EQ, value=text)
            change = Change(remove=frozenset({field}), keep_expires=True, when=(seen,))
            try:
                backend.update(key, change)
            except ConditionFailed:
                log.debug("another call has taken over the permit of %s", key.partition)


def _write(
    backend: Backend, key: Key, field: str, there: Value, text: str
) -> tuple[bool, Mapping[str, Value]]:
    """Write a field if it is unchanged; return whether it was, and the item's fields."""
    seen = (
        Check(field=field, op=Op.ABSENT)
        if there is None
        else Check(field=field, op=Op.EQ, value=there)
    )
    change = Change(set={field: text}, expires=backend.clock() + _KEPT, when=(seen,))
    try:
        return True, backend.update(key, change).fields
    except ConditionFailed as error:
        fields: Mapping[str, Value] = error.current.fields if error.current else {}
        return fields.get(field) == text, fields  # ours where the answer to the first try was lost


def _permit_in(text: Value) -> StoredPermit | None:
    """Return the permit in a field; None where there is none, or what another program wrote."""
    try:
        return StoredPermit.from_text(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _choice(
    fields: Mapping[str, Value], names: list[str], request: PermitRequest, now: float
) -> tuple[str, Value] | NoPermit:
    """Choose the field to take, and return it with its present text; `NoPermit` if none is free."""
    taken: list[NoPermit] = []
    free: list[tuple[str, Value]] = []
    for field in names:
        text = fields.get(field)
        there = _permit_in(text)
        if there is None:
            free.append((field, text))
            continue
        if there.owner == request.owner:
            # An earlier delivery took this permit. A copy of the message may still be running.
            if there.fence < request.fence or there.mark == request.mark or there.until <= now:
                return field, text
            return NoPermit(owner=there.owner, until=there.until)
        if there.until <= now:
            free.append((field, text))
        else:
            taken.append(NoPermit(owner=there.owner, until=there.until))
    return free[0] if free else min(taken, key=attrgetter("until"))
