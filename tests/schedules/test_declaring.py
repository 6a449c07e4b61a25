"""Declaring schedules: the valid forms, the invalid ones, and the text of each error."""

# ruff: noqa: DTZ001 (times without a zone are in the entry's)

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cloudq import CloudQ, ConfigurationError, EncodeError, File, at, crontab, every, solar
from cloudq.contrib.celery import Celery
from cloudq.schedules.entry import Entry, dumps, loads
from cloudq.schedules.when import When


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ("shop", broker="memory://declared") as app:
        yield app


def add_to(app: CloudQ) -> Any:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (crontab(), "* * * * *"),
        (crontab(minute=30, hour=7, day_of_week=1), "30 7 * * 1"),
        (crontab("*/20", "8-17/3", "mon-fri"), "0,20,40 8,11,14,17 * * 1-5"),
        (crontab([0, 30], {6, 18}, month_of_year="jan,JUL"), "0,30 6,18 * 1,7 *"),
        (crontab(0, 0, "fri-mon"), "0 0 * * 0,1,5,6"),
        (crontab(0, 0, "Sunday"), "0 0 * * 0"),
        (crontab("0 0 * * 7"), "0 0 * * 0"),
        (crontab("0 0 * * 5-7"), "0 0 * * 0,5,6"),
        (crontab("0 22-2 1 1-12 *"), "0 0-2,22,23 1 * *"),
        (crontab.from_string("0 0 13 * 5"), "0 0 13 * 5"),
    ],
)
def test_fields_are_read_as_celery_and_cron_read_them(given: crontab, line: str) -> None:
    assert given.line == line
    assert pickle.loads(pickle.dumps(given)) == given


def test_two_fields_of_days_mean_both_by_name_and_either_in_a_line() -> None:
    assert crontab(0, 0, day_of_week=5, day_of_month=13).both_days
    assert crontab.from_string("0 0 13 * 5") == crontab(0, 0, day_of_week=5, day_of_month=13)
    line = crontab("0 0 13 * 5")
    assert line.either_day
    assert pickle.loads(pickle.dumps(line)) == line
    assert crontab("0 0 */2 * 5").both_days, "one that begins with a star"
    assert crontab("0 0 13 * 0-6").line == "0 0 * * *", "one that every day fits"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"day_of_month": 30, "month_of_year": 2}, "day 30 is never in FEB"),
        ({"day_of_month": 31, "month_of_year": "apr,jun"}, "day 31 is never in APR,JUN"),
        ({"minute": 60}, "minute has 60: it goes from 0 to 59"),
        ({"day_of_week": 8}, "day_of_week has 8: it goes from 0 to 7"),
        ({"day_of_week": "1-9"}, "day_of_week has 9: it goes from 0 to 7"),
        ({"hour": "24"}, "hour has 24"),
        ({"minute": "5/15"}, "'5-59/15'"),
        ({"minute": "*/0"}, "a step is 1 or more"),
        ({"minute": "*-5"}, "'\\*' cannot start a range"),
        ({"minute": ""}, "minute has ''"),
        ({"minute": []}, "minute is empty"),
        ({"minute": None}, "minute is None"),
        ({"minute": True}, "minute is True"),
        ({"hour": 7.5}, "hour is 7.5"),
        ({"day_of_week": "monty"}, "'monty', which is no number: known are sun, mon"),
        ({"day_of_month": "L"}, "'L', which is no number"),
        ({"minute": "0 0 * *"}, "has 4 fields"),
        ({"minute": "0 0 0 * * *"}, "has 6 fields"),
        ({"minute": "0 0 * * *", "hour": 3}, "is a whole line"),
    ],
)
def test_a_crontab_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        crontab(**fields)


def test_other_values_that_cannot_be() -> None:
    for period in (0, -1, True, "30", float("inf"), timedelta(days=40_000)):
        with pytest.raises(ConfigurationError, match="every"):
            every(period)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="give a datetime"):
        at("tomorrow")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no event 'noon': known: dawn_astronomical"):
        solar("noon", 0, 0)
    with pytest.raises(ConfigurationError, match="lat is 91"):
        solar("sunrise", 91, 0)


def test_a_task_may_run_at_several_times(app: CloudQ) -> None:
    @app.periodic(crontab(hour=7, minute=30), args=(1,), timezone="Asia/Shanghai")
    @app.periodic(every(30), name="often", kwargs={"y": 2}, args=[1], queue="sums", expires=5)
    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.periodic(every(timedelta(hours=1)), name="tidy")
    def tidy() -> None: ...

    assert add(1) == 2
    found = app.schedules.declared()
    assert set(found) == {"add", "often", "tidy"}
    assert found["tidy"].task == tidy.name
    assert found["add"].timezone == "Asia/Shanghai"
    assert (found["often"].options, found["often"].expires) == ({"queue": "sums"}, 5)
    [first] = app.schedules.next("add")
    assert (first.hour, first.minute, first.tzinfo) == (7, 30, ZoneInfo("Asia/Shanghai"))


def test_entries_are_in_the_apps_time_zone_whenever_that_is_set(app: CloudQ) -> None:
    app.periodic(crontab("0 0 * * *"), args=(1, 2))(add_to(app))
    app.configure(timezone="Europe/Vienna")
    assert app.schedules.declared()["add"].timezone == "Europe/Vienna"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timezone": "Mars/Olympus"}, "no time zone 'Mars/Olympus': use one such as"),
        ({"catch_up": "some"}, "catch_up is 'some': give one of skip, last, all"),
        ({"jitter": -1}, "jitter is -1: it must be a number of seconds"),
        ({"expires": "soon"}, "expires is 'soon'"),
        ({"start": "2026-01-01"}, "start is '2026-01-01': give a datetime"),
        ({"start": datetime(2027, 1, 1), "end": datetime(2026, 1, 1)}, "it ends"),
        ({"start": datetime(2027, 1, 1), "end": datetime(2027, 1, 1)}, "it ends"),
        ({"options": {"countdown": 5}}, "countdown cannot be given"),
        ({"options": {"task_id": "x"}}, "task_id cannot be given"),
        ({"options": {"queu": "x"}}, "did you mean queue"),
        ({"options": {"link": []}}, "no link"),
        ({"name": "n" * 65}, r"\(65 characters\).*1 to 64 characters"),
        ({"name": "every day"}, "give another name"),
        ({"every": 5}, "schedule 'add' has the unknown option 'every': known are"),
        ({"args": (1, 2, 3)}, "too many"),
    ],
)
def test_an_entry_that_cannot_be(app: CloudQ, given: dict[str, Any], message: str) -> None:
    add = add_to(app)

    def declare() -> None:
        app.periodic(every(60), **{"args": (1, 2), **given})(add)
        app.schedules.declared()

    with pytest.raises(ConfigurationError, match=message):
        declare()


def test_two_of_one_name(app: CloudQ) -> None:
    add = add_to(app)
    app.periodic(every(60), args=(1, 2))(add)
    with pytest.raises(ConfigurationError, match=r"two schedules are named 'add'.*another name="):
        app.periodic(every(30), args=(1, 2))(add)
    app.conf.beat_schedule = {"add": {"task": "add", "schedule": 5, "args": (1, 2)}}
    with pytest.raises(ConfigurationError, match="one in beat_schedule, one in the code"):
        app.schedules.declared()


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"a": {"task": "ad", "schedule": 5}}, "task 'ad' is not registered: did you mean add?"),
        ({"a": {"task": "add"}}, "'a' is .* it needs a task and a schedule"),
        ({"a": {"task": "add", "schedule": "5"}}, "'a': a schedule is '5'"),
        ({"a": {"task": "add", "schedule": 5, "relative": True}}, "give start="),
        ({"a": {"task": "add", "schedule": 5}}, "'a'.*missing"),
        ([], "give a mapping of names to entries"),
    ],
)
def test_a_beat_schedule_that_cannot_be(app: CloudQ, schedule: Any, message: str) -> None:
    add_to(app)
    app.conf.beat_schedule = schedule
    with pytest.raises(ConfigurationError, match=message):
        app.schedules.declared()


def test_signatures_as_celery_adds_them(app: CloudQ) -> None:
    add = add_to(app)
    name = app.add_periodic_task(30.0, add.s(1, 2), expires=10, queue="sums")
    assert name == repr(add.s(1, 2))
    [entry] = app.schedules.declared().values()
    assert (entry.args, entry.expires, entry.options) == ((1, 2), 10, {"queue": "sums"})
    with pytest.raises(ConfigurationError, match="a task that starts it"):
        app.add_periodic_task(30.0, add)


@pytest.mark.parametrize(
    "when",
    [
        crontab("0 0 13 * 5"),
        crontab(0, 0, day_of_week=5, day_of_month=13),
        every(0.25),
        at(datetime(2026, 1, 1, 12)),
        at(datetime(2026, 1, 1, 12, tzinfo=UTC)),
        solar("sunset", 48.25, 16.375),
    ],
    ids=str,
)
def test_entries_are_stored_whole(when: When) -> None:
    entry = Entry(
        name="n",
        task="t",
        when=when,
        args=(1, datetime(2026, 1, 1, tzinfo=UTC)),
        kwargs={"a": {1, 2}},
        options={"queue": "q"},
        timezone="Europe/Vienna",
        expires=5.0,
        jitter=3.0,
        catch_up="all",
        start=datetime(2020, 1, 1),
        end=datetime(2030, 1, 1, tzinfo=UTC),
        enabled=False,
        stored=True,
    )
    read = loads("n", dumps(entry))
    assert read == entry
    assert read.fingerprint == entry.fingerprint


def test_other_times_have_another_fingerprint() -> None:
    first = Entry(name="n", task="t", when=crontab("0 0 * * *"))
    others = [
        Entry(name="n", task="t", when=crontab("0 1 * * *")),
        Entry(name="n", task="t", when=crontab("0 0 * * *"), timezone="Europe/Vienna"),
        Entry(name="n", task="t", when=crontab("0 0 * * *"), start=datetime(2026, 1, 1)),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4
    same = Entry(name="m", task="u", when=crontab("0 0 * * *"), args=(1,))
    assert same.fingerprint == first.fingerprint


def test_the_last_run_lies_within_start_and_end() -> None:
    start, end = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 8, tzinfo=UTC)
    for when in (crontab("0 0 * * *"), every(86_400)):
        entry = Entry(name="n", task="t", when=when, start=start, end=end)
        day = timedelta(days=1)
        assert entry.last_run(start - timedelta(hours=1)) is None
        assert entry.last_run(start) == start
        assert entry.last_run(start + timedelta(hours=30)) == start + day
        # None is due at the end itself.
        assert entry.last_run(end) == entry.last_run(end + 9 * day) == end - day
        assert list(entry.runs(start - 9 * day)) == [start, start + day, start + 2 * day]


def test_jitter_is_each_ones_own_and_the_same_for_all_who_ask() -> None:
    slot = datetime(2026, 1, 1, tzinfo=UTC)
    names = ("a", "b", "c")
    delays = [Entry(name=n, task="t", when=every(60), jitter=60).delay(slot) for n in names]
    assert len(set(delays)) == 3
    # A part of the name and the time, which no release may change while beats of two of them run.
    assert delays[0] == Entry(name="a", task="u", when=every(5), jitter=60).delay(slot)


def test_expires_among_the_calls_options_is_the_schedules(app: CloudQ) -> None:
    add = add_to(app)
    app.periodic(every(60), name="a", args=(1, 2), options={"expires": 5})(add)
    app.periodic(every(60), name="b", args=(1, 2), options={"expires": 5}, expires=7)(add)
    found = app.schedules.declared()
    assert {name: entry.expires for name, entry in found.items()} == {"a": 5, "b": 7}
    assert all("expires" not in entry.options for entry in found.values())


def test_the_ends_of_the_earth_have_a_sun() -> None:
    for lat, lon in ((90, 180), (-90, -180)):
        assert (solar("sunset", lat, lon).lat, solar("sunset", lat, lon).lon) == (lat, lon)
    for lat, lon, name in ((90.1, 0, "lat"), (-90.1, 0, "lat"), (0, 180.1, "lon")):
        with pytest.raises(ConfigurationError, match=f"{name} is .* it goes from"):
            solar("sunset", lat, lon)


def test_a_line_whose_days_fit_every_day_has_no_days() -> None:
    for line in ("0 0 1-31 * 5", "0 0 13 * 0-6"):
        made = crontab(line)
        assert made == crontab("0 0 * * *")
        assert (made.days, made.either_day, made.both_days) == ("both", False, False)


def test_a_day_that_there_is_not_does_no_harm_beside_one_of_the_week() -> None:
    assert crontab("0 0 30 2 1").either_day
    with pytest.raises(ConfigurationError, match="day 30 is never in FEB"):
        crontab.from_string("0 0 30 2 1")


def test_a_task_below_a_schedule_is_the_one_that_runs(app: CloudQ) -> None:
    """The other way round the schedule would run a task without the options."""
    with pytest.raises(ConfigurationError, match=r"is a task already.*below @app\.periodic"):

        @app.task(name="x", max_retries=9)
        @app.periodic(every(60), name="work")
        def work() -> None: ...


def test_a_name_that_no_cloud_takes_is_refused_at_run_time_too(app: CloudQ) -> None:
    task = add_to(app)
    with pytest.raises(ConfigurationError, match=r"'r s' \(3 characters\).*give another name"):
        app.schedules.add("r s", task, every(60), args=(1, 2))


@pytest.mark.parametrize("kind", [CloudQ, Celery])
def test_unnamed_periodic_tasks_of_one_call_are_refused(kind: type[CloudQ]) -> None:
    with kind("shop", broker="memory://declared") as app:
        add = add_to(app)
        name = app.add_periodic_task(10, add.s(1, 2))
        assert app.add_periodic_task(10, add.s(1, 2)) == name, "a second load adds the same"
        for when, sig, more in (
            (3600, add.s(1, 2), {}),
            (10, add.s(1, 2), {"queue": "other"}),
            (crontab(hour=7), add.s(1, 2), {}),
        ):
            with pytest.raises(ConfigurationError, match=r"two .* are named .*another name="):
                app.add_periodic_task(when, sig, **more)
        app.add_periodic_task(3600, add.s(1, 2), name="hourly")
        app.add_periodic_task(10, add.s(1, 3))
        with pytest.raises(ConfigurationError, match="are named 'hourly'"):
            app.add_periodic_task(60, add.s(1, 3), name="hourly")
        assert [str(entry.when) for entry in app.schedules.declared().values()] == [
            "every(10 s)",
            "every(3600 s)",
            "every(10 s)",
        ]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"args": "ann"}, "arguments must be a list or tuple, and not a str"),
        ({"args": {1, 2}}, "arguments must be a list or tuple, and not a set"),
        ({"args": 5}, "arguments must be a list or tuple, and not an int"),
        ({"args": b"ab"}, "arguments must be a list or tuple, and not a bytes"),
        ({"kwargs": [1]}, "keyword arguments must be a mapping, and not a list"),
        ({"kwargs": "ab"}, "keyword arguments must be a mapping, and not a str"),
        ({"kwargs": {1: 2}}, "keyword arguments have 1: each name must be a text"),
    ],
)
def test_arguments_of_a_schedule_are_those_of_a_call(app: CloudQ, given: Any, why: str) -> None:
    add = add_to(app)
    with pytest.raises(ConfigurationError, match="schedule 'daily': " + why):
        app.schedules.add("daily", "add", every(5), **given)
    with pytest.raises(ConfigurationError, match="schedule 'add': " + why):
        app.periodic(every(5), **given)(add)
    app.configure(beat_schedule={"set": {"task": "add", "schedule": 5, **given}})
    with pytest.raises(ConfigurationError, match="schedule 'set': " + why):
        app.schedules.declared()


def test_a_periodic_call_with_callbacks_is_refused(app: CloudQ) -> None:
    add = add_to(app)
    celery = Celery("shop", broker="memory://declared")
    for each in (app, celery):
        for signature in (
            add.s(1, 2).link(add.s(3)),
            add.s(1, 2).link_error(add.si(3, 4)),
            add.signature((1, 2), link=add.s(3)),
        ):
            with pytest.raises(ConfigurationError, match="has callbacks"):
                each.add_periodic_task(5, signature)


def test_a_stored_schedule_says_that_it_takes_no_file() -> None:
    with CloudQ("shop", broker="memory://", backend="memory://declared") as app:
        file = File.from_bytes(b"x", name="list.csv")
        with pytest.raises(EncodeError, match="a File cannot be an argument of a stored schedule"):
            app.schedules.add("report", add_to(app), every(60), args=(file, 1))
