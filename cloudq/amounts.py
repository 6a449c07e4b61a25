"""Checks the amounts that callers give: seconds, and counts."""

from __future__ import annotations

import sys
from datetime import timedelta

from cloudq.errors import CloudQError, InvalidArguments

CENTURY = 36_525 * 86_400.0
"""The longest time that may be given, in seconds: times in messages end with the year 9999."""
_DIGITS = 20


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


def shown(given: object) -> str:
    """Write what was given for a message; a number of thousands of digits by its length."""
    if isinstance(given, int) and abs(given) >= 10**_DIGITS:
        return f"an integer of {given.bit_length()} bits"
    return repr(given)[:100]
