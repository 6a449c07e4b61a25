"""Paused queues: marks in the result store that workers heed, and that whoever looks later sees."""

from __future__ import annotations

from dataclasses import dataclass

from cloudq.driver import Change, Item, Key
from cloudq.results.backend import Backend
from cloudq.results.stored import readable, typed

PARTITION = "paused"
"""The partition of all marks, so that one query finds them."""

_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A paused queue, with who paused it and when (epoch seconds)."""

    queue: str
    at: float
    by: str = ""


class QueuePauses:
    """The paused queues of one store. Every method raises `BackendError`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def all(self) -> dict[str, Pause]:
        """Return the pauses by queue. One query for each hundred."""
        found: dict[str, Pause] = {}
        after: str | None = None
        while True:
            page = self._backend.query(PARTITION, after=after, limit=_PAGE)
            found |= {pause.queue: pause for pause in readable(page.items, _pause_of)}
            after = page.next
            if after is None:
                return found

    def add(self, pause: Pause) -> Pause | None:
        """Mark a queue as paused; return the pause that was there already, which stays."""
        before = self._backend.get([_key(pause.queue)]).get(_key(pause.queue))
        if before is not None:
            return _pause_of(before)
        change = Change(set={"at": pause.at, "by": pause.by}, keep_expires=True)
        self._backend.update(_key(pause.queue), change)
        return None

    def remove(self, queue: str) -> bool:
        """Take a mark away; False where there is none."""
        was_there = _key(queue) in self._backend.get([_key(queue)])
        self._backend.delete([_key(queue)])
        return was_there


def _key(queue: str) -> Key:
    return Key(PARTITION, queue)


def _pause_of(item: Item) -> Pause:
    values = typed(item, {"at": (int, float), "by": str})
    return Pause(queue=item.key.sort, at=float(values.get("at", 0.0)), by=values.get("by", ""))
