"""Bundles: many calls in one message, format version 3.

`{"v":3,"id":..,"all":{..},"calls":[{"n":0,..},..]}`: `all` has the fields that all calls share,
each call the others, and in `n` its place. The id of a call is that of the bundle and its place
(see `cloudq.messages.ids`); `v` and `id` of the calls are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from cloudq.driver.forks import imported
from cloudq.driver.immutable import immutable
from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.body import at_fault, fields_to_send, unknown_version, writable
from cloudq.messages.ids import MOST_OF_A_BUNDLE, bundled_id, is_bundle
from cloudq.messages.json_text import (
    MAX_LEVELS,
    check_levels,
    has_unusual,
    is_list,
    is_object,
    json_bytes,
)
from cloudq.messages.message import (
    DEFAULTS,
    VERSION,
    TaskMessage,
    WrongField,
    given_fields,
)
from cloudq.messages.plain_calls import PlainCalls, changeable, copied, plain_row
from cloudq.messages.size import check_text, check_written
from cloudq.messages.values import check_depth, plain_numbers

BUNDLE_VERSION = 3
START = b'{"v":3,'
"""The start of the body of a bundle."""

# Levels of the calls that follow one: within a bundle there is room for no more of them.
_DEEPEST = MAX_LEVELS - 6
# Fields in which calls that are sent together hardly differ, so that all get those of the first.
_OF_THE_FIRST = ("sent_at",)


@immutable
class Unread:
    """A call of a bundle that cannot be read: its body as a message of its own, and the reason."""

    body: bytes
    reason: str


@immutable
class Bundle:
    """The calls of a message, in their order; those that cannot be read are `Unread`.

    They are `PlainCalls` where they differ in nothing but plain arguments.
    """

    name: str
    calls: Sequence[TaskMessage | Unread]


def write_bundle(messages: Sequence[TaskMessage]) -> bytes:
    """Write calls of one bundle as the body of a message. Raises `EncodeError`."""
    rows = [fields_to_send(message) for message in messages]
    shared = {
        name: value
        for name, value in rows[0].items()
        if name in _OF_THE_FIRST or [row.get(name) for row in rows].count(value) == len(rows)
    }
    name = messages[0].id[: -len("0000")]
    assert is_bundle(name), "calls of no bundle"
    calls: list[dict[str, object]] = []
    for message, row in zip(messages, rows, strict=True):
        for same in shared:
            row.pop(same, None)
        calls.append({"n": int(message.id[len(name) :], 16), **row})
    body = json_bytes({"v": BUNDLE_VERSION, "id": name, "all": shared, "calls": calls})
    check_written(body)
    return body


def read_bundle(body: bytes, *, limit: int) -> Bundle:
    """Read a body of at most `limit` bytes.

    Raises `DecodeError` with the reason for which the message is dead-lettered as a whole.
    """
    if len(body) > limit:
        raise DecodeError(f"oversized: {len(body):,} bytes, this app accepts {limit:,}")
    check_text(body)
    unusual = has_unusual(body)
    try:
        # orjson makes floats of large whole numbers; the other parser is slower.
        fields: object = (
            imported("pydantic_core").from_json(body) if unusual else orjson.loads(body)
        )
    except ValueError as error:
        raise DecodeError(f"undecodable: {error}") from error
    if not is_object(fields) or type(fields.get("v")) is not int:
        raise DecodeError("foreign message: no cloudq version in it")
    if fields["v"] != BUNDLE_VERSION:
        raise DecodeError(unknown_version(fields["v"]))
    name, shared, calls = fields.get("id"), fields.get("all", {}), fields.get("calls")
    if not isinstance(name, str) or not is_bundle(name):
        raise DecodeError("undecodable: id: not the name of a bundle")
    if not is_object(shared) or not is_list(calls) or not calls:
        raise DecodeError("undecodable: a bundle needs an object in all, and calls")
    if len(calls) > MOST_OF_A_BUNDLE:
        raise DecodeError(
            f"oversized: a bundle of {len(calls):,} calls, at most {MOST_OF_A_BUNDLE:,} are read"
        )
    reader = _Reader(name, shared, unusual=unusual)
    if not unusual and (plain := reader.plain_calls(calls)):
        return Bundle(name=name, calls=plain)
    return Bundle(name=name, calls=[reader.call(call) for call in calls])


class _Reader:
    """Reads the calls of one bundle. What they share is checked with the first, and not again."""

    def __init__(self, name: str, shared: dict[str, Any], *, unusual: bool) -> None:
        self._name = name
        self._shared = shared
        self._unusual = unusual
        self._places: set[int] = set()
        self._checked: dict[str, Any] | None = None

    def call(self, call: object) -> TaskMessage | Unread:
        """Read the next call."""
        if not is_object(call):
            return _unread(call, "undecodable: a call that is no object")
        number = call.get("n")
        if type(number) is not int or not 0 <= number < 1 << 16 or number in self._places:
            return _unread(call, "undecodable: n: not a place of its own in the bundle")
        self._places.add(number)
        if self._checked is not None and (plain := self._plain(self._checked, call)):
            return plain
        own = {key: value for key, value in call.items() if key != "n"}
        own["id"] = bundled_id(self._name, number)
        fields = {**self._shared, **own, "v": VERSION}
        try:
            return self._message(own, fields)
        except WrongField as error:
            reason = at_fault(error)
        except DecodeError as error:
            reason = str(error)
        return _unread(fields, reason)

    def plain_calls(self, calls: Sequence[object]) -> PlainCalls | None:
        """Read calls that have nothing but plain arguments of their own, all of them or none."""
        rows = [row for call in calls if (row := plain_row(call)) is not None]
        if len(rows) < len(calls) or len({row[0] for row in rows}) < len(rows):
            return None
        self.call(calls[0])
        self._places.clear()
        return None if self._checked is None else PlainCalls(self._name, self._checked, rows)

    def _plain(self, checked: dict[str, Any], call: object) -> TaskMessage | None:
        """Read a call that has nothing but arguments of its own."""
        row = plain_row(call)
        if row is None:
            return None
        plain = PlainCalls(self._name, checked, [row])[0]
        return writable(plain) if self._unusual else plain

    def _message(self, own: dict[str, Any], fields: dict[str, Any]) -> TaskMessage:
        message = TaskMessage(**fields)
        for given in (message.args, message.kwargs):
            if given:
                check_depth(given)
        for calls in (message.chain, message.link, message.link_error):
            if calls:
                # Deeper ones could be sent on in no message, and be put among no dead letters.
                check_depth(calls, _DEEPEST, what="the calls that follow it")
        takes_all = self._shared.keys().isdisjoint(own.keys() - {"id"})
        if self._checked is None and takes_all and own.keys() <= _PLAIN:
            self._share(message, own)
        return writable(message) if self._unusual else message

    def _share(self, message: TaskMessage, own: dict[str, Any]) -> None:
        """Keep what the other calls need not have checked; a list or object is copied for each."""
        given = given_fields(message)
        shared = {key: given[key] for key in given if key not in own}
        if _COPIED.issuperset(changeable(shared)):
            self._checked = {key: copied(value) for key, value in shared.items()}


_PLAIN = frozenset({"id", "args", "kwargs"})
# What a task may change must not be its neighbours' too. What follows a call is checked each time.
_COPIED = frozenset({"args", "kwargs", "headers"})


def _unread(call: object, reason: str) -> Unread:
    """Write a call as the body of a message of its own, which cannot be read either.

    A field that no body has room for has in its place why it is left out. No reader takes that
    for the field, so that a call is never run without some of its arguments.
    """
    try:
        return Unread(body=_written(call), reason=reason)
    except EncodeError:
        fields = call if is_object(call) else {}
    kept: dict[str, object] = {} if is_object(call) else {"unread": reason}
    for name, value in fields.items():
        try:
            _written({name: value})
            kept[name] = value
        except EncodeError as error:
            text = f"left out: {error}"
            kept[name] = text if isinstance(DEFAULTS.get(name), list | dict) else [text]
    return Unread(body=_written(kept), reason=reason)


def _written(value: object) -> bytes:
    """Write read JSON again. Raises `EncodeError`."""
    check_levels(value)  # before what recurses
    return json_bytes(plain_numbers(value))
