"""Reads what an exception is made of: its constructor's arguments, and its attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudq.driver.ends import Died
from cloudq.messages.values import TupleValue, dump_value, load_value
from cloudq.results.builtin_errors import coded, is_written, own_fields
from cloudq.tasks.came_back import came_back
from cloudq.tasks.secrecy import hidden_value

# With the other texts of an error, in bytes, less than an item of DynamoDB may have.
_LARGEST = 12_000
_MOST = 100
_NOTES = "__notes__"


def made_of(error: BaseException) -> Sequence[object]:
    """Return the arguments that make the exception again: of its own `__reduce__`, else `args`."""
    own = _own_reduction(error)
    if own is not None:
        return own[0]
    # An OSError takes its file names as arguments and does not keep them as such.
    if isinstance(error, OSError) and error.filename is not None:
        if len(error.args) == 2:
            named = (*error.args, error.filename)
            return named if error.filename2 is None else (*named, None, error.filename2)
        if isinstance(error.filename, str):  # a class with a constructor of its own
            return (*error.args, error.filename)
    if isinstance(error, UnicodeError):
        whole: object = getattr(error, "object", error)
        return [coded(error, arg) if arg is whole else arg for arg in error.args]
    return error.args


Members = Sequence[Mapping[str, str | None]]


def with_tuples(value: Any) -> Any:
    """Return a value in which tuples stay tuples when it is written: their text has them."""
    if issubclass(type(value), list):
        return [with_tuples(item) for item in value]
    if issubclass(type(value), dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return TupleValue(map(with_tuples, value)) if issubclass(type(value), tuple) else value


def state_text(error: BaseException, members: Members | None = None) -> str | None:
    """Write an exception's attributes and notes as JSON text; None where it has none.

    What is no plain value, or would not come back as it was, is left out, as is what would make
    the text longer than its bound; `whole` says that nothing was. `members` are those of a group.
    """
    try:
        return _state_text(error, _state(error), members)
    except Died:
        raise
    except BaseException:  # methods of the user's own classes run in here
        return None


def _state_text(
    error: BaseException, state: Mapping[str, Any], members: Members | None
) -> str | None:
    if not state and members is None and not _has_own("__init__", type(error)):
        return None
    kept: dict[str, Any] = {}
    left: float = _LARGEST
    group: dict[str, Any] = {}
    if members is not None:
        group = {"message": hidden_value(getattr(error, "message", "")), "members": members}
        left -= _size("", group)
        group, left = (group, left) if left >= 0 else ({}, _LARGEST)
    for name, value in list(state.items())[:_MOST]:
        size = _size(name, value)
        if size <= left:
            kept[name] = value
            left -= size
    written = with_tuples(kept)
    return dump_value({"attributes": written, "whole": len(kept) == len(state), **group})


def _size(name: object, value: Any) -> float:
    """Return the bytes of an attribute as it is written; infinity for one that cannot be."""
    if not isinstance(name, str):
        return float("inf")
    try:
        text = dump_value({name: with_tuples(value)})
        return len(text.encode()) if came_back({name: value}, load_value(text)) else float("inf")
    except Died:
        raise
    except BaseException:  # of the user's own objects
        return float("inf")


def _state(error: BaseException) -> Mapping[str, Any]:
    """Return the attributes that the class gives to be kept, as `pickle` would."""
    own = _own_reduction(error)
    getter = getattr(type(error), "__getstate__", None)
    notes = vars(error).get(_NOTES)
    if own is not None:
        state: Any = own[1]
    elif getter is not None and getter is not getattr(object, "__getstate__", None):
        state = getter(error)
    else:
        state = vars(error)
    found: dict[str, Any] = dict(state) if issubclass(type(state), dict) else {}
    found |= own_fields(error)
    found.pop(_NOTES, None)
    return hidden_value({**found, _NOTES: list(notes)} if notes else found)


def _own_reduction(error: BaseException) -> tuple[Sequence[object], object] | None:
    """Return the arguments and the state of a `__reduce__` that makes its class; None without."""
    kind = type(error)
    # Classes of C reduce themselves to what their `args` say.
    if not _has_own("__reduce__", kind):
        return None
    try:
        reduced: Any = error.__reduce__()
    except Died:
        raise
    except BaseException:  # of the user's own
        return None
    if not issubclass(type(reduced), tuple):
        return None
    maker, args, *state = reduced
    if maker is not kind or not issubclass(type(args), tuple):
        return None
    return args, state[0] if state else None


def _has_own(method: str, kind: type) -> bool:
    """Tell whether a class written in Python has a method: it is no type of the interpreter's."""
    return any(method in vars(each) for each in kind.__mro__ if is_written(each))
