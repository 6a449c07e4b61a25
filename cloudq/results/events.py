"""Stores events as items: one partition for each task and state, the newest first."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from cloudq.clock import Clock, real_time
from cloudq.driver import Item, Key, Value
from cloudq.driver.forks import renew_after_fork
from cloudq.driver.immutable import immutable
from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.body import decode
from cloudq.messages.json_text import json_bytes
from cloudq.messages.redaction import Redaction
from cloudq.messages.sealed_text import shown
from cloudq.results.ends_log import EndsLog
from cloudq.results.newest_first import sort_of
from cloudq.results.record import FAILED, TERMINAL, Record, State
from cloudq.results.stored import reading, typed
from cloudq.settings import Level

NAMES = "events"
"""The partition that lists the names of tasks with events, one item for each of their states."""

KEPT: Mapping[Level, frozenset[State]] = {
    Level.NONE: frozenset(),
    Level.FAILED: FAILED,
    Level.FINAL: TERMINAL,
    Level.TRACKED: TERMINAL | {State.STARTED, State.RETRY},
}
"""The states of which each level records an event."""

# An event should fit into one write unit of 1 KB, arguments and all.
_LONGEST_ERROR, _LONGEST_ARGS = 300, 300
# The item of a name is written again after this part of its life.
_REFRESHED = 0.5
_NAMED = 10_000
# Ends that are found among many others only if they lie by themselves.
_SELDOM = TERMINAL - {State.SUCCESS}


@immutable
class Event:
    """One event of one task, at `at` (epoch seconds).

    `took` is its run time in seconds. `args` is JSON text of its positional and keyword
    arguments, the beginning of it where it is long; where secrets are hidden in it, it ends like
    one that is cut.
    """

    id: str
    task: str
    state: State
    at: float
    queue: str | None = None
    worker: str | None = None
    took: float | None = None
    retries: int = 0
    error_type: str | None = None
    error: str | None = None
    args: str | None = None


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("queue", "worker", "error_type", "error", "args"), str),
    **dict.fromkeys(("at", "took"), (int, float)),
    "retries": int,
}


class History:
    """Makes the items of events. Safe to use from many threads.

    Events are kept for `expires` seconds. With `arguments` those of the calls are kept with them.
    Successes that have no event go into the log `ends`, if there is one.
    """

    def __init__(
        self,
        level: Level,
        *,
        expires: float,
        arguments: bool,
        max_body: int,
        clock: Clock = real_time,
        redaction: Redaction | None = None,
        ends: EndsLog | None = None,
    ) -> None:
        self.level = level
        self.clock = clock
        self._expires = expires
        self._arguments = arguments
        self._max_body = max_body
        self._redaction = redaction or Redaction((), {})
        self._renew()
        self._named: dict[str, float] = {}
        self._kept = KEPT[level] if ends is None else KEPT[level] | _SELDOM
        self.ends = ends
        self.told = self._kept if ends is None else self._kept | {State.SUCCESS}
        # Asked at each call; to look a state up in a set takes longer.
        self.keeps_successes = State.SUCCESS in self._kept
        self.logs_successes = ends is not None and not self.keeps_successes
        renew_after_fork(self, History._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def keeps(self, state: State | None) -> bool:
        """True if an event of this state is recorded."""
        return state in self._kept

    def items(self, record: Record, body: bytes = b"") -> list[Item]:
        """Make the items of a task in this state; `body` is the message with its arguments.

        A success that is logged with others makes one when it is their time.
        The same record gives the same key, so that a second write is none more. The first event
        of a task and state in this process comes with an item for its name.
        """
        if not self.keeps(record.state):
            if self.ends is None or record.state is not State.SUCCESS:
                return []
            due = self.ends.add([record])
            return [] if due is None else [due]
        now = self.clock()
        # A state that a later one follows has no end: STARTED has its start, RETRY neither.
        at = record.finished_at or (record.started_at if record.state is State.STARTED else None)
        ran = record.finished_at and record.started_at and record.finished_at - record.started_at
        event: dict[str, Value] = {
            "at": at or now,
            "queue": record.queue,
            "worker": record.worker,
            "took": ran,
            "retries": record.retries or None,
            "error_type": record.error_type,
            "error": record.error[:_LONGEST_ERROR] if record.error else None,
            "args": self._args(body) if body and self._arguments else None,
        }
        fields = {name: value for name, value in event.items() if value is not None}
        expires = now + self._expires
        key = key_of(record.task, record.state, at or now, record.id, record.retries)
        made = [Item(key=key, fields=fields, expires=expires)]
        name = name_of(record.task, record.state)
        if self._is_new(name, now):
            made.append(Item(key=Key(NAMES, name), fields={"at": now}, expires=expires))
        return made

    def _is_new(self, name: str, now: float) -> bool:
        with self._lock:
            if len(self._named) > _NAMED:  # senders may name tasks that nobody has
                self._named.clear()
            if now - self._named.get(name, 0.0) < self._expires * _REFRESHED:
                return False
            self._named[name] = now
            return True

    def _args(self, body: bytes) -> str | None:
        try:
            message = decode(body, limit=self._max_body)
        except DecodeError:
            return None
        if not message.args and not message.kwargs:
            return None
        try:
            shown = self._redaction.arguments(message)
            text = json_bytes(list(shown)).decode()
        except EncodeError:  # an integer, say, that JSON in Python has and orjson has not
            return None
        if len(text) > _LONGEST_ARGS:
            return f"{text[:_LONGEST_ARGS]}…"
        # Nobody may take what is hidden for arguments to call with.
        return text if shown == ([*message.args], message.kwargs) else f"{text}…"


def name_of(task: str, state: State) -> str:
    """The sort key of the item that says that a task has events of a state."""
    return f"{state.value}#{task}"


def kind_in(name: str) -> tuple[str, State | None]:
    """Return the task and the state that `name_of` named; of an older release's, the task alone."""
    state, _, task = name.partition("#")
    return (task, State(state)) if state in State.__members__ and task else (name, None)


def partition_of(task: str, state: State) -> str:
    """The partition of the events of one task in one state."""
    return f"events#{task}#{state.value}"


def key_of(task: str, state: State, at: float, id: str, retries: int) -> Key:
    """The key of one event."""
    return Key(partition_of(task, state), sort_of(at, id, retries))


def event_of(item: Item) -> Event:
    """Return the event in an item. Fields of newer releases are ignored. Raises `OddItem`."""
    task, _, state = item.key.partition.removeprefix("events#").rpartition("#")
    values = typed(item, _KINDS)
    with reading(item.key):
        id = item.key.sort.split("#", 2)[2]
        at = float(values.pop("at"))
        values |= {name: shown(values[name]) for name in ("error", "args") if name in values}
        return Event(id=id, task=task, state=State(state), at=at, **values)
