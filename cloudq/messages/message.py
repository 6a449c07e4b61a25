"""The task message, which is all that crosses the wire, in format version 1.

What is plainly right is taken here; pydantic's model in `cloudq.messages.model` judges all else.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, dataclass_transform

from cloudq.driver.forks import imported
from cloudq.messages.fields import (
    BOUNDS,
    END_OF_TIME,
    LONGEST_LIMIT,
    MOST,
    NAME,
    SLOT,
    Field,
    field,
)
from cloudq.messages.json_text import is_list, is_object

VERSION = 1

CELERY = "celery"

_UNSURE: Any = object()
_UNSHOWN = frozenset({"args", "kwargs", "chain", "link", "link_error"})


class _Fresh:
    """The default of a list or a dict: each message makes its own, when it is first looked at."""

    def __init__(self, name: str, declared: Field) -> None:
        self._name, self._factory = name, declared.factory

    def __get__(self, message: object, owner: type[Any]) -> Any:
        made = self._factory()
        if message is not None:
            message.__dict__[self._name] = made
        return made


def fields_of(declared: type[Any]) -> dict[str, Field]:
    """Return the fields that a class declares, in their order."""
    hints: Mapping[str, str] = declared.__annotations__
    found = {name: each for name, each in vars(declared).items() if isinstance(each, Field)}
    for name, each in found.items():
        each.kind = hints[name].removesuffix(" | None")
        each.is_optional = each.kind != hints[name]
        each.take = _taker(each.kind, each.min_length)
    return found


def plain(
    fields: Mapping[str, Field], given: Mapping[str, Any], *, copies: bool = True
) -> dict[str, Any] | None:
    """Return the fields given, as the model would; None where it has to judge them.

    With `copies` no list or dict is shared with the caller.
    """
    taken: dict[str, Any] = {}
    for name, value in given.items():
        declared = fields.get(name)
        if declared is None:
            continue
        if value is None:
            if not declared.is_optional:
                return None
            made = None
        else:
            made = declared.take(value)
            if made is _UNSURE:
                return None
        taken[name] = made
    for name in ("args", "kwargs") if copies else ():
        if name in taken:
            taken[name] = taken[name].copy()
    return taken if "id" in taken and "task" in taken else None


def _taker(kind: str, min_length: int) -> Callable[[Any], Any]:
    """Return what takes a value of a kind: it returns `_UNSURE` where the model has to judge."""
    if kind == "Time":
        return _time
    if kind in ("Name", "QueueName", "Word"):
        return partial(_name, min_length, BOUNDS[kind]["max_length"])
    return _TAKERS[kind]


def _name(least: int, most: int, value: Any) -> Any:
    if type(value) is not str or not least <= len(value) <= most:
        return _UNSURE
    if value.isascii():
        return value if value.isprintable() else _UNSURE
    return value if re.fullmatch(NAME, value) and _is_text(value) else _UNSURE


def _key(value: Any) -> Any:
    return value if type(value) is str and len(value) <= 2048 and _is_text(value) else _UNSURE


def _slot(value: Any) -> Any:
    is_slot = type(value) is str and re.fullmatch(SLOT, value)
    return value if is_slot and _is_text(value) else _UNSURE


def _is_text(value: str) -> bool:
    """Tell whether a text is Unicode: half of a pair is none."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(least: int, value: Any) -> Any:
    return value if type(value) is int and least <= value <= MOST else _UNSURE


def _time(value: Any) -> Any:
    is_number = type(value) is float or type(value) is int
    return float(value) if is_number and 0 <= value < END_OF_TIME else _UNSURE


def _limit(value: Any) -> Any:
    is_number = type(value) is float or type(value) is int
    return float(value) if is_number and 0 < value <= LONGEST_LIMIT else _UNSURE


def _switch(value: Any) -> Any:
    return value if type(value) is bool else _UNSURE


def _values(value: Any) -> Any:
    return value if is_list(value) and type(value) is list else _UNSURE


def _named(value: Any) -> Any:
    if not is_object(value) or type(value) is not dict:
        return _UNSURE
    return value if all(type(key) is str and _is_text(key) for key in value) else _UNSURE


def _headers(value: Any) -> Any:
    if not is_object(value) or type(value) is not dict or len(value) > 256:
        return _UNSURE
    for key, item in value.items():
        if _name(0, 255, key) is _UNSURE:
            return _UNSURE
        if type(item) is not str or len(item) > 16_384 or not _is_text(item):
            return _UNSURE
    return value.copy()


def _calls(value: Any) -> Any:
    if not is_list(value) or type(value) is not list:
        return _UNSURE
    made: list[Any] = []
    for each in value:
        if _named(each) is _UNSURE:
            return _UNSURE
        made.append(each.copy())
    return made


_TAKERS: Mapping[str, Callable[[Any], Any]] = {
    "Version": partial(_count, -MOST),
    "Count": partial(_count, 0),
    "Limit": _limit,
    "Key": _key,
    "SlotText": _slot,
    "Switch": _switch,
    "Values": _values,
    "Named": _named,
    "Headers": _headers,
    "Calls": _calls,
}


# The kinds of fields, by which `BOUNDS` and the model know them.
Version = Count = int
Time = Limit = float
Name = Key = QueueName = Word = SlotText = str
Switch = bool
Values = list[Any]
Named = dict[str, Any]
Headers = dict[str, str]
Calls = list[dict[str, Any]]


class WrongField(ValueError):
    """Raised for a field that no message can have: its place, and what is wrong with it."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}" if place else why)
        self.place, self.why = place, why


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def _message(declared: type[TaskMessage]) -> type[TaskMessage]:
    """Let type checkers know that the fields are given by name."""
    return declared


@_message
class TaskMessage:
    """One call of one task, as it travels. Times are epoch seconds.

    `args` and `kwargs` hold wire values (see `cloudq.messages.values.to_wire`). A key that has
    its default is not sent. Keys that this release does not know are passed over, so that a newer
    release of the same version can add some.
    """

    # The docstring is that of the published schema. Raises `WrongField`.

    __slots__ = ("__dict__", "__weakref__", "_given")

    v: Version = field(default=VERSION)
    id: Name = field(min_length=1, description="the task id, unique to the call")
    task: Name = field(min_length=1, description="the task's registered name")
    args: Values = field(default_factory=Values, description="positional arguments")
    kwargs: Named = field(default_factory=Named, description="keyword arguments")
    queue: QueueName = field(default="", description="where it was sent; retries go there too")
    sent_at: Time = field(default=0.0, description="when it was first published")
    not_before: Time | None = field(default=None, description="do not run earlier")
    expires: Time | None = field(default=None, description="do not run later")
    retries: Count = field(default=0, description="how often it was retried")
    root: Name | None = field(
        default=None, description="first task of the workflow; absent: itself"
    )
    parent: Name | None = field(default=None, description="the task that sent this one")
    group: Name | None = field(default=None, description="the group this is a member of")
    headers: Headers = field(
        default_factory=Headers, description="travels along; traceparent lives here"
    )
    time_limit: Limit | None = field(default=None, description="hard limit in seconds")
    soft_time_limit: Limit | None = field(default=None, description="soft limit in seconds")
    ignore_result: Switch | None = field(default=None, description="absent: as the task says")
    group_key: Key | None = field(default=None, description="ordering key on ordered queues")
    dedup_key: Key | None = field(default=None, description="keeps a second message out")
    idempotency_key: Key | None = field(default=None, description="runs only once per key")
    chain: Calls = field(default_factory=Calls, description="signatures to run after it")
    link: Calls = field(default_factory=Calls, description="callbacks, with its value")
    link_error: Calls = field(default_factory=Calls, description="callbacks of its failure")
    slot: SlotText | None = field(default=None, description="its place in a join, `index@join`")
    gather: Name | None = field(default=None, description="the join whose values it gets first")
    shadow: Name | None = field(default=None, description="another name for it in logs")
    depth: Count = field(default=0, description="how many tasks deep the call was made")
    replaced: Count = field(default=0, description="how often a task of this id was replaced")
    waits: Count = field(default=0, description="how often a limit has put it back")
    turn: Time | None = field(default=None, description="its turn under a global rate limit")
    continued: Count = field(default=0, description="how often it went on from a checkpoint")
    unique_key: Key | None = field(default=None, description="one of these is queued at a time")
    call: Word | None = field(default=None, description="tells calls of one given id apart")
    serializer: Word | None = field(default=None, description="absent: json")
    compression: Word | None = field(
        default=None, description="of the body, where that saves bytes"
    )
    protocol: Word | None = field(default=None, description="celery: sent in Celery's protocol 2")

    if TYPE_CHECKING:
        _given: ClassVar[frozenset[str]]  # of each message, but no field
    else:

        def __init__(self, /, **given: Any) -> None:
            fields = plain(FIELDS, given)
            _fill(self, judged(given) if fields is None else fields)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a message does not change: make a copy with another {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskMessage) and _all(self) == _all(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType, reportGeneralTypeIssues]

    def __repr__(self) -> str:
        shown = (f"{name}={self._shown(name)}" for name in FIELDS)
        return f"TaskMessage({', '.join(shown)})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        # A message does not know which of its values are secret.
        return f"<{len(value)}>" if name in _UNSHOWN and value else repr(value)

    def __reduce__(self) -> tuple[Any, ...]:
        return from_given_fields, (given_fields(self),)

    @property
    def model_fields_set(self) -> frozenset[str]:
        """The names of the fields that were given."""
        return self._given

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """Return a copy in which these fields stand, unchecked."""
        copy = type(self).__new__(type(self))
        _set(copy, "__dict__", {**self.__dict__, **update})
        _set(copy, "_given", self._given.union(update))
        return copy

    def changed(self) -> dict[str, Any]:
        """Return the fields that have not their defaults."""
        return {
            name: value
            for name, value in zip(FIELDS, _all(self), strict=True)
            if name not in DEFAULTS or value != DEFAULTS[name]
        }


FIELDS: Mapping[str, Field] = fields_of(TaskMessage)
"""The fields, each with its default, its meaning and its bounds."""
DEFAULTS: dict[str, Any] = {
    name: each.fresh() for name, each in FIELDS.items() if not each.is_required
}
"""The fields that need not be given, in their order, and what they are then."""
for _name_of, _each in FIELDS.items():  # of the class: a message is as small as its call
    if not _each.is_required:
        _makes = _each.factory is not None
        setattr(TaskMessage, _name_of, _Fresh(_name_of, _each) if _makes else _each.default)
_all = attrgetter(*FIELDS)
_set = object.__setattr__  # messages are frozen


def judged(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as the model takes them. Raises `WrongField`."""
    made: dict[str, Any] = imported("cloudq.messages.model").validated(given)
    return made


def given_fields(message: TaskMessage) -> dict[str, Any]:
    """Return the fields that a message was given, for `from_given_fields`."""
    values = message.__dict__
    return {name: values[name] for name in message.model_fields_set}


def from_given_fields(fields: dict[str, Any], given: frozenset[str] | None = None) -> TaskMessage:
    """Make a message of the fields of another, without checking them again.

    `given` are their names, from who makes many messages of the same fields.
    """
    message = TaskMessage.__new__(TaskMessage)
    if given is None:
        _fill(message, fields)
    else:
        _set(message, "__dict__", fields)
        _set(message, "_given", given)
    return message


def _fill(message: TaskMessage, fields: dict[str, Any]) -> None:
    # A message that was received is looked at: its own lists and dicts are cheaper made together.
    calls: Named = {"chain": [], "link": [], "link_error": []}
    _set(message, "__dict__", {"args": [], "kwargs": {}, "headers": {}, **calls, **fields})
    _set(message, "_given", frozenset(fields))


def from_object(fields: object) -> TaskMessage | None:
    """Make a message of what was read from JSON; None where the model has to judge it."""
    taken = plain(FIELDS, fields, copies=False) if is_object(fields) else None
    return None if taken is None else from_given_fields(taken)


def payloads_of(message: TaskMessage, *, follow: bool = False) -> Sequence[str]:
    """Return the keys of the payloads of a call; with `follow`, also of what follows its success.

    Files are not among them: other calls may have them too. Nor is what is in an argument, as the
    arguments of the failed call are in that of an error callback.
    """
    values: tuple[Any, ...] = (*message.args, *message.kwargs.values())
    given: list[Any] = [each for each in values if type(each) is dict and "$blob" in each]
    if follow:
        given += [*message.chain, *message.link]
    if not any(type(value) is dict for value in given):  # as most
        return ()
    keys: Sequence[str] = imported("cloudq.messages.payloads").keys_in(given)
    return keys


def new_id() -> str:
    """A new UUID version 7 (RFC 9562): 48 bits of milliseconds, then 74 random bits.

    Tasks published together lie together in a store: random keys would make a B-tree touch a page
    for each record. On SQLite 64 records cost two to four times as much with version 4.
    """
    stamp = f"{int(time.time() * 1000) & 0xFFFF_FFFF_FFFF:012x}"
    noise = os.urandom(10)
    text = noise.hex()
    variant = "89ab"[noise[9] & 3]
    return f"{stamp[:8]}-{stamp[8:]}-7{text[:3]}-{variant}{text[3:6]}-{text[6:18]}"
