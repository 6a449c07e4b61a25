"""Stores and reads the heartbeats of workers, one item of the result store for each worker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.messages.json_text import json_text
from cloudq.results.backend import Backend
from cloudq.results.stored import OddItem, json_in, readable, typed

PARTITION = "workers"
"""The partition of all workers of a store, so that one query finds them."""

# A worker counts as dead after this many missed beats and some seconds for its requests.
_MISSED, _SLACK = 3, 5.0
# Seconds that the item of a dead worker is shown to an operator, and that its counts are kept.
_KEPT = 900.0
_COUNTED = 86_400.0
_PAGE = 100
_LISTS = ("queues", "longest")
_USAGE = "usage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A worker's state, as stored at each beat. Times are epoch seconds, durations seconds.

    `every` is the heartbeat interval. `running` and `waiting` count the tasks it has received;
    `longest` lists those that have run longest, as id, task name and start. `done` and `failed`
    count since `started`. It is kept small, since a store bills writes by the size of the item.
    """

    hostname: str
    app: str = ""
    pid: int = 0
    version: str = ""
    started: float = 0.0
    seen: float = 0.0
    every: float = 15.0
    processes: int = 0
    threads: int = 0
    queues: Sequence[str] = ()
    running: int = 0
    waiting: int = 0
    done: int = 0
    failed: int = 0
    longest: Sequence[Sequence[Any]] = field(default=())

    def alive(self, now: float) -> bool:
        """Tell whether its last beat is recent enough; clocks should agree within a few seconds."""
        return now - self.seen <= _MISSED * self.every + _SLACK

    def to_fields(self) -> dict[str, Value]:
        fields: dict[str, Any] = {name: getattr(self, name) for name in _NAMES}
        return fields | {name: json_text(list(fields[name])).decode() for name in _LISTS}


_NUMBER = (int, float)
_NAMES = tuple(name for name in Heartbeat.__dataclass_fields__ if name != "hostname")
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(_NAMES, int),
    **dict.fromkeys(("app", "version", *_LISTS), str),
    **dict.fromkeys(("started", "seen", "every"), _NUMBER),
}


class Heartbeats:
    """The items of the workers in one store. Safe to use from many threads.

    Every method raises `BackendError` when the store refuses or cannot be reached.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def beat(
        self, heart: Heartbeat, *, handled: Iterable[str] = (), first: bool = False
    ) -> frozenset[str]:
        """Store the heartbeat, remove `handled` commands, return waiting ones. One request.

        The `first` beat removes the commands for an earlier worker of the same name.
        """
        return self.exchange(heart, handled=handled, first=first)[0]

    def exchange(
        self,
        heart: Heartbeat,
        *,
        handled: Iterable[str] = (),
        first: bool = False,
        usage: bytes = b"",
    ) -> tuple[frozenset[str], bytes]:
        """Store a heartbeat as `beat` does, with the counts of the worker's requests.

        Returns waiting commands, and the counts that are stored now. The first beat leaves those
        of an earlier worker of its name, which are returned then.
        """
        done = frozenset(handled)
        counted: dict[str, Value] = {} if first or not usage else {_USAGE: usage}
        kept = _COUNTED if usage else _KEPT
        change = Change(
            set=heart.to_fields() | counted,
            remove=frozenset({"commands"}) if first else frozenset(),
            discard={} if first or not done else {"commands": done},
            expires=time.time() + max(kept, _MISSED * heart.every + _SLACK),
        )
        item = self._backend.update(_key(heart.hostname), change)
        waiting = item.fields.get("commands")
        found = item.fields.get(_USAGE)
        return (
            waiting if isinstance(waiting, frozenset) else frozenset(),
            found if isinstance(found, bytes) else b"",
        )

    def leave(self, hostname: str, usage: bytes = b"") -> None:
        """Delete the item of a worker that has stopped, all but its counts, which stay for a day.

        One request.
        """
        if not usage:
            self._backend.delete([_key(hostname)])
            return
        change = Change(
            set={_USAGE: usage},
            remove=frozenset({*_NAMES, "commands"}),
            expires=time.time() + _COUNTED,
        )
        self._backend.update(_key(hostname), change)

    def all(self) -> list[Heartbeat]:
        """Return all heartbeats by name, of dead workers too. One query for each hundred."""
        beats = [item for item in self._items() if "seen" in item.fields]
        counting = {item.key.sort for item in beats if _USAGE in item.fields}
        now = time.time()
        # Counts keep an item for longer than a dead worker is shown.
        return [
            heart
            for heart in readable(beats, _heartbeat_of)
            if heart.hostname not in counting or now - heart.seen <= _KEPT or heart.alive(now)
        ]

    def usages(self) -> list[bytes]:
        """Return the counts of the workers of the last day, as each of them wrote them."""
        found = (item.fields.get(_USAGE) for item in self._items())
        return [usage for usage in found if isinstance(usage, bytes)]

    def _items(self) -> Iterator[Item]:
        after: str | None = None
        while True:
            page = self._backend.query(PARTITION, after=after, limit=_PAGE)
            yield from page.items
            after = page.next
            if after is None:
                return

    def of(self, hostname: str) -> Heartbeat | None:
        """Return the heartbeat of a worker; None if nothing is stored of it. One request."""
        found = self._backend.get([_key(hostname)]).values()
        beats = [item for item in found if "seen" in item.fields]
        return next(iter(readable(beats, _heartbeat_of)), None)

    def alive(self) -> list[Heartbeat]:
        """Return the heartbeats of the live workers."""
        now = time.time()
        return [heart for heart in self.all() if heart.alive(now)]

    def tell(self, hostname: str, command: str) -> bool:
        """Store a command for a worker; returns False if the worker is gone."""
        change = Change(
            add={"commands": frozenset({command})},
            keep_expires=True,
            when=(Check(field="seen", op=Op.EXISTS),),
        )
        try:
            self._backend.update(_key(hostname), change)
        except ConditionFailed:
            return False
        return True


def _key(hostname: str) -> Key:
    return Key(PARTITION, hostname)


def _heartbeat_of(item: Item) -> Heartbeat:
    """The heartbeat in an item. Fields of newer releases are ignored. Raises `OddItem`."""
    values = typed(item, _KINDS)
    for name in _LISTS:
        values[name] = json_in(item, name) if values.get(name) else []
        if not isinstance(values[name], list):
            raise OddItem(item.key, f"its field {name!r} is no list")
    return Heartbeat(hostname=item.key.sort, **values)
