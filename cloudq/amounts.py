"""Checks the amounts that callers give, seconds and counts, and writes amounts in sentences."""

from __future__ import annotations

import re
import sys
from datetime import timedelta

from cloudq.errors import CloudQError, InvalidArguments

CENTURY = 36_525 * 86_400.0
"""The longest time that may be given, in seconds: times in messages end with the year 9999."""
_DIGITS = 20
_SPAN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(
    given: object,
    name: str,
    error: type[CloudQError] = InvalidArguments,
    *,
    least: float = 0.0,
    most: float = CENTURY,
) -> float:
    """Return a time in seconds that a caller gave. Raises `error`, with its name, for any other."""
    if isinstance(given, int | float) and not isinstance(given, bool) and least <= given <= most:
        return float(given)
    why = f"it must be a number of seconds from {least:g} on"
    if isinstance(given, timedelta):
        why = f"give the seconds, {given.total_seconds():g}"
    elif isinstance(given, int | float) and given > most:
        most_said = "a century" if most == CENTURY else f"{most:g} s"
        why = f"that is more than {most_said}" if given < float("inf") else f"{most_said} at most"
    raise error(f"{name} is {shown(given)}: {why}")


def count(
    given: object,
    name: str,
    error: type[CloudQError] = InvalidArguments,
    *,
    least: int = 0,
    most: int = sys.maxsize,
    unit: str = "",
) -> int:
    """Return a count that a caller gave. Raises `error`, with its name, for any other."""
    if isinstance(given, int) and not isinstance(given, bool) and least <= given <= most:
        return given
    end = "on" if most == sys.maxsize else f"to {most}"
    of = f" of {unit}" if unit else ""
    raise error(f"{name} is {shown(given)}: it must be a whole number{of} from {least} {end}")


def span(text: str) -> float | None:
    """Read a time as people write it, 90s, 10m, 2h or 3d, as seconds; None if it is none."""
    found = _SPAN.fullmatch(text.strip())
    return None if found is None else float(found[1]) * _UNITS[found[2]]


def lasting(seconds: float) -> str:
    """Write a time span in at most two units: 40ms, 4.2s, 3m 20s, 5h 1m, 2d 3h."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.2g}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours < 24 else f"{hours // 24}d {hours % 24}h"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number with its noun: 1 task, 2 tasks, 3 entries."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def shown(given: object) -> str:
    """Write what was given for a message; a number of thousands of digits by its length."""
    if isinstance(given, int) and abs(given) >= 10**_DIGITS:
        return f"an integer of {given.bit_length()} bits"
    return repr(given)[:100]
