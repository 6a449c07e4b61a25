"""The stored record of a task: its states, its failure, and its form in the store."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any

from cloudq.driver import Item, Key, Value
from cloudq.driver.immutable import immutable
from cloudq.errors import InvalidArguments, TaskFailure, TaskRevoked
from cloudq.messages.sealed_text import shown
from cloudq.messages.values import dump_value, load_value
from cloudq.results.builtin_errors import Shown, builtin_of, decoded, put_attributes


class State(StrEnum):
    """The state of a task, by Celery's names. An unknown task is PENDING too."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    REJECTED = "REJECTED"


_STATES: Mapping[Any, State] = {str(state): state for state in State}
TERMINAL = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED, State.REJECTED})
"""The states that end a task."""
FAILED = frozenset({State.FAILURE, State.REJECTED})
"""The ends that a log and a trace show as errors."""

# A retried task is a new message whose attempts start at 1 again, so retries weigh more.
_RETRY_WEIGHT = 1 << 20


def fence(retries: int, attempts: int) -> int:
    """The fencing token of one delivery: a later delivery of the same task has a larger one."""
    return retries * _RETRY_WEIGHT + min(attempts, _RETRY_WEIGHT - 1)


def is_same_try(one: int, other: int) -> bool:
    """Tell whether two fences are those of deliveries of one try."""
    return one // _RETRY_WEIGHT == other // _RETRY_WEIGHT


@immutable
class DelayedMessage:
    """A delayed message: its queue, and the handle that cancels it."""

    queue: str
    handle: str

    def to_text(self) -> str:
        """The stored form, which has the queue before the first space."""
        return f"{self.queue} {self.handle}"

    @classmethod
    def from_text(cls, text: str) -> DelayedMessage:
        """The delayed message that `to_text` wrote."""
        queue, _, handle = text.partition(" ")
        return cls(queue=queue, handle=handle)


@immutable
class Record:
    """The stored record of a task. Times are epoch seconds; `value` and `meta` JSON text.

    `error_type` is the qualified name of the exception's class, `error_args` its arguments as
    JSON text where they can be written so, `error_state` its attributes. `fence` is the token of
    the delivery that wrote it.
    `parent` is the task that started it, `join` the join whose values it got, and `children` the
    ids of what it has started, as JSON text (see `cloudq.canvas.plan.Outline`).
    `scheduled` is its message while that is delayed. `custom` is the task's own name of the state
    that it is in while it runs. `call` is the mark of the call that wrote it, where the caller
    gave the id (see `cloudq.results.call_marks`).
    """

    id: str
    state: State
    task: str = ""
    value: str | None = None
    error_type: str | None = None
    error: str | None = None
    error_args: str | None = None
    error_state: str | None = None
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
    scheduled: DelayedMessage | None = None
    custom: str | None = None
    parent: str | None = None
    join: str | None = None
    children: str | None = None
    call: str | None = None

    @property
    def shown(self) -> str:
        """The state that the caller sees: the task's own name for it, if it gave one."""
        return self.custom or self.state

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL


_NAMES = tuple(field.name for field in fields(Record) if field.name != "id")
_DEFAULTS = tuple(field.default for field in fields(Record) if field.name != "id")
RECORD_FIELDS = frozenset(_NAMES)
_TEXTS = ("error", "traceback")
_TIMES = ("started_at", "finished_at")
_LATEST = 253_402_214_400  # 9999-12-31, which has a time in every zone
_KINDS: Mapping[str, frozenset[type]] = {
    **dict.fromkeys(_NAMES, frozenset({type(None), str})),
    **dict.fromkeys(("retries", "fence"), frozenset({int})),
    **dict.fromkeys(("started_at", "finished_at"), frozenset({type(None), int, float})),
    **dict.fromkeys(("revoked", "dead_lettered"), frozenset({bool})),
}
"""The types that the fields have in a store."""
_NO_KINDS: frozenset[type] = frozenset()
_values = attrgetter(*_NAMES)
# The fields that most records have, and the others.
_USUAL = ("state", "task", "value", "retries", "fence", "queue", "worker")
_SELDOM = tuple(name for name in _NAMES if name not in (*_USUAL, *_TIMES))
_seldom = attrgetter(*_SELDOM)
_NO_SELDOM = tuple(_DEFAULTS[_NAMES.index(name)] for name in _SELDOM)


def key(task_id: str) -> Key:
    """The key of a task's record in the store."""
    return Key(f"task#{task_id}")


def to_fields(record: Record) -> dict[str, Value]:
    """A record's fields as they are stored: a field that has its default is left out."""
    if _seldom(record) == _NO_SELDOM:
        return _usual_fields(record)
    stored = {
        name: value
        for name, value, default in zip(_NAMES, _values(record), _DEFAULTS, strict=True)
        if value is not default and value != default
    }
    # A store compares values of one type, and an enum is a type of its own.
    stored["state"] = str(record.state)
    if record.scheduled is not None:
        stored["scheduled"] = record.scheduled.to_text()
    return stored


def _usual_fields(record: Record) -> dict[str, Value]:
    """Do as `to_fields` for a record that has none but the usual fields, as most have."""
    stored: dict[str, Value] = {"state": str(record.state)}
    if record.task:
        stored["task"] = record.task
    if record.value is not None:
        stored["value"] = record.value
    if record.retries:
        stored["retries"] = record.retries
    if record.fence:
        stored["fence"] = record.fence
    if record.queue is not None:
        stored["queue"] = record.queue
    if record.worker is not None:
        stored["worker"] = record.worker
    if record.started_at is not None:
        stored["started_at"] = record.started_at
    if record.finished_at is not None:
        stored["finished_at"] = record.finished_at
    return stored


def to_item(record: Record, expires: float | None) -> Item:
    return Item(key=key(record.id), fields=to_fields(record), expires=expires)


def from_item(item: Item) -> Record:
    """Return the record in an item. Fields of newer releases, or of no fit type, are ignored."""
    return from_usable(item.key.partition.removeprefix("task#"), usable(item.fields))


def usable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that have a fit type."""
    return {
        name: value for name, value in fields.items() if type(value) in _KINDS.get(name, _NO_KINDS)
    }


def from_fields(task_id: str, fields: Mapping[str, Any]) -> Record:
    """The record of a task that has these fields stored, as `from_item`."""
    if fields.keys() <= RECORD_FIELDS:
        return from_usable(task_id, {**fields})
    return from_usable(task_id, {k: v for k, v in fields.items() if k in RECORD_FIELDS})


def from_usable(task_id: str, values: dict[str, Any]) -> Record:
    """The record of a task that has these fields stored, as `usable` returns them."""
    if values.get("error") is not None:
        values |= {name: shown(values[name]) for name in _TEXTS if values.get(name)}
    values["state"] = _STATES.get(values.get("state"), State.PENDING)
    for name in _TIMES:
        time = values.get(name)
        if time is not None and not (isinstance(time, int | float) and 0 <= time < _LATEST):
            del values[name]  # nor could it be shown: it is no number, or beyond the year 9999
    if values.get("scheduled") is not None:
        values["scheduled"] = DelayedMessage.from_text(str(values["scheduled"]))
    return Record(id=task_id, **values)


# ---- the states that a running task gives itself

_INSTEAD = {
    State.SUCCESS: "return a value",
    State.FAILURE: "raise an exception",
    State.REJECTED: "raise Reject",
    State.REVOKED: "revoke its result",
}


def own_state(task_id: str, fence: int, state: str, meta: Any, call: str | None = None) -> Record:
    """Make the record of a running task in a state that it gives itself, say `"PROGRESS"`.

    Raises `InvalidArguments` for a state that ends a task, and `EncodeError` for metadata that
    is not plain data.
    """
    if not state:
        raise InvalidArguments("update_state: state is empty: name one, such as PROGRESS")
    if state in TERMINAL:
        raise InvalidArguments(
            f"update_state: {state} ends a task and is final: {_INSTEAD[State(state)]} instead"
        )
    known = state in State.__members__
    return Record(
        id=task_id,
        state=State(state) if known else State.STARTED,
        custom=None if known else state,
        meta=None if meta is None else dump_value(meta),
        fence=fence,
        call=call,
    )


IGNORED = "ignored by the task"
"""The reason of a call whose task raised `Ignore`."""


def as_ignored(record: Record) -> Record:
    """Return the end that what follows an ignored call gets; the call itself has none."""
    return replace(record, state=State.FAILURE, error_type="cloudq.errors.Ignore", error=IGNORED)


# ---- the exception of a task that failed


def failure(record: Record) -> BaseException:
    """Make the exception of a task that did not succeed, in its own class where that is known.

    Only builtins and modules that are imported already are looked at: a stored name must not be
    able to import code.
    """
    if record.state in (State.REVOKED, State.REJECTED):
        return TaskRevoked(record.error or f"task {record.id} was {record.state.lower()}")
    name = record.error_type or ""
    kind = _known_class(name)
    if isinstance(kind, type) and issubclass(kind, Exception):
        error = _made(kind, record)
        if error is None:
            return _foreign(record, name)
        if record.traceback:
            error.add_note(f"raised in the worker:\n{record.traceback}")
        return error
    return _foreign(record, name)


def _made(kind: type[Exception], record: Record) -> Exception | None:
    """Make an exception as it was raised; None where its class does not allow that.

    A class may make its text of other arguments than those that it keeps. Then its constructor
    would make a text of the text, and is left out; its attributes are those that are stored.
    """
    text = record.error
    attributes, whole = _attributes(record)
    try:
        args: Sequence[Any] = [text]
        if record.error_args:
            args = _plain_tuples(load_value(record.error_args))
        if _is_group(kind):
            args = _group_args(record)
        if issubclass(kind, UnicodeEncodeError | UnicodeTranslateError):
            args = [decoded(arg) for arg in args]
    except Exception:  # another program wrote them
        return None
    try:
        error = kind(*args)
        put_attributes(error, attributes)
        if _says(error, text):
            return error
    except Exception:  # a constructor of the user's own, with a signature of its own
        if not whole:
            return None
    base: Any = builtin_of(kind)
    try:
        error = kind.__new__(kind, *args)
        base.__init__(error, *args)  # its fields have what its text is made of
        put_attributes(error, attributes)
        if _says(error, text):
            return error
        # Its arguments could not be stored: a key that is an object, say.
        error = base(Shown(text)) if kind is base else None
        return error if error is not None and _says(error, text) else None
    except Exception:  # its text needs what its constructor sets
        return None


def _plain_tuples(value: Any) -> Any:
    if issubclass(type(value), tuple):
        return tuple(map(_plain_tuples, value))
    if issubclass(type(value), list):
        return [_plain_tuples(item) for item in value]
    if issubclass(type(value), dict):
        return {key: _plain_tuples(item) for key, item in value.items()}
    return value


_OF_ERROR = ("error_type", "error", "error_args", "error_state")


def _is_group(kind: type[Exception]) -> bool:
    return issubclass(kind, ExceptionGroup)


def _group_args(record: Record) -> Sequence[Any]:
    """Return what makes an exception group: its message, and its exceptions."""
    state: Any = load_value(str(record.error_state))
    members: list[BaseException] = []
    for member in state["members"]:
        texts = {name: member.get(name) for name in _OF_ERROR}
        fields = {name: text for name, text in texts.items() if isinstance(text, str)}
        members.append(failure(from_fields(record.id, {**fields, "state": "FAILURE"})))
    return [state["message"], members]


def _attributes(record: Record) -> tuple[dict[str, Any], bool]:
    """Return the stored attributes of an exception, and whether it had no others.

    They are put into its dictionary, so that no method or property of its class runs.
    """
    try:
        state: Any = _plain_tuples(load_value(record.error_state or "{}"))
        found: Any = state.get("attributes", {})
        notes = found.pop("__notes__", None)
        attributes = {name: value for name, value in found.items() if isinstance(name, str)}
        if issubclass(type(notes), list):
            attributes["__notes__"] = [note for note in notes if isinstance(note, str)]
        return attributes, state.get("whole") is True
    except Exception:  # another program wrote it
        return {}, False


def _says(error: Exception, text: str | None) -> bool:
    """Tell whether this is an exception's text, as long as a record may have it."""
    if text is None:
        return True
    return str(error).encode(errors="backslashreplace").decode()[: len(text)] == text


def _known_class(name: str) -> object:
    """Return the object of a qualified name, nested ones too, if its module is imported."""
    parts = name.split(".")
    for length in range(len(parts) - 1, -1, -1):
        owner: object = sys.modules.get(".".join(parts[:length])) if length else builtins
        if owner is not None:
            for part in parts[length:]:
                owner = getattr(owner, part, None)
            return owner
    return None


def _foreign(record: Record, name: str) -> TaskFailure:
    return TaskFailure(record.error or "", type=name, traceback=record.traceback or "")
