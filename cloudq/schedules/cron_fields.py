"""Parses the five fields of a crontab to sets of numbers, and writes them back as text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cloudq.errors import ConfigurationError

Field = str | int | Iterable[int]
"""A field as users write it: `7`, `"1-5"`, `"*/15"`, `"mon,wed"`, `[0, 30]`."""

DAY_NAMES = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MONTH_NAMES = (
    *("JAN", "FEB", "MAR", "APR", "MAY", "JUN"),
    *("JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
)
LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One of the five fields: its name, its range, and names for its numbers."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()
    long_names: tuple[str, ...] = ()

    @property
    def all(self) -> frozenset[int]:
        """Every number of the field, the meaning of `*`."""
        return frozenset(range(self.first, self.last + 1))


MINUTE = Kind(name="minute", first=0, last=59)
HOUR = Kind(name="hour", first=0, last=23)
DAY_OF_WEEK = Kind(
    name="day_of_week",
    first=0,
    last=6,
    names=DAY_NAMES,
    long_names=("SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY"),
)
DAY_OF_MONTH = Kind(name="day_of_month", first=1, last=31)
MONTH_OF_YEAR = Kind(
    name="month_of_year",
    first=1,
    last=12,
    names=MONTH_NAMES,
    long_names=(
        *("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE"),
        *("JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER"),
    ),
)


def numbers(kind: Kind, given: object) -> frozenset[int]:
    """The numbers that a field names. Raises `ConfigurationError`."""
    if isinstance(given, str):
        found = frozenset(
            number for part in given.strip().split(",") for number in _part(kind, part.strip())
        )
    elif isinstance(given, int) and not isinstance(given, bool):
        found = frozenset({_number(kind, given)})
    elif isinstance(given, Iterable):
        found = frozenset(_number(kind, each) for each in given)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    else:
        raise ConfigurationError(
            f"crontab: {kind.name} is {given!r}: give a number, numbers, or text such as '*/5'"
        )
    if not found:
        raise ConfigurationError(f"crontab: {kind.name} is empty: give '*' for every value")
    return found


def _part(kind: Kind, part: str) -> Iterable[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ConfigurationError(
            f"crontab: {kind.name} has {part!r}: known are numbers, names, 'a-b', '*', "
            "each with '/step', and lists of these with commas"
        )
    first, last, step = match["first"], match["last"], match["step"]
    if first == "*":
        if last is not None:
            raise ConfigurationError(f"crontab: {kind.name} has {part!r}: '*' cannot start a range")
        span = sorted(kind.all)
    elif last is not None:
        span = _span(kind, _number(kind, first), _number(kind, last, end=True))
    else:
        span = [_number(kind, first)]
        if step is not None:
            raise ConfigurationError(
                f"crontab: {kind.name} has {part!r}: a step needs a range, as in "
                f"'{first}-{kind.last}/{step}'"
            )
    if step is not None and int(step) == 0:
        raise ConfigurationError(f"crontab: {kind.name} has {part!r}: a step is 1 or more")
    return span[:: int(step or 1)]


def _span(kind: Kind, first: int, last: int) -> list[int]:
    """The numbers from `first` to `last`, wrapping around the end of the range."""
    if first <= last <= kind.last:
        return list(range(first, last + 1))
    # SUN as the end of a range of days is the last day of the week: fri-sun, 1-7.
    last = min(last, kind.last) if kind is not DAY_OF_WEEK or last <= kind.last else 0
    return [*range(first, kind.last + 1), *range(kind.first, last + 1)] if last < first else [first]


def _number(kind: Kind, given: object, *, end: bool = False) -> int:
    if isinstance(given, str) and not given.isdigit():
        name = given.upper()
        for names in (kind.names, kind.long_names):
            if name in names:
                return names.index(name) + kind.first
        known = f": known are {', '.join(kind.names).lower()}" if kind.names else ""
        raise ConfigurationError(f"crontab: {kind.name} has {given!r}, which is no number{known}")
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise ConfigurationError(f"crontab: {kind.name} has {given!r}, which is no number")
    number = int(given)
    if kind is DAY_OF_WEEK and number == 7:
        return 7 if end else 0  # cron's other Sunday
    if not kind.first <= number <= kind.last:
        raise ConfigurationError(
            f"crontab: {kind.name} has {number}: it goes from {kind.first} to {kind.last}"
        )
    return number


def text(kind: Kind, values: frozenset[int], *, names: bool = False) -> str:
    """The numbers as one field of a cron line: `*`, ranges and lists; days as names if wanted."""
    if values == kind.all:
        return "*"
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])

    def shown(value: int) -> str:
        return kind.names[value - kind.first] if names and kind.names else str(value)

    parts: list[str] = []
    for run in runs:
        if len(run) > 2:
            parts.append(f"{shown(run[0])}-{shown(run[-1])}")
        else:
            parts += map(shown, run)
    return ",".join(parts)
