"""Parses the five fields of a crontab to sets of numbers, and writes them back as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloudq.errors import ScheduleError

Field = str | int | Iterable[int]
"""A field as users write it: `7`, `"1-5"`, `"*/15"`, `"mon,wed"`, `[0, 30]`."""

DAY_NAMES = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MONTH_NAMES = (
    *("JAN", "FEB", "MAR", "APR", "MAY", "JUN"),
    *("JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
)
LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

# Cron's other number of Sunday.
_SUNDAY = 7
# ASCII only, since int() also reads other digits, signs and `1_0`, as Celery does.
_VALUE = r"[A-Za-z]+|[0-9]{1,9}"
_PART = re.compile(rf"(?P<first>\*|{_VALUE})(?:-(?P<last>{_VALUE}))?(?:/(?P<step>[0-9]{{1,9}}))?")


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
    elif isinstance(given, Iterable) and not isinstance(given, bytes | bytearray | Mapping):
        found = frozenset(_number(kind, each) for each in given)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    else:
        raise ScheduleError(
            f"crontab: {kind.name} is {given!r}: give a number, numbers, or text such as '*/5'"
        )
    if not found:
        raise ScheduleError(f"crontab: {kind.name} is empty: give '*' for every value")
    return found


def _part(kind: Kind, part: str) -> Iterable[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ScheduleError(
            f"crontab: {kind.name} has {part!r}: known are numbers, names, 'a-b', '*', "
            "each with '/step', and lists of these with commas"
        )
    first, last, step = match["first"], match["last"], match["step"]
    if first == "*":
        if last is not None:
            raise ScheduleError(f"crontab: {kind.name} has {part!r}: '*' cannot start a range")
        span = sorted(kind.all)
    elif last is not None:
        span = _span(kind, _number(kind, first, in_range=True), _number(kind, last, in_range=True))
        if not span:
            raise ScheduleError(
                f"crontab: {kind.name} has {part!r}: 7 is Sunday at the end of a range; at its "
                "start write 0"
            )
    else:
        span = [_number(kind, first)]
        if step is not None:
            raise ScheduleError(
                f"crontab: {kind.name} has {part!r}: a step needs a range, as in "
                f"'{first}-{kind.last}/{step}'"
            )
    if step is not None and int(step) == 0:
        raise ScheduleError(f"crontab: {kind.name} has {part!r}: a step is 1 or more")
    chosen = span[:: int(step or 1)]
    return [number % _SUNDAY for number in chosen] if kind is DAY_OF_WEEK else chosen


def _span(kind: Kind, first: int, last: int) -> list[int]:
    """The numbers from `first` to `last`, wrapping around the end of the range as Celery does.

    Of days `last` may be 7, which ends a range like any number, as in Vixie's cron: 0-7, 5-7/2.
    """
    if first <= last or (first == _SUNDAY and kind is DAY_OF_WEEK):
        return list(range(first, last + 1))
    return [*range(first, kind.last + 1), *range(kind.first, last + 1)]


def _number(kind: Kind, given: object, *, in_range: bool = False) -> int:
    if isinstance(given, str) and not re.fullmatch("[0-9]{1,9}", given):
        name = given.upper() if given.isascii() else ""
        for names in (kind.names, kind.long_names):
            if name in names:
                return names.index(name) + kind.first
        known = f": known are {', '.join(kind.names).lower()}" if kind.names else ""
        raise ScheduleError(f"crontab: {kind.name} has {given!r}, which is no number{known}")
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise ScheduleError(f"crontab: {kind.name} has {given!r}, which is no number")
    number = int(given)
    if kind is DAY_OF_WEEK and number == _SUNDAY:
        return _SUNDAY if in_range else 0
    if not kind.first <= number <= kind.last:
        shown = number if abs(number) < 10**9 else "a number of many digits"  # too long for str()
        last = _SUNDAY if kind is DAY_OF_WEEK else kind.last
        raise ScheduleError(
            f"crontab: {kind.name} has {shown}: it goes from {kind.first} to {last}"
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
