"""A text for each value that equal values share, for the keys of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from cloudq.errors import DecodeError
from cloudq.messages.values import from_wire, is_list, is_object, to_wire
from cloudq.messages.zones import write_time


def canonical(value: object) -> str:
    """Write a value as a text that equal values share, at every depth. Raises `EncodeError`.

    The value is taken as it is sent: a tuple is a list, an enum its value, a model or dataclass a
    dict. Values of different types are never equal: 1, 1.0, True and "1" have four texts. The
    order of dicts and sets does not count, nor the zone of a moment, nor the zeros that end a
    decimal. The text is the same in every process and Python version.
    """
    return canonical_text(to_wire(value))


def canonical_text(wire: Any) -> str:
    """Write a value that is plain JSON already, as `canonical`."""
    return _text(wire)


def _text(wire: Any) -> str:
    if isinstance(wire, str):
        return ascii(wire)  # repr() depends on the Unicode version of the Python
    if isinstance(wire, float):
        return repr(wire + 0.0)  # -0.0 is 0.0
    if is_list(wire):
        return f"[{', '.join(map(_text, wire))}]"
    if not is_object(wire):
        return repr(wire)
    if len(wire) == 1:
        [(tag, content)] = wire.items()
        if tag.startswith("$"):  # `to_wire` writes dicts with such keys as pairs
            return _CONTAINERS.get(tag, _tagged)(content, tag)
    return _pairs(wire.items())


def _pairs(pairs: Iterable[tuple[Any, Any]], tag: str = "") -> str:
    shown = sorted(f"{_text(key)}: {_text(item)}" for key, item in pairs)
    return f"{{{', '.join(shown)}}}"


def _set(items: Iterable[Any], tag: str) -> str:
    return f"set({', '.join(sorted({_text(item) for item in items}))})"


def _integer(digits: str, tag: str) -> str:
    return digits


def _tagged(content: Any, tag: str) -> str:
    """Write a value that JSON lacks, by its type and what it is."""
    try:
        value = from_wire({tag: content})
    except DecodeError:
        value = None
    if isinstance(value, Decimal):
        shown = _decimal(value)
    elif isinstance(value, datetime):
        shown = _moment(value)
    elif isinstance(value, time):
        shown = _text(clock_text(value))
    else:
        shown = _text(content)
    return f"{tag[1:]}({shown})"


def _decimal(value: Decimal) -> str:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return str(value)  # an infinity, or no number
    kept = "".join(map(str, digits)).lstrip("0")
    shown = kept.rstrip("0")
    if not shown:
        return "0"
    return f"{'-' if sign else ''}{shown}E{exponent + len(kept) - len(shown)}"


def _moment(value: datetime) -> str:
    try:
        return (value if value.utcoffset() is None else value.astimezone(UTC)).isoformat()
    except OverflowError:  # within a day of the first year or the last
        return value.isoformat()


def clock_text(value: time) -> str:
    """Write a time of day as a text that equal times share. Raises `EncodeError`."""
    offset = value.utcoffset()
    if offset is None:  # equal times may differ in their fold
        return write_time(value.replace(fold=0))
    parts = {"hours": value.hour, "minutes": value.minute, "seconds": value.second}
    return f"UTC {timedelta(**parts, microseconds=value.microsecond) - offset}"


def _tuple(items: Iterable[Any], tag: str) -> str:
    return _text(items)  # as the list that it is elsewhere


_CONTAINERS: Mapping[str, Callable[[Any, str], str]] = {
    "$set": _set,
    "$frozenset": _set,
    "$dict": _pairs,
    "$tuple": _tuple,
    "$int": _integer,
}
