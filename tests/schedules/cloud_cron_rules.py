"""Readers of the clouds' expressions, by the rules of each one's documentation and no others."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime

DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]

Fits = Callable[[datetime], bool]


def field(text: str, first: int, last: int, names: list[str], offset: int = 0) -> set[int]:
    """A field with `*`, `,`, `-` and `/`; names count from `offset`."""
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")

        def number(word: str) -> int:
            value = names.index(word) + offset if word in names else int(word)
            assert first <= value <= last, text
            return value

        if span == "*":
            start, end = first, last
        elif high:
            start, end = number(low), number(high)
            assert start <= end, f"{text}: a range goes forward"
        else:
            start, end = number(low), last if step else number(low)
        found |= set(range(start, end + 1, int(step or 1)))
    return found


def eventbridge(expression: str) -> Fits:
    """`cron(minutes hours day-of-month month day-of-week year)`.

    One of day-of-month and day-of-week is `?`. Days of the week are 1-7 from SUN on; `2#1` is the
    first Monday of a month.
    """
    inner = re.fullmatch(r"cron\((.*)\)", expression)
    assert inner is not None, expression
    minute, hour, day, month, week, year = inner[1].split()
    assert (day == "?") != (week == "?"), "exactly one of the two is a ?"
    assert year == "*"
    minutes, hours = field(minute, 0, 59, []), field(hour, 0, 23, [])
    months = field(month, 1, 12, MONTHS, 1)
    nth = re.fullmatch(r"([1-7])#([1-5])", week)

    def day_fits(when: date) -> bool:
        number = when.isoweekday() % 7 + 1
        if week == "?":
            return when.day in field(day, 1, 31, [])
        if nth is not None:
            return number == int(nth[1]) and (when.day - 1) // 7 + 1 == int(nth[2])
        return number in field(week, 1, 7, DAYS, 1)

    return lambda when: (
        when.minute in minutes
        and when.hour in hours
        and when.month in months
        and day_fits(when.date())
    )


def unix_cron(expression: str) -> Fits:
    """Five fields; if neither day field is `*`, a day that fits one of them is enough."""
    minute, hour, day, month, week = expression.split()
    minutes, hours = field(minute, 0, 59, []), field(hour, 0, 23, [])
    months = field(month, 1, 12, MONTHS, 1)
    days, weeks = field(day, 1, 31, []), field(week, 0, 6, DAYS)

    def day_fits(when: date) -> bool:
        fits = when.day in days, when.isoweekday() % 7 in weeks
        return all(fits) if day == "*" or week == "*" else any(fits)

    return lambda when: (
        when.minute in minutes
        and when.hour in hours
        and when.month in months
        and day_fits(when.date())
    )


def ncrontab(expression: str) -> Fits:
    """Six fields, seconds first; a time must fit all of them."""
    second, minute, hour, day, month, week = expression.split()
    seconds, minutes, hours = (
        field(second, 0, 59, []),
        field(minute, 0, 59, []),
        field(hour, 0, 23, []),
    )
    days, months, weeks = (
        field(day, 1, 31, []),
        field(month, 1, 12, MONTHS, 1),
        field(week, 0, 6, DAYS),
    )
    return lambda when: (
        when.second in seconds
        and when.minute in minutes
        and when.hour in hours
        and when.day in days
        and when.month in months
        and when.isoweekday() % 7 in weeks
    )
