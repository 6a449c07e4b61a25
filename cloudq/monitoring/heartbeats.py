"""The workers of a store: one item each, written by its heartbeat, read by whoever looks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.results.backend import Backend

PARTITION = "workers"
"""All workers of a store lie together, so that one query finds them."""

# A worker is taken for dead when it has missed so many beats, and some time for its requests.
_MISSED, _SLACK = 3, 5.0
# The item of a worker that died stays for an operator to see.
_KEPT = 900.0
_PAGE = 100
_LISTS = ("queues", "longest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a worker says of itself at each beat. Times are epoch seconds, spans seconds.

    `every` is the pause between two beats. `running` and `waiting` count the tasks in its hands;
    `longest` are a few that have run longest, as id, task name and start. `done` and `failed`
    count since `started`. It is small: a store bills writes by the size of the item.
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
        """Whether it has been heard of in time; the clocks should agree within a few seconds."""
        return now - self.seen <= _MISSED * self.every + _SLACK

    def to_fields(self) -> dict[str, Value]:
        fields: dict[str, Any] = {name: getattr(self, name) for name in _NAMES}
        return fields | {name: orjson.dumps(list(fields[name])).decode() for name in _LISTS}


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
        """Write the heart and take the `handled` commands away; those that wait. One request.

        The `first` beat takes away what was meant for an earlier worker of the same name.
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
        """Take a worker that has stopped off the roster."""
        self._backend.delete([_key(hostname)])

    def hearts(self) -> list[Heartbeat]:
        """All workers that were heard of of late, also dead ones, by name. One query a hundred."""
        found: list[Heartbeat] = []
        after: str | None = None
        while True:
            page = self._backend.query(PARTITION, after=after, limit=_PAGE)
            found += [_heartbeat_of(item) for item in page.items if "seen" in item.fields]
            after = page.next
            if after is None:
                return found

    def alive(self) -> list[Heartbeat]:
        """The workers that live."""
        now = time.time()
        return [heart for heart in self.hearts() if heart.alive(now)]

    def tell(self, hostname: str, command: str) -> bool:
        """Leave a command for a worker; False when there is no such worker any more."""
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
    """The heart in an item. Fields of newer releases are passed over."""
    stored: Mapping[str, Any] = item.fields
    values = {name: stored[name] for name in _NAMES if name in stored}
    for name in _LISTS:
        values[name] = cast("list[Any]", orjson.loads(values.get(name) or "[]"))
    return Heartbeat(hostname=item.key.sort, **values)
