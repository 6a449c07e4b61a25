"""Stores and reads the heartbeats of workers, one item of the result store for each worker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.messages.json_text import json_text
from cloudq.results.backend import Backend

PARTITION = "workers"
"""The partition of all workers of a store, so that one query finds them."""

# A worker counts as dead after this many missed beats and some seconds for its requests.
_MISSED, _SLACK = 3, 5.0
# Seconds that the item of a dead worker stays, for an operator to see.
_KEPT = 900.0
_PAGE = 100
_LISTS = ("queues", "longest")


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


_NAMES = tuple(name for name in Heartbeat.__dataclass_fields__ if name != "hostname")


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
        done = frozenset(handled)
        change = Change(
            set=heart.to_fields(),
            remove=frozenset({"commands"}) if first else frozenset(),
            discard={} if first or not done else {"commands": done},
            expires=time.time() + max(_KEPT, _MISSED * heart.every + _SLACK),
        )
        item = self._backend.update(_key(heart.hostname), change)
        waiting = item.fields.get("commands")
        return waiting if isinstance(waiting, frozenset) else frozenset()

    def leave(self, hostname: str) -> None:
        """Delete the item of a worker that has stopped."""
        self._backend.delete([_key(hostname)])

    def all(self) -> list[Heartbeat]:
        """Return all heartbeats by name, of dead workers too. One query for each hundred."""
        found: list[Heartbeat] = []
        after: str | None = None
        while True:
            page = self._backend.query(PARTITION, after=after, limit=_PAGE)
            found += [_heartbeat_of(item) for item in page.items if "seen" in item.fields]
            after = page.next
            if after is None:
                return found

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
    """The heartbeat in an item. Fields of newer releases are ignored."""
    stored: Mapping[str, Any] = item.fields
    values = {name: stored[name] for name in _NAMES if name in stored}
    for name in _LISTS:
        values[name] = cast("list[Any]", orjson.loads(values.get(name) or "[]"))
    return Heartbeat(hostname=item.key.sort, **values)
