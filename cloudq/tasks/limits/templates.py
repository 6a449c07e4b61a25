"""Fills the templates of keys, `"user:{user_id}"`, so that equal arguments give one text."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

from cloudq.errors import InvalidArguments
from cloudq.messages.canonical import canonical, clock_text
from cloudq.messages.model_classes import is_model, is_secret, model_class

SECRET_KEY = "a secret makes no key, which is shown: give a function of its hash"

_PLAIN = frozenset({str, int, bool, type(None)})
# Decimals of more zeros than this are written with an exponent.
_WRITTEN_OUT = 40
_CONTAINERS = (dict, list, tuple, set, frozenset)
_SCALARS = (str, int, float, Decimal, UUID, date, time, timedelta, bytes)


def filled(template: str, named: Mapping[str, Any]) -> str:
    """Fill a template with arguments by name. Raises `EncodeError` for what has no stable text."""
    if all(type(value) in _PLAIN for value in named.values()):
        return template.format_map(named)
    return _Formatter().vformat(template, (), named)


def text_of(key: object) -> str:
    """Return the key that a user's function made, as text.

    Raises `InvalidArguments` for None and for what has no text of its own, which would be one key
    for all calls, or another at each.
    """
    plain = _plain(key)
    if isinstance(plain, _SCALARS):
        return str(_even(plain))
    if plain is not None and type(plain).__str__ is not object.__str__:
        return str(plain)
    raise InvalidArguments(f"the key function returned {type(key).__name__}: return a text")


class _Formatter(string.Formatter):
    """Formats dicts, sets and models in an order of their own, and enums as they are sent."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """Convert by `!r` or `!s`."""
        plain = _plain(value)
        if conversion in ("r", "a") and _is(plain, Decimal) and plain.is_finite():
            plain = Decimal(_digits(plain))
        elif conversion is not None:
            plain = _even(plain)
        return super().convert_field(plain, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        """Format by what follows the colon."""
        plain = _plain(value)
        return super().format_field(plain if format_spec else _even(plain), format_spec)


class _Text(str):
    """A text that `!r` leaves as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _even(value: Any) -> Any:
    """Return what equal numbers share, and in UTC what equal moments share."""
    if _is(value, float):
        return value + 0.0  # -0.0 is 0.0
    if _is(value, Decimal) and value.is_finite():
        return _Text(_digits(value))
    if _is(value, datetime) and value.utcoffset() is not None:
        with suppress(OverflowError):  # within a day of the first year or the last
            return value.astimezone(UTC)
    if _is(value, time) and value.tzinfo is not None:
        return _Text(clock_text(value))
    return value


def _is(value: object, kind: type[object]) -> bool:
    """Tell whether a value is of a class, or of one that shows it as that does."""
    return isinstance(value, kind) and type(value).__str__ is kind.__str__


def _digits(value: Decimal) -> str:
    """Write a decimal without the zeros that end it."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # it is finite
    kept = list(digits)
    while len(kept) > 1 and kept[-1] == 0:
        kept.pop()
        exponent += 1
    if kept == [0]:
        return "0"
    even = Decimal((sign, tuple(kept), exponent))
    return format(even, "f") if abs(exponent) <= _WRITTEN_OUT else str(even)


def _plain(value: Any) -> Any:
    """Return the value of an enum, the canonical text of a container, other values as they are."""
    kind = cast("type[Any]", type(value))
    if is_secret(value):  # its text is the same for all
        raise InvalidArguments(SECRET_KEY)
    if isinstance(value, Enum):  # whatever its own `__str__` says, for the worker has its value
        return _plain(value.value)
    own = kind.__str__ not in (object.__str__, getattr(model_class(), "__str__", None))
    model = is_model(value) or (dataclasses.is_dataclass(value) and kind is not type)
    if isinstance(value, bytearray):
        return bytes(value)
    if (issubclass(kind, _CONTAINERS) or model) and not own:
        return _Text(canonical(value))
    return value
