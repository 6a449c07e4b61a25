"""Every form of a crontab's field is read as Celery and Vixie's cron read it, or refused."""

from __future__ import annotations

import pickle
import string
from collections.abc import Callable, Iterable
from copy import copy, deepcopy
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from celery.schedules import crontab_parser  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq import ConfigurationError, crontab
from cloudq.schedules import cron_fields as fields
from cloudq.schedules.cloud_cron import eventbridge, ncrontab, unix_cron
from cloudq.schedules.cron_fields import Kind, numbers
from cloudq.schedules.entry import Entry
from tests.schedules import cloud_cron_rules as dialect_rules

KINDS = (fields.MINUTE, fields.HOUR, fields.DAY_OF_WEEK, fields.DAY_OF_MONTH, fields.MONTH_OF_YEAR)

SUN, MON, TUE, WED, THU, FRI, SAT = range(7)

# What Vixie's cron makes of a day of the week, where 0 and 7 are Sunday.
VIXIE_DAYS: dict[str, set[int]] = {
    "7": {SUN},
    "0-7": set(range(7)),
    "sun-7": set(range(7)),
    "0-7/2": {SUN, TUE, THU, SAT},
    "1-7": set(range(7)),
    "1-7/2": {MON, WED, FRI, SUN},
    "2-7/5": {TUE, SUN},
    "5-7": {FRI, SAT, SUN},
    "5-7/2": {FRI, SUN},
    "6-7": {SAT, SUN},
    "6-7/2": {SAT},
    "7-7": {SUN},
    "sat-7": {SAT, SUN},
    "0,7": {SUN},
    "3,5-7": {WED, FRI, SAT, SUN},
    "*/7": {SUN},
    "*/5": {SUN, FRI},
    "MON-Fri": {MON, TUE, WED, THU, FRI},
}
# What Celery makes of it, which also lets a range run around the end of the week.
CELERY_DAYS: dict[str, set[int]] = {
    "fri-sun": {FRI, SAT, SUN},
    "sat-mon": {SAT, SUN, MON},
    "fri-mon/2": {FRI, SUN},
    "mon-sun/2": {MON, WED, FRI, SUN},
    "6-0": {SAT, SUN},
    "sun-sat": set(range(7)),
    "sun-sun": {SUN},
    "mon-5": {MON, TUE, WED, THU, FRI},
    "Sunday, WEDNESDAY": {SUN, WED},
    "1, 3": {MON, WED},
    " 1 ": {MON},
    "*/8": {SUN},
    "1-5/9": {MON},
    "*,3": set(range(7)),
    "mon-wed,fri": {MON, TUE, WED, FRI},
}
OTHERS: list[tuple[Kind, str, set[int]]] = [
    (fields.MINUTE, "50-10/10", {50, 0, 10}),
    (fields.MINUTE, "*/60", {0}),
    (fields.MINUTE, "*/90", {0}),
    (fields.MINUTE, "7-7", {7}),
    (fields.HOUR, "22-2", {22, 23, 0, 1, 2}),
    (fields.HOUR, "22-2/2", {22, 0, 2}),
    (fields.HOUR, "*/24", {0}),
    (fields.DAY_OF_MONTH, "31-2", {31, 1, 2}),
    (fields.DAY_OF_MONTH, "*/31", {1}),
    (fields.MONTH_OF_YEAR, "dec-feb", {12, 1, 2}),
    (fields.MONTH_OF_YEAR, "11-2/2", {11, 1}),
    (fields.MONTH_OF_YEAR, "*/5", {1, 6, 11}),
    (fields.MONTH_OF_YEAR, "January,mar-4", {1, 3, 4}),
]


@pytest.mark.parametrize(("text", "days"), (VIXIE_DAYS | CELERY_DAYS).items())
def test_days_of_the_week(text: str, days: set[int]) -> None:
    assert crontab(day_of_week=text).day_of_week == days
    if " " not in text.strip():
        assert crontab(f"30 7 * * {text.strip()}").day_of_week == days
        assert crontab.from_string(f"30 7 * * {text.strip()}").day_of_week == days


@pytest.mark.parametrize(("kind", "text", "values"), OTHERS)
def test_the_other_fields(kind: Kind, text: str, values: set[int]) -> None:
    assert numbers(kind, text) == values


REFUSED = [
    *("", " ", ",", "1,", ",1", "1,,2", "-", "/", "*/", "/5", "1/", "1/2", "1-", "-1", "+1"),
    *("--1", "1--2", "1-3-5", "1-3/0", "*/0", "*/-2", "*/+2", "*/2x", "*/ 2", "1 -3", "*-5", "**"),
    *(
        "*x",
        "1.0",
        "1e1",
        "0x1",
        "1_0",
        "²",
        "٣",
        "\uff11",
        "1-٣",
        "*/²",
        "\u017fun",
        "?",
        "L",
        "1L",
        "W",
    ),
    *("15W", "LW", "1#2", "mon#1", "monL", "H", "1~3", "mon-", "mon/2", "monty", "sunnyday", "8"),
    *(
        "0-8",
        "7-2",
        "7-0",
        "7-sun",
        "99",
        "-5-1",
        "\x00",
        "1\x00",
        "9" * 10,
        "9" * 5000,
        f"*/{'9' * 5000}",
        "1;2",
        "(1)",
    ),
    *("@daily", "None", "True", "null"),
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="crontab: day_of_week"):
        crontab(day_of_week=text)


VALUES: list[Any] = [
    *(1.0, [1.0], True, [True], None, [None], b"1", bytearray(b"1"), {1: 2}, [[1]], [b"1"], -1),
    *([-1], 8, [8], 10**5000, [10**5000], ["1-3"], ["*"], ["²"], ["1_0"], [""], [], set[int]()),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_that_are_no_numbers_of_the_field_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="crontab: day_of_week"):
        crontab(day_of_week=value)


@pytest.mark.parametrize("value", [7, [7], ["7"], ["sun"], (0, 7), range(1), {"SUNDAY"}])
def test_sunday_as_a_value(value: Any) -> None:
    assert crontab(day_of_week=value).day_of_week == {SUN}


def celerys(kind: Kind, text: str) -> set[int] | None:
    try:
        return set(crontab_parser(kind.last - kind.first + 1, kind.first).parse(text))
    except Exception:  # whatever its parser raises
        return None


def vixies(kind: Kind, text: str) -> set[int] | None:
    """Read a field as entry.c of Vixie's cron does, names of its own kind included."""
    last = 7 if kind is fields.DAY_OF_WEEK else kind.last
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        low, dash, high = span.partition("-")
        if "/" in part and (not step.isdecimal() or int(step) == 0 or not (dash or low == "*")):
            return None  # it reads 5/15 as 5, which is refused here
        ends = [kind.first, last] if span == "*" else [_vixie(kind, low, last)]
        ends += [_vixie(kind, high, last)] if dash else []
        if None in ends or (len(ends) == 2 and ends[0] > ends[1]):  # type: ignore[operator]
            return None
        found |= set(range(ends[0], ends[-1] + 1, int(step or 1)))  # type: ignore[arg-type, operator]
    return {number % 7 for number in found} if kind is fields.DAY_OF_WEEK else found


def _vixie(kind: Kind, text: str, last: int) -> int | None:
    if text.upper() in kind.names:
        return kind.names.index(text.upper()) + kind.first
    return int(text) if text.isdecimal() and kind.first <= int(text) <= last else None


def ours(kind: Kind, text: str) -> frozenset[int] | None:
    try:
        return numbers(kind, text)
    except ConfigurationError:
        return None


def check(kind: Kind, text: str) -> None:
    """Check that we read a text as both do, where they agree, and never as neither does."""
    read, celery, vixie = ours(kind, text), celerys(kind, text), vixies(kind, text)
    if read is not None and " " not in text:  # blanks beside commas are ours
        assert read in (celery, vixie), (kind.name, text, read, celery, vixie)
    if celery is not None and celery == vixie:
        assert read == celery, (kind.name, text, read, celery)


def spans(kind: Kind) -> Iterable[str]:
    some = sorted({kind.first, kind.first + 1, 5, kind.last - 1, kind.last, kind.last + 1})
    values = [*map(str, some), *(name.lower() for name in kind.names[:3]), *kind.names[-1:]]
    for first, last, step in product(values, ["", *values], ["", "1", "2", "3", "7", "100"]):
        yield f"{first}{'-' * bool(last)}{last}{'/' * bool(step)}{step}"
    for step in ("1", "2", "5", "6", "7", "31", "60", "100"):
        yield f"*/{step}"


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_every_range_and_step_is_celerys_or_vixies(kind: Kind) -> None:
    for text in spans(kind):
        check(kind, text)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(KINDS), st.text(string.digits + "*-/,sunmofrijaL#?W +.", max_size=7))
def test_any_text_is_read_as_one_of_them_or_refused(kind: Kind, text: str) -> None:
    check(kind, text)


@given(st.text(max_size=5))
def test_no_text_raises_anything_else(text: str) -> None:
    for kind in KINDS:
        ours(kind, text)


CLOUDS: list[tuple[Callable[[Entry], list[str]], Callable[[str], dialect_rules.Fits]]] = [
    (eventbridge, dialect_rules.eventbridge),
    (unix_cron, dialect_rules.unix_cron),
    (ncrontab, dialect_rules.ncrontab),
]
WEEK = [datetime(2026, 11, 1, 7, 30, tzinfo=UTC) + timedelta(days=day) for day in range(35)]


@pytest.mark.parametrize("text", sorted(VIXIE_DAYS | CELERY_DAYS))
@pytest.mark.parametrize(("say", "reader"), CLOUDS)
def test_each_cloud_gets_the_same_days(text: str, say: Any, reader: Any) -> None:
    days = (VIXIE_DAYS | CELERY_DAYS)[text]
    entry = Entry(name="e", task="t", when=crontab(30, 7, day_of_week=text))
    expressions = [reader(each) for each in say(entry)]
    for moment in WEEK:
        fits = any(matches(moment) for matches in expressions)
        assert fits == (moment.isoweekday() % 7 in days), (text, moment)


@pytest.mark.parametrize("text", ["5-7", "fri-sun", "1-7/2", "0-7"])
@pytest.mark.parametrize(("say", "reader"), CLOUDS)
def test_a_line_with_a_day_of_each_kind_is_the_same_in_each_cloud(
    text: str, say: Any, reader: Any
) -> None:
    when = crontab(f"30 7 13 * {text}")
    days = (VIXIE_DAYS | CELERY_DAYS)[text]
    entry = Entry(name="e", task="t", when=when)
    expressions = [reader(each) for each in say(entry)]
    for moment in WEEK:
        due = moment.day == 13 or moment.isoweekday() % 7 in days
        assert any(matches(moment) for matches in expressions) == due, (text, moment)
        before = moment - timedelta(minutes=1)
        assert (next(entry.runs(before)) == moment) == due


@pytest.mark.parametrize("line", ["0 0 31 2 1", "0 0 30 2,4 5-7", "0 0 13 * 5", "0 0 */2 * 1"])
def test_a_line_is_the_same_copied_and_pickled(line: str) -> None:
    for when in (crontab(line), crontab("* * 1 * 0-5"), crontab.from_string("5 4 1-7 * 1")):
        for made in (pickle.loads(pickle.dumps(when)), copy(when), deepcopy(when)):
            assert (made, made.days) == (when, when.days)
