"""Contract tests of cloud scheduler drivers, alone and under an app's plans."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from cloudq.app import CloudQ
from cloudq.driver import Code, OneTimeEntry, OneTimeScheduler
from cloudq.driver.schedulers import Job, SchedulerDriver
from cloudq.errors import ConfigurationError, ServiceError
from cloudq.schedules.cloud_sync import Incomplete, Plan, Scheduler
from cloudq.schedules.when import crontab, every, solar


class OneTimeDriver(SchedulerDriver, OneTimeScheduler, Protocol):
    """A scheduler's driver that sends single messages as well."""


def _unique() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


class _Fixtures:
    @pytest.fixture
    def driver(self) -> Any:
        """Override it: the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self) -> str:
        """Override it: the name of an existing queue."""
        raise NotImplementedError

    @pytest.fixture
    def group(self) -> str:
        """The name of a group that there is not yet."""
        return _unique()


class ScheduleContract(_Fixtures):
    """Subclass it as `Test...`, and give the fixtures `driver`, `away`, `queue` and `app`.

    `away` is a driver of a service that does not answer. `app` has a name of its own, a task
    `note` that takes a keyword `tag`, a result backend, and `queue` as its default queue.
    """

    @pytest.fixture
    def away(self) -> SchedulerDriver:
        """Override it: a driver whose service does not answer."""
        raise NotImplementedError

    @pytest.fixture
    def app(self) -> CloudQ:
        """Override it: an app with the task `note`."""
        raise NotImplementedError

    @pytest.fixture
    def job(self, driver: SchedulerDriver, group: str, queue: str) -> Callable[..., Job]:
        """Makes jobs of this group, by the entry's name."""
        expressions = {"eventbridge": "cron(30 7 * * ? *)", "unix-cron": "30 7 * * *"}

        def make(entry: str, **more: Any) -> Job:
            given: dict[str, Any] = {
                "expression": expressions[driver.dialect],
                "timezone": "Europe/Vienna",
                "queue": queue,
                "body": '{"task":"a \\u00fc"}',
                "description": f"cloudq shop: {entry}",
                "owner": "shop",
                **more,
            }
            return Job(name=driver.name(group, entry), **given)

        return make

    @pytest.fixture
    def cloud(self, app: CloudQ, driver: SchedulerDriver) -> Scheduler:
        """The app's plans."""
        return Scheduler(app.schedules, driver, url="cloud://")

    def declare(self, app: CloudQ, when: object, name: str, **more: Any) -> None:
        """Declare a schedule of the task."""
        app.periodic(when, name=name, **more)(app.tasks["note"])

    def anew(self, app: CloudQ) -> None:
        """Forget what was declared, as another version of the code."""
        app.schedules._declared.clear()  # pyright: ignore[reportPrivateUsage]

    def apply(self, cloud: Scheduler) -> list[tuple[str, str]]:
        """Carry a plan out; its changes, by the names of the entries."""
        plan = cloud.plan()
        cloud.apply(plan)
        assert cloud.plan().steps == []
        return self.shown(plan)

    def shown(self, plan: Plan) -> list[tuple[str, str]]:
        """The changes of a plan. Names begin with the group's where there are no groups."""
        return sorted(
            (step.action, step.name.removeprefix(f"{plan.group}-")) for step in plan.steps
        )

    # ---- the driver by itself

    def test_what_is_made_is_there_as_it_was_said(
        self, driver: SchedulerDriver, group: str, job: Callable[..., Job]
    ) -> None:
        jobs = [job("a"), job("b", enabled=False), job("c", body='{"x":1}')]
        for each in jobs:
            driver.create(group, each)
        there = driver.current(group)
        assert there == {each.name: driver.fields(each) for each in jobs}
        assert there[jobs[0].name]["description"] == "cloudq shop: a"
        assert len({str(fields) for fields in there.values()}) == 3

    def test_a_group_that_there_is_not_is_empty_and_nobodys(
        self, driver: SchedulerDriver, group: str
    ) -> None:
        assert driver.current(group) == {}
        assert driver.owner(group) is None

    def test_a_group_is_that_of_who_made_it(
        self, driver: SchedulerDriver, group: str, job: Callable[..., Job]
    ) -> None:
        driver.create(group, job("a"))
        driver.create(group, job("b", owner="another"))
        assert driver.owner(group) in ("shop", None)

    def test_groups_are_apart(
        self, driver: SchedulerDriver, group: str, job: Callable[..., Job]
    ) -> None:
        other = _unique()
        driver.create(group, job("a"))
        driver.create(other, replace(job("a"), name=driver.name(other, "a")))
        assert list(driver.current(group)) == [driver.name(group, "a")]
        driver.delete(other, driver.name(other, "a"))
        assert list(driver.current(group)) == [driver.name(group, "a")]

    @pytest.mark.parametrize(
        "change",
        [
            {"body": '{"x":2}'},
            {"timezone": "UTC"},
            {"enabled": False},
            {"description": "cloudq shop: another"},
        ],
    )
    def test_what_is_changed_is_all_that_changes(
        self,
        driver: SchedulerDriver,
        group: str,
        job: Callable[..., Job],
        change: dict[str, Any],
    ) -> None:
        assert driver.fields(job("a", **change)) != driver.fields(job("a"))
        for each in (job("a"), job("b")):
            driver.create(group, each)
        for wanted in (job("a", **change), job("a", **change), job("a")):
            driver.update(group, wanted)
            assert driver.current(group) == {
                wanted.name: driver.fields(wanted),
                job("b").name: driver.fields(job("b")),
            }

    def test_starts_ends_and_windows_where_it_has_them(
        self, driver: SchedulerDriver, group: str, job: Callable[..., Job]
    ) -> None:
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        more: dict[str, Any] = {}
        if driver.bounds:
            more |= {"start": start, "end": start + timedelta(days=1)}
        if driver.spread:
            more["window"] = 5
        for name, value in more.items():
            assert driver.fields(job("a", **{name: value})) != driver.fields(job("a")), name
        driver.create(group, job("a", **more))
        assert driver.current(group) == {job("a").name: driver.fields(job("a", **more))}

    def test_what_is_deleted_is_gone_and_may_be_deleted_again(
        self, driver: SchedulerDriver, group: str, job: Callable[..., Job]
    ) -> None:
        for each in (job("a"), job("b")):
            driver.create(group, each)
        driver.delete(group, job("a").name)
        driver.delete(group, job("a").name)
        assert list(driver.current(group)) == [job("b").name]

    def test_one_that_is_there_is_not_made_again(
        self, driver: SchedulerDriver, group: str, job: Callable[..., Job]
    ) -> None:
        driver.create(group, job("a"))
        with pytest.raises(Exception) as caught:
            driver.create(group, job("a", body="{}"))
        assert driver.error_code(caught.value) == Code.EXISTS
        assert driver.current(group) == {job("a").name: driver.fields(job("a"))}

    def test_one_that_is_gone_is_not_updated(
        self, driver: SchedulerDriver, group: str, job: Callable[..., Job]
    ) -> None:
        driver.create(group, job("a"))
        with pytest.raises(Exception) as caught:
            driver.update(group, job("b"))
        assert driver.error_code(caught.value) == Code.NOT_FOUND

    def test_a_service_that_is_away(self, away: SchedulerDriver, app: CloudQ, group: str) -> None:
        with pytest.raises(Exception) as caught:
            away.current(group)
        assert away.error_code(caught.value) == Code.UNREACHABLE
        with pytest.raises(ServiceError, match="cannot look at schedules in cloud://") as wrapped:
            Scheduler(app.schedules, away, url="cloud://").plan()
        assert wrapped.value.code == Code.UNREACHABLE

    @pytest.mark.parametrize("name", ["every day", "tägl", ""])
    def test_a_name_that_the_service_does_not_take(
        self, driver: SchedulerDriver, group: str, name: str
    ) -> None:
        if name:
            with pytest.raises(ConfigurationError, match="give another name"):
                driver.name(group, name)
        assert driver.name(group, "a.b-c_d")

    # ---- an app's plans

    def test_the_cloud_is_made_equal_to_the_code(self, app: CloudQ, cloud: Scheduler) -> None:
        self.declare(app, crontab("30 7 * * 1-5"), "morning", timezone="Europe/Vienna")
        self.declare(app, every(900), "often", kwargs={"tag": "o"})
        self.declare(app, every(3600), "off", enabled=False)
        assert self.apply(cloud) == [("create", "morning"), ("create", "off"), ("create", "often")]
        assert len(cloud.plan().equal) == 3
        self.anew(app)
        self.declare(app, crontab("45 7 * * 1-5"), "morning", timezone="Europe/Vienna")
        self.declare(app, every(3600), "off")
        self.declare(app, every(1800), "seldom")
        plan = cloud.plan()
        states = [step.parts["state"] for step in plan.steps if step.name.endswith("off")]
        assert [now for _, now in states] == ["ENABLED"]
        [morning] = [step.parts for step in plan.steps if step.name.endswith("morning")]
        # The message has the crontab, from which a worker may reckon when it was due.
        assert set(morning) == {"expression", "message"}
        assert self.apply(cloud) == [
            ("create", "seldom"),
            ("delete", "often"),
            ("update", "morning"),
            ("update", "off"),
        ]

    def test_plans_do_not_depend_on_when_they_are_made(self, app: CloudQ, cloud: Scheduler) -> None:
        self.declare(app, crontab("30 7 * * *"), "morning", expires=60)
        [first] = cloud.jobs().values()
        time.sleep(0.01)  # another moment
        [second] = cloud.jobs().values()
        assert first == second

    def test_others_entries_are_left_alone(
        self, app: CloudQ, cloud: Scheduler, driver: SchedulerDriver
    ) -> None:
        self.declare(app, every(900), "often")
        self.apply(cloud)
        [own] = cloud.jobs().values()
        name = driver.name(cloud.group, "by-hand")
        foreign = replace(own, name=name, description="made by hand")
        driver.create(cloud.group, foreign)
        plan = cloud.plan()
        assert (plan.steps, plan.foreign) == ([], [name])
        self.declare(app, every(3600), "by-hand")
        with pytest.raises(ConfigurationError, match=r"by-hand'.*does not belong to this app"):
            cloud.plan()
        self.anew(app)
        assert self.apply(cloud) == [("delete", "often")]
        assert driver.current(cloud.group) == {name: driver.fields(foreign)}

    def test_pauses_and_schedules_of_run_time_go_to_the_cloud(
        self, app: CloudQ, cloud: Scheduler
    ) -> None:
        self.declare(app, every(900), "often")
        app.schedules.add("dynamic", "note", crontab("0 6 * * *"))
        app.schedules.pause("often")
        assert self.apply(cloud) == [("create", "dynamic"), ("create", "often")]
        app.schedules.resume("often")
        app.schedules.delete("dynamic")
        assert self.apply(cloud) == [("delete", "dynamic"), ("update", "often")]

    def test_nothing_is_changed_when_one_cannot_be(
        self, app: CloudQ, cloud: Scheduler, driver: SchedulerDriver
    ) -> None:
        self.declare(app, every(900), "a-good")
        self.declare(app, solar("sunset", 48.2, 16.4), "bad")
        with pytest.raises(ConfigurationError, match="schedule 'bad'"):
            cloud.plan()
        assert driver.current(cloud.group) == {}

    def test_what_was_done_is_said_when_it_ends_early(
        self, app: CloudQ, cloud: Scheduler, driver: SchedulerDriver
    ) -> None:
        for name in ("a", "b", "c"):
            self.declare(app, every(900), name)
        plan = cloud.plan()
        a, b, c = (step.name for step in plan.steps)
        [made] = [step.job for step in plan.steps if step.name == b]
        assert made is not None
        driver.create(cloud.group, made)  # somebody is quicker
        with pytest.raises(Incomplete, match="1 of 3 changes were made") as caught:
            cloud.apply(plan)
        assert (caught.value.done, caught.value.left) == ((a,), (b, c))
        assert caught.value.code == Code.EXISTS
        assert self.apply(cloud) == [("create", "c")]


class OneTimeContract(_Fixtures):
    """Subclass it as `Test...`, and give the fixtures `driver` and `queue`: see `OneTimeScheduler`.

    `schedules` has to tell what entries the service has in a group.
    """

    def entries(self, driver: OneTimeDriver, group: str) -> list[str]:
        """Override it: the names of what the service itself has in a group."""
        raise NotImplementedError

    @pytest.fixture
    def entry(self, queue: str) -> OneTimeEntry:
        """An entry that fires in a day."""
        return OneTimeEntry(
            name=f"{_unique()}.1",
            time=float(int(time.time()) + 86_400),
            queue=queue,
            body='{"v":1}',
            owner="shop",
            description="cloudq shop eta: a",
        )

    def test_an_entry_of_a_name_is_one(
        self, driver: OneTimeDriver, group: str, entry: OneTimeEntry
    ) -> None:
        for _ in range(2):
            driver.once(group, entry)
        assert self.entries(driver, group) == [entry.name]
        assert driver.owner(group) in ("shop", None)
        driver.once(group, replace(entry, name=f"{entry.name}2"))
        assert len(self.entries(driver, group)) == 2

    def test_it_is_taken_back_once(
        self, driver: OneTimeDriver, group: str, entry: OneTimeEntry
    ) -> None:
        assert not driver.forget(group, entry.name)
        other = replace(entry, name=f"{entry.name}2")
        for each in (entry, other):
            driver.once(group, each)
        assert driver.forget(group, entry.name)
        assert not driver.forget(group, entry.name)
        assert self.entries(driver, group) == [other.name]
