"""Reads and sets what the interpreter's exceptions keep beside their arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAP_TYPE = 1 << 9
# A record has room for the bytes of a text of so many characters.
_LONGEST_CODED = 4000
# What these keep beside their arguments, outside of their dictionary.
_FIELDS: Mapping[type[Any], Sequence[str]] = {
    ImportError: ("name", "path"),
    NameError: ("name",),
    AttributeError: ("name",),
}


class Shown(str):
    """A text that is shown as it is, also by a `KeyError`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def is_written(kind: type) -> bool:
    """Tell whether a class is written in Python: it is no type of the interpreter's."""
    return bool(kind.__flags__ & _HEAP_TYPE)


def builtin_of(kind: type[Exception]) -> type:
    """Return the nearest class of the interpreter that an exception is of."""
    return next(each for each in kind.__mro__ if not is_written(each))


def coded(error: Any, whole: Any) -> object:
    """Return what a codec was given so that it can be stored, if need be up to the fault alone.

    A text becomes bytes, of which `decoded` makes it again: JSON has no lone surrogates.
    """
    part = whole if len(whole) <= _LONGEST_CODED else whole[: error.end]
    return part.encode(errors="surrogatepass") if isinstance(part, str) else part


def decoded(arg: Any) -> Any:
    """Return the text that `coded` made bytes of; anything else as it is."""
    return arg.decode(errors="surrogatepass") if type(arg) is bytes else arg


def own_fields(error: BaseException) -> dict[str, str]:
    """Return the texts that an exception keeps beside its arguments, by name."""
    found = {name: vars(kind)[name].__get__(error) for kind, name in _fields_of(error)}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def put_attributes(error: Exception, attributes: Mapping[str, Any]) -> None:
    """Give an exception its attributes, with no method or property of its class being run."""
    vars(error).update(attributes)
    for kind, name in _fields_of(error):
        if isinstance(attributes.get(name), str):
            vars(kind)[name].__set__(error, vars(error).pop(name))


def _fields_of(error: BaseException) -> list[tuple[type[Any], str]]:
    return [(kind, each) for kind in _FIELDS if isinstance(error, kind) for each in _FIELDS[kind]]
