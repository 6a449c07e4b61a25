"""The stored record of a task: its states, and how it lies in an `Item`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any

from cloudq.driver import Item, Key, Value


class State(StrEnum):
    """Where a task is. Celery's names. PENDING also means: never heard of it."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    REJECTED = "REJECTED"


_STATES: Mapping[Any, State] = {str(state): state for state in State}
TERMINAL = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED, State.REJECTED})

# A retried task is a new message whose attempts start at 1 again, so retries weigh more.
_RETRY_WEIGHT = 1 << 20


def fence(retries: int, attempts: int) -> int:
    """The fencing token of one delivery: a later delivery of the same task has a larger one."""
    return retries * _RETRY_WEIGHT + min(attempts, _RETRY_WEIGHT - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the backend knows of a task. Times are epoch seconds; `value` and `meta` JSON text.

    `error_type` is the qualified name of the exception's class, `error_args` its arguments as
    JSON text where they can be written so. `fence` is the token of the delivery that wrote it.
    `parent` is the task that started it, `join` the join whose values it got, and `children` the
    ids of what it has started, as JSON text (see `cloudq.canvas.plan.Outline`).
    `scheduled` is the queue and the handle of a delayed message, by which it can be taken back.
    `custom` is the task's own name of the state that it is in while it runs.
    """

    id: str
    state: State
    task: str = ""
    value: str | None = None
    error_type: str | None = None
    error: str | None = None
    error_args: str | None = None
    traceback: str | None = None
    meta: str | None = None
    retries: int = 0
    fence: int = 0
    queue: str | None = None
    worker: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    revoked: bool = False
    dead_lettered: bool = False
    scheduled: str | None = None
    custom: str | None = None
    parent: str | None = None
    join: str | None = None
    children: str | None = None

    @property
    def shown(self) -> str:
        """The state as the caller sees it: the task's own name for it, if it gave one."""
        return self.custom or self.state

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL


_NAMES = tuple(field.name for field in fields(Record) if field.name != "id")
_DEFAULTS = tuple(field.default for field in fields(Record) if field.name != "id")
RECORD_FIELDS = frozenset(_NAMES)
_values = attrgetter(*_NAMES)


def key(task_id: str) -> Key:
    """Where the record of a task lies."""
    return Key(f"task#{task_id}")


def to_fields(record: Record) -> dict[str, Value]:
    """A record's fields as stored: those that have their default are left out."""
    stored = {
        name: value
        for name, value, default in zip(_NAMES, _values(record), _DEFAULTS, strict=True)
        if value != default
    }
    # A store compares values of one type, and an enum is a type of its own.
    stored["state"] = record.state.value
    return stored


def to_item(record: Record, expires: float | None) -> Item:
    return Item(key=key(record.id), fields=to_fields(record), expires=expires)


def from_item(item: Item) -> Record:
    """The record in an item. Fields of newer releases are passed over."""
    return from_fields(item.key.partition.removeprefix("task#"), item.fields)


def from_fields(task_id: str, fields: Mapping[str, Any]) -> Record:
    """The record of a task that has these fields stored, as `from_item`."""
    if fields.keys() <= RECORD_FIELDS:
        values = {**fields}
    else:
        values = {name: value for name, value in fields.items() if name in RECORD_FIELDS}
    values["state"] = _STATES.get(values.get("state"), State.PENDING)
    return Record(id=task_id, **values)
