"""Dates and times keep their zone by name, and which of two equal times they are."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

import pytest
from dateutil import tz as dateutil_tz
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.values import dump_value, from_wire, load_value, to_wire

VIENNA = ZoneInfo("Europe/Vienna")
ZONES = st.sampled_from(sorted(available_timezones() - {"localtime", "posixrules"}))
folds = st.sampled_from([0, 1])


def same(left: Any, right: Any) -> bool:
    return (left, left.fold, left.tzinfo) == (right, right.fold, right.tzinfo)


@pytest.mark.slow
@given(st.datetimes(), st.none() | st.just(UTC) | ZONES.map(ZoneInfo), folds)
@settings(max_examples=300)
def test_a_datetime_comes_back_in_its_zone(clock: datetime, zone: tzinfo | None, fold: int) -> None:
    value = clock.replace(tzinfo=zone, fold=fold)
    assert same(load_value(dump_value(value)), value)
    clock_only = value.timetz()
    assert same(load_value(dump_value(clock_only)), clock_only)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30)), None], ids=repr)
def test_what_has_no_name_is_written_as_before(zone: tzinfo | None) -> None:
    value = datetime(2030, 1, 2, 3, 4, tzinfo=zone)
    assert to_wire(value) == {"$datetime": value.isoformat()}
    assert to_wire(value.timetz()) == {"$time": value.timetz().isoformat()}


def test_a_day_later_is_the_same_hour_over_a_change_of_clocks() -> None:
    moment = datetime(2026, 3, 28, 12, tzinfo=VIENNA)
    read = load_value(dump_value(moment)) + timedelta(days=1)
    assert str(read) == "2026-03-29 12:00:00+02:00"


def test_the_form_is_that_of_rfc_9557() -> None:
    second = datetime(2026, 10, 25, 2, 30, tzinfo=VIENNA, fold=1)
    assert to_wire(second) == {"$datetime": "2026-10-25T02:30:00+01:00[Europe/Vienna][_fold=1]"}
    assert to_wire(time(12, tzinfo=VIENNA)) == {"$time": "12:00:00[Europe/Vienna]"}
    naive = second.replace(tzinfo=None)
    assert to_wire(naive) == {"$datetime": "2026-10-25T02:30:00[_fold=1]"}


@pytest.mark.parametrize(
    ("text", "fold"),
    [
        ("2026-10-25T02:30:00+01:00[Europe/Vienna]", 1),
        ("2026-10-25T02:30:00+02:00[Europe/Vienna]", 0),
        ("2026-10-25T02:30:00+01:00[!Europe/Vienna][u-ca=iso8601]", 1),
        ("2026-10-25T02:30:00[Europe/Vienna]", 0),
    ],
)
def test_an_offset_of_others_says_which_of_two_times(text: str, fold: int) -> None:
    read = from_wire({"$datetime": text})
    assert same(read, datetime(2026, 10, 25, 2, 30, tzinfo=VIENNA, fold=fold))


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-25T02:30:00[Nowhere/Land]",
        "2026-10-25T02:30:00[Europe]",
        "2026-10-25T02:30:00[../../etc/passwd]",
        "2026-10-25T02:30:00[]",
        "2026-10-25T02:30:00[Europe/Vienna][Europe/Paris]",
        "2026-10-25T02:30:00[Europe/Vienna][!calendar=x]",
        "2026-10-25T02:30:00[Europe/Vienna",
        "2026-10-25T02:30:00[Europe/Vienna]x]",
        "[Europe/Vienna]",
        "2026-10-25T02:30:00[" + "x" * 10_000 + "]",
        "2026-10-25T02:30:00[\x00]",
        "]" * 1000,
        7,
        ["2026"],
    ],
    ids=lambda text: str(text)[:40],
)
@pytest.mark.parametrize("tag", ["$datetime", "$time"])
def test_a_zone_that_cannot_be_read_is_refused(tag: str, text: Any) -> None:
    with pytest.raises(DecodeError, match=f"malformed \\{tag} value"):
        from_wire({tag: text})


class OwnZone(tzinfo):
    """A zone that only this program knows."""

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        return None if at is None else timedelta(hours=1 + at.month % 2)

    def dst(self, at: datetime | None) -> timedelta | None:
        return timedelta(0)


def test_a_zone_that_others_do_not_know_is_refused(tmp_path: Path) -> None:
    for zone in (OwnZone(), dateutil_tz.gettz("Europe/Vienna")):
        for value in (datetime(2026, 1, 2, tzinfo=zone), time(12, tzinfo=zone)):
            with pytest.raises(EncodeError, match="has no name that others know"):
                to_wire([value])


def test_fixed_offsets_of_other_libraries_are_offsets() -> None:
    for zone in (dateutil_tz.tzutc(), dateutil_tz.tzoffset("X", 3600)):
        value = datetime(2026, 1, 2, tzinfo=zone)
        read = load_value(dump_value(value))
        assert read == value
        assert type(read.tzinfo) is timezone


class Pytz(OwnZone):
    """Named as pytz names its zones, and off by minutes as they are before `localize`."""

    zone = "Europe/Vienna"

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        return None if at is None else timedelta(hours=1, minutes=5)


def test_a_zone_of_pytz_becomes_that_of_its_name() -> None:
    value = datetime(2026, 1, 2, 12, tzinfo=Pytz())
    read = load_value(dump_value(value))
    assert read == value
    assert read.tzinfo is VIENNA


class Day(date):
    pass


class Clock(time):
    pass


class Span(timedelta):
    pass


class Money(Decimal):
    pass


class Uid(UUID):
    pass


class Raw(bytes):
    pass


class Text(str):
    def __str__(self) -> str:
        return "something else"


class Number(int):
    def __int__(self) -> int:
        return 99


class Moment(datetime):
    pass


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (Day(2026, 1, 2), date(2026, 1, 2)),
        (Clock(12, tzinfo=VIENNA, fold=1), time(12, tzinfo=VIENNA, fold=1)),
        (Span(days=1, microseconds=2), timedelta(days=1, microseconds=2)),
        (Money("1.50"), Decimal("1.50")),
        (Uid(int=5), UUID(int=5)),
        (Raw(b"a"), b"a"),
        (Text("a"), "a"),
        (Number(5), 5),
        (
            Moment(2026, 10, 25, 2, 30, tzinfo=VIENNA, fold=1),
            datetime(2026, 10, 25, 2, 30, tzinfo=VIENNA, fold=1),
        ),
    ],
    ids=repr,
)
def test_a_subclass_is_sent_whole_as_what_it_extends(value: Any, read: Any) -> None:
    for given_, wanted in ((value, read), ({value: 1}, {read: 1}), ({value}, {read})):
        found = load_value(dump_value(given_))
        assert found == wanted
    found = load_value(dump_value(value))
    assert type(found) is type(read)
    assert getattr(found, "fold", 0) == getattr(read, "fold", 0)
