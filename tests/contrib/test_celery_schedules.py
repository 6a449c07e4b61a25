"""Schedules under Celery's names, asked as programs ask. Each was tried with Celery 5.7."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import cloudq
from cloudq.contrib.celery import Celery, schedules
from cloudq.contrib.celery.schedules import crontab, schedule, solar
from cloudq.errors import ConfigurationError

NOW = datetime(2026, 6, 4, 22, 30, tzinfo=UTC)  # half past midnight in Berlin


def now() -> datetime:
    return NOW


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("shop", broker="memory://schedules", timezone="Europe/Berlin") as made:
        made.set_current()
        yield made


@pytest.mark.parametrize(
    ("ago", "due", "next"), [(0, False, 10.0), (3, False, 7.0), (10, True, 10.0), (30, True, 10.0)]
)
def test_an_interval_counts_from_the_last_run(ago: int, due: bool, next: float) -> None:
    asked = schedule(10, nowfun=now).is_due(NOW - timedelta(seconds=ago))
    assert (asked.is_due, asked.next) == (due, next)
    assert asked == (due, next)


@pytest.mark.parametrize(
    ("fields", "last", "due", "next"),
    [
        ({}, NOW, False, 60.0),
        ({}, NOW - timedelta(seconds=61), True, 60.0),
        ({"minute": 0, "hour": 3}, NOW, False, 9000.0),  # in the zone of the app
        ({"minute": 0, "hour": 0}, NOW - timedelta(hours=1), True, 84_600.0),
    ],
)
def test_a_crontab_is_asked(
    app: Celery, fields: dict[str, Any], last: datetime, due: bool, next: float
) -> None:
    asked = crontab(**fields, nowfun=now)
    assert asked.is_due(last) == (due, next)
    # A time without a zone is in UTC.
    assert asked.is_due(last.replace(tzinfo=None)) == (due, next)
    assert crontab(**fields, nowfun=now, app=app).remaining_estimate(NOW).total_seconds() > 0


def test_a_schedule_knows_the_time_and_the_zone_of_its_app(app: Celery) -> None:
    assert str(crontab().tz) == str(crontab(app=app).tz) == "Europe/Berlin"
    assert crontab().now().tzinfo is not None
    changed: Any = crontab()
    changed.nowfun, changed.app = now, app
    assert (changed.now(), changed.app) == (NOW, app)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.001, "now"),
        (1, "1.00 second"),
        (59.999, "1.00 minute"),
        (90, "1.50 minutes"),
        (3600, "1.00 hour"),
        (90_000, "1.04 days"),
    ],
)
def test_an_interval_is_shown_to_people(seconds: float, text: str) -> None:
    made = schedule(seconds)
    assert (made.human_seconds, repr(made), str(made)) == (text, f"<freq: {text}>", repr(made))
    assert made.run_every == timedelta(seconds=seconds)


def test_a_crontab_is_shown_as_it_was_given() -> None:
    shown = str(crontab(minute="*/15", hour="1,2", day_of_week="mon-fri"))
    assert shown == "<crontab: */15 1,2 * * mon-fri (m/h/dM/MY/d)>"
    assert repr(crontab.from_string("0 1 * * 2")) == "<crontab: 0 1 * * 2 (m/h/dM/MY/d)>"
    assert repr(crontab("0 1 1 * 2")) == "<crontab: 0 1 1 * 2 (m/h/dM/MY/d)>"
    assert repr(crontab(minute={1})) == "<crontab: {1} * * * * (m/h/dM/MY/d)>"
    assert repr(solar("sunset", 1, 2)) == "<solar: sunset at latitude 1.0, longitude: 2.0>"


@pytest.mark.parametrize(
    "made",
    [
        schedule(5, nowfun=now),
        crontab(minute="*/15", nowfun=now),
        crontab("0 1 1 * 2"),
        solar("sunset", 1, 2),
    ],
    ids=repr,
)
def test_a_schedule_is_copied_and_pickled(made: Any) -> None:
    for other in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert other == made
        assert (type(other), repr(other), other.nowfun) == (type(made), repr(made), made.nowfun)
        assert hash(other) == hash(made)


def test_a_schedule_equals_that_of_cloudq() -> None:
    assert schedule(5) == cloudq.every(5) == schedule(timedelta(seconds=5))
    assert schedule(5) == timedelta(seconds=5)
    assert schedule(5) != 5
    assert crontab(minute=1) == cloudq.crontab(minute=1)
    assert crontab(minute=1) != crontab(minute=1, nowfun=now)
    assert crontab(minute=1) != crontab(minute=2)
    assert crontab(minute=1) != "1"
    assert solar("sunset", 1, 2) == cloudq.solar("sunset", 1, 2) != solar("sunrise", 1, 2)


def test_a_number_and_a_schedule_are_made_schedules(app: Celery) -> None:
    assert schedules.maybe_schedule(5) == schedules.maybe_schedule(timedelta(seconds=5))
    assert schedules.maybe_schedule(None) is None
    given = crontab()
    assert schedules.maybe_schedule(given, app=app) is given
    assert given.app is app


def test_a_schedule_of_celerys_is_one_of_a_beat(app: Celery) -> None:
    app.conf.beat_schedule = {
        "ten": {"task": "t", "schedule": schedule(10)},
        "one": {"task": "t", "schedule": crontab(minute=1)},
    }
    ten, one = (app.schedules.declared(check=False)[name].when for name in ("ten", "one"))
    assert (ten, one) == (cloudq.every(10), cloudq.crontab(minute=1))


def test_a_relative_interval_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="start="):
        schedule(30.0, relative=True)
