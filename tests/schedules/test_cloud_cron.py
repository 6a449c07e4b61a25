"""Each cloud's expressions mean what the schedule means, by the rules of its documentation."""

# ruff: noqa: DTZ001 (local times are what this is about)

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq.errors import ConfigurationError
from cloudq.schedules import cloud_cron as dialects
from cloudq.schedules.entry import Entry
from cloudq.schedules.next_run import runs
from cloudq.schedules.when import When, at, crontab, every, solar
from tests.schedules import cloud_cron_rules as dialect_rules
from tests.schedules.test_next_run import FULL, crontabs

DIALECTS = {
    "eventbridge": (dialects.eventbridge, dialect_rules.eventbridge),
    "unix_cron": (dialects.unix_cron, dialect_rules.unix_cron),
    "ncrontab": (dialects.ncrontab, dialect_rules.ncrontab),
}


def entry(when: When, timezone: str = "UTC", **more: datetime) -> Entry:
    return Entry(name="nightly", task="t", when=when, timezone=timezone, **more)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=300 if FULL else 30, deadline=None)
@given(data=st.data())
def test_expressions_mean_what_the_crontab_means(dialect: str, data: st.DataObject) -> None:
    say, read = DIALECTS[dialect]
    when = data.draw(crontabs())
    expressions: list[str] = []
    with suppress(ConfigurationError):
        expressions = say(entry(when))
    if not expressions:
        assert when.both_days
        assert dialect != "ncrontab"
        return
    readers: list[Callable[[datetime], bool]] = [read(each) for each in expressions]
    day = data.draw(st.dates(date(2024, 1, 1), date(2029, 12, 1)))
    start = datetime.combine(day, time(), UTC) - timedelta(seconds=1)
    expected = set(islice(runs(when, start, UTC, start=None), 20))
    # Every minute of the days on which it runs, and of some on which it does not.
    looked = {moment.date() for moment in sorted(expected)[:3]}
    looked |= {day + timedelta(n) for n in range(0, 60, 7)}
    end = max(expected)
    for each in looked:
        for number in range(1440):
            moment = datetime.combine(each, time(), UTC) + timedelta(minutes=number)
            if moment <= end:
                fits = any(reader(moment) for reader in readers)
                assert fits == (moment in expected), f"{expressions} at {moment}"


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (crontab("30 7 * * 1-5"), ["cron(30 7 ? * MON-FRI *)"]),
        (crontab("*/15 * * * *"), ["cron(0,15,30,45 * * * ? *)"]),
        (crontab("0 0 13 * 5"), ["cron(0 0 13 * ? *)", "cron(0 0 ? * FRI *)"]),
        (crontab(0, 9, day_of_week="mon", day_of_month="1-7"), ["cron(0 9 ? * 2#1 *)"]),
        (every(60), ["rate(1 minute)"]),
        (every(7200), ["rate(2 hours)"]),
        (every(timedelta(days=3)), ["rate(3 days)"]),
        (at(datetime(2026, 7, 1, 12)), ["at(2026-07-01T12:00:00)"]),
        (at(datetime(2026, 7, 1, 12, tzinfo=UTC)), ["at(2026-07-01T14:00:00)"]),
    ],
    ids=str,
)
def test_eventbridge_says(when: When, said: list[str]) -> None:
    assert dialects.eventbridge(entry(when, "Europe/Vienna")) == said


@pytest.mark.parametrize(
    ("period", "unix", "azure"),
    [
        (60, "* * * * *", "0 * * * * *"),
        (900, "*/15 * * * *", "0 */15 * * * *"),
        (3600, "0 * * * *", "0 0 * * * *"),
        (14_400, "0 */4 * * *", "0 0 */4 * * *"),
        (86_400, "0 0 * * *", "0 0 0 * * *"),
        (30, None, "*/30 * * * * *"),
        (1, None, "* * * * * *"),
        (420, None, None),
        (5400, None, None),
        (0.5, None, None),
        (172_800, None, None),
    ],
)
def test_periods_as_crontabs(period: float, unix: str | None, azure: str | None) -> None:
    for say, expected in ((dialects.unix_cron, unix), (dialects.ncrontab, azure)):
        if expected is None:
            with pytest.raises(ConfigurationError, match="run a beat"):
                say(entry(every(period)))
        else:
            assert say(entry(every(period))) == [expected]


def test_what_a_cloud_cannot_say_is_refused() -> None:
    sunset = entry(solar("sunset", 48.2, 16.4))
    for say, _ in DIALECTS.values():
        with pytest.raises(ConfigurationError, match=r"'nightly'.*beat"):
            say(sunset)
    with pytest.raises(ConfigurationError, match="whole minutes"):
        dialects.eventbridge(entry(every(90)))
    odd = entry(crontab(0, 0, day_of_week="fri", day_of_month=13))
    with pytest.raises(ConfigurationError, match="first to fourth week"):
        dialects.eventbridge(odd)
    with pytest.raises(ConfigurationError, match="either is enough"):
        dialects.unix_cron(odd)
    assert dialects.ncrontab(odd) == ["0 0 0 13 * 5"]


def test_differences_at_changes_of_the_clocks_are_told() -> None:
    nightly = entry(crontab("30 2 * * *"), "Europe/Vienna")
    spring = datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC)
    found = dialects.clouds_at(nightly, *spring)
    assert [(each.cloud, each.what.split(":")[0]) for each in found] == [
        ("EventBridge Scheduler", "not run"),
        ("Cloud Scheduler", "may be left out, or run twice"),
    ]
    assert {each.moment for each in found} == {datetime(2026, 3, 29, 1, tzinfo=UTC)}
    assert "Sun 2026-03-29 03:00:00 CEST" in found[0].told(nightly.zone)
    hourly = entry(crontab("30 * * * *"), "Europe/Vienna")
    autumn = datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 25, 6, tzinfo=UTC)
    found = dialects.clouds_at(hourly, *autumn)
    missing = [each.moment.hour for each in found if each.cloud == "EventBridge Scheduler"]
    assert missing == [1], "the second of the two hours"
    assert dialects.clouds_at(entry(crontab("30 2 * * *")), *spring) == []
