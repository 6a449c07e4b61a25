"""Hides secret values in texts and values that quote them, in each form in which they may."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time
from enum import Enum
from functools import partial
from typing import Any, TypeGuard
from urllib.parse import quote, quote_plus
from uuid import UUID

from cloudq.driver.forks import imported
from cloudq.messages.model_classes import is_model, is_root_model, is_secret
from cloudq.text import HIDDEN, one_line, text_of

LEAST = 4
"""The fewest characters of a secret that is looked for in texts: a shorter one is in any."""
_LEAST_LINE = 8
_LONGEST = 200_000
_DEEPEST = 100
# Stands for what is deeper: nobody can write it, so that nothing of it is kept.
_TOO_DEEP = object()
# The part of the text of pydantic's errors that quotes a value, of which it leaves out the middle.
_INPUT = re.compile(r"input_value=[\s\S]{0,2000}?(?=, input_type=)")
# Stands for a quote, whose place decides how `repr` writes a text.
_MARK = "\u2400"
_NAME = re.compile(r"[^\W\d][\w .-]{0,63}")


# Of these a value is made anew; others are no plain values.
_MAKES: Mapping[Any, Callable[[list[Any]], Any]] = {
    kind: kind for kind in (dict, list, tuple, set, frozenset)
}


class Hiding:
    """Puts `***` in the place of secret values."""

    def __init__(self, values: Iterable[object]) -> None:
        leaves = [leaf for value in values for leaf in _leaves(value, 0)]
        self._leaves = [leaf for leaf in leaves if leaf != "" and leaf != b""]
        found = {form for leaf in leaves for form in _forms(leaf) if len(form) >= LEAST}
        self._forms = sorted(found - {HIDDEN}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return a text without the secrets that it quotes; those of 4 characters and more."""
        for form in self._forms:
            if len(form) <= len(text) and form in text:
                text = text.replace(form, HIDDEN)
        if self._leaves and "input_value=" in text:
            text = _INPUT.sub(f"input_value={HIDDEN}", text)
        return text

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return a value without the secrets in it, at any depth; those of any length."""
        if depth > _DEEPEST:
            return _TOO_DEEP
        if is_secret(value) or self._is_one(value):
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes | bytearray):
            shown = value.decode("latin-1")
            return value if self.text(shown) == shown else HIDDEN.encode()
        make = _MAKES.get(type(value))
        if make is dict and is_mapping(value):
            return {self.value(k, depth + 1): self.value(v, depth + 1) for k, v in value.items()}
        if make is not None and is_items(value):
            return make([self.value(item, depth + 1) for item in value])
        return value

    def _is_one(self, value: Any) -> bool:
        if value is None or isinstance(value, bool):
            return False
        return any(type(leaf) is type(value) and leaf == value for leaf in self._leaves)


def _leaves(value: Any, depth: int) -> Iterator[object]:
    """Yield the single values in a secret one. A dict's keys are names, unless they are odd."""
    if value is None or isinstance(value, bool) or depth > _DEEPEST:
        return
    inside: Iterable[Any]
    if is_secret(value):
        inside = [value.get_secret_value()]
    elif isinstance(value, Enum):
        inside = [value.value]
    elif is_mapping(value):
        odd = [k for k in value if not (isinstance(k, str) and _NAME.fullmatch(k))]
        inside = [*odd, *value.values()]
    elif is_items(value):
        inside = value
    elif (fields := fields_of(value)) is not None:
        inside = fields.values()
    else:
        yield value
        return
    for each in inside:
        yield from _leaves(each, depth + 1)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Tell whether a value has entries."""
    return type(value) is dict or (type(value) is not list and isinstance(value, Mapping))


def is_items(value: object) -> TypeGuard[Collection[Any]]:
    """Tell whether a value is a list, a tuple or a set."""
    return type(value) is list or isinstance(value, list | tuple | AbstractSet)


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a model or a dataclass by name; None for any other value."""
    if is_root_model(value):
        return {"root": value.root}
    if is_model(value):
        own: Mapping[str, Any] = imported("cloudq.messages.models").own_fields(value)
        return own
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (each.name for each in dataclasses.fields(value))
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    return None


def _forms(leaf: object) -> Iterator[str]:
    """Yield the texts as which a value may be quoted."""
    if isinstance(leaf, str):
        yield from _quoted(leaf)
        lines = leaf.split("\n") if "\n" in leaf else ()
        for line in lines:  # a traceback of a group indents each
            if len(line.strip()) >= _LEAST_LINE:
                yield from _quoted(line.strip())
    elif isinstance(leaf, bytes | bytearray):
        yield repr(bytes(leaf))[2:-1]
        yield leaf.hex()
        yield from _quoted(leaf.decode(errors="backslashreplace"))
        yield from _quoted(leaf.decode("latin-1"))
    elif isinstance(leaf, int):
        yield from (str(leaf), f"{leaf:,}", hex(leaf))
    elif isinstance(leaf, date | time):
        yield from (leaf.isoformat(), str(leaf), repr(leaf))
    elif isinstance(leaf, UUID):
        yield from (str(leaf), leaf.hex)
    else:
        said = text_of(leaf)
        if " object at 0x" not in said:
            yield said


def _quoted(text: str) -> Iterator[str]:
    yield text
    if len(text) > _LONGEST or (text.isascii() and text.isalnum()):
        return
    once = {_written(write, text) for write in _WRITES}
    yield from once
    # A text that quotes it may be quoted itself, as that of a `KeyError` is.
    yield from {_written(write, each) for each in once for write in _WRITES}


def _written(write: Callable[[str], str], text: str) -> str:
    try:
        return write(text)
    except ValueError:  # half of a pair, which is no Unicode
        return text


def _escaped(text: str, quoted: str, write: Callable[[str], str] = repr) -> str:
    """Write a text as `repr` or `ascii` does where it has this quote around it."""
    mark = write(_MARK)[1:-1]
    plain = write(text.replace("'", _MARK))[1:-1].replace(mark, "'")
    return plain.replace(quoted, f"\\{quoted}") if quoted else plain


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _json_ascii(text: str) -> str:
    return json.dumps(text)[1:-1]


_WRITES: tuple[Callable[[str], str], ...] = (
    *(partial(_escaped, quoted=mark, write=to) for mark in ("", "'", '"') for to in (repr, ascii)),
    _json,
    _json_ascii,
    one_line,
    html.escape,
    quote,
    quote_plus,
)
