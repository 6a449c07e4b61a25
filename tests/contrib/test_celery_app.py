"""Celery's names over cloudq: the app, options of tasks and calls, exceptions, fixtures."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import cloudq
from cloudq import ConfigurationError, signals
from cloudq.contrib import celery as layer
from cloudq.contrib.celery import Celery, IgnoredByCloudQ, chain, chord, exceptions, group, states
from cloudq.contrib.celery.app import REFUSED
from cloudq.contrib.celery.control import REFUSED as REFUSED_OF_CONTROL
from cloudq.contrib.celery.control import REFUSED_OF_INSPECT, with_times
from cloudq.contrib.celery.options_table import CALL_OPTIONS, TASK_OPTIONS
from cloudq.contrib.celery.pytest import (
    celery_app,
    celery_class_tasks,
    celery_config,
    celery_includes,
    celery_parameters,
    celery_session_app,
    celery_session_worker,
    celery_worker,
    celery_worker_parameters,
    celery_worker_pool,
    use_celery_app_trap,
)
from cloudq.contrib.celery.rules import Fate, Rule
from cloudq.contrib.celery.task import call_options
from cloudq.contrib.celery.worker.control import control_command, inspect_command
from cloudq.results.record import State
from cloudq.testing import Worker, drain, eventually
from cloudq.testing.waiting import PATIENCE

__all__ = [
    "celery_app",
    "celery_class_tasks",
    "celery_config",
    "celery_includes",
    "celery_parameters",
    "celery_session_app",
    "celery_session_worker",
    "celery_worker",
    "celery_worker_parameters",
    "celery_worker_pool",
    "use_celery_app_trap",
]

# What the layer takes from rooms that another branch brings.


def _rules(table: Any, fate: Fate) -> list[Rule]:
    return [rule for rule in table.rules if rule.fate is fate]


@pytest.mark.parametrize("rule", _rules(TASK_OPTIONS, Fate.REFUSED), ids=lambda rule: rule.name)
def test_a_refused_task_option_raises_with_its_reason(celery_app: Celery, rule: Rule) -> None:
    with pytest.raises(ConfigurationError) as caught:
        celery_app.task(**{rule.name: "no other"})
    assert rule.why in str(caught.value)


@pytest.mark.parametrize("rule", _rules(TASK_OPTIONS, Fate.IGNORED), ids=lambda rule: rule.name)
def test_an_ignored_task_option_warns_once(celery_app: Celery, rule: Rule) -> None:
    def work() -> None: ...

    with pytest.warns(IgnoredByCloudQ, match=rule.name):
        celery_app.task(**{rule.name: "no other"})(work)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        celery_app.task(**{rule.name: "another"})(work)


def test_what_says_the_same_is_taken(celery_app: Celery) -> None:
    @celery_app.task(
        acks_late=True, reject_on_worker_lost=True, typing=True, time_limit=timedelta(minutes=1)
    )
    def work() -> int:
        return 1

    assert work() == 1
    assert work.policy.time_limit == 60.0


def test_an_option_that_nobody_has_is_a_type_error(celery_app: Celery) -> None:
    with pytest.raises(TypeError, match="acks_lately"):
        celery_app.task(acks_lately=True)


@pytest.mark.parametrize("rule", _rules(CALL_OPTIONS, Fate.REFUSED), ids=lambda rule: rule.name)
def test_a_refused_call_option_raises_with_its_reason(celery_app: Celery, rule: Rule) -> None:
    @celery_app.task
    def work() -> None: ...

    for call in (work.apply_async, lambda **options: celery_app.send_task("far.away", **options)):
        with pytest.raises(ConfigurationError) as caught:
            call(**{rule.name: "no other"})
        assert rule.why in str(caught.value)


def test_an_option_that_is_none_is_not_given() -> None:
    options = {"task_id": None, "exchange": None, "nobody_has": None, "countdown": 1}
    assert call_options(options, of="here", warned=set()) == {"countdown": 1}


def test_calls_take_celerys_options(celery_app: Celery, celery_worker: Worker) -> None:
    @celery_app.task
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.warns(IgnoredByCloudQ, match="add_to_parent"):
        result = add.apply_async(
            None, {"a": 1, "b": 2}, countdown=None, expires=timedelta(hours=1), add_to_parent=False
        )
    assert result.get(timeout=PATIENCE) == 3


WORKFLOWS: list[Any] = [
    lambda call, good: call,
    lambda call, good: chain(good, call),
    lambda call, good: chain(call, good),
    lambda call, good: group(good, call),
    lambda call, good: chord([call], good),
    lambda call, good: chord([good], call),
    lambda call, good: good.clone().link(call),
    lambda call, good: group(chain(good, group(call, good)), good),
]


@pytest.mark.filterwarnings("ignore::cloudq.contrib.celery.IgnoredByCloudQ")
@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("place", WORKFLOWS)
def test_calls_take_celerys_options_at_every_place(
    celery_app: Celery, place: Any, eagerly: bool
) -> None:
    ran: list[str] = []
    other = celery_app.task(name="other")(lambda *values: ran.append("other"))
    work = celery_app.task(name="work")(lambda *values: ran.append("work"))
    given: Any = {"expires": timedelta(hours=1), "countdown": None, "delivery_mode": 1}
    for call in (work.s().set(**given), work.signature((), **given), work.subtask(**given)):
        ran.clear()
        node = place(call, other.s())
        node.apply() if eagerly else node.apply_async()
        drain(celery_app)
        assert ran.count("work") == 1
    for wrong in ({"routing_key": "other"}, {"producer": "one"}):
        node = place(work.s().set(**wrong), other.s())
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            node.apply() if eagerly else node.apply_async()
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            work.signature(**wrong)
    assert drain(celery_app) == []


@pytest.mark.filterwarnings("ignore::cloudq.contrib.celery.IgnoredByCloudQ")
def test_options_of_a_workflow_may_be_celerys(celery_app: Celery) -> None:
    ran: list[str] = []
    work = celery_app.task(name="work")(lambda *values: ran.append("work"))
    for node in (chain(work.s(), work.s()), group(work.s(), work.s()), chord([work.s()], work.s())):
        ran.clear()
        node.apply_async(expires=timedelta(hours=1), add_to_parent=False)
        drain(celery_app)
        assert ran == ["work", "work"]
        with pytest.raises(ConfigurationError, match="routing_key"):
            node.apply_async(routing_key="other")


def test_fixtures_run_tasks_retries_and_chains(celery_app: Celery, celery_worker: Worker) -> None:
    @celery_app.task
    def add(a: int, b: int) -> int:
        return a + b

    @celery_app.task(bind=True, max_retries=2, default_retry_delay=0)
    def flaky(self: cloudq.Task[..., Any]) -> int:
        if self.request.retries < 2:
            raise self.retry(exc=ValueError("not yet"))
        return self.request.retries

    assert add.delay(2, 2).get(timeout=PATIENCE) == 4
    assert chain(add.s(1, 1), add.s(5)).delay().get(timeout=PATIENCE) == 7
    assert group([add.s(1, 1), add.s(2, 2)]).delay().get(timeout=PATIENCE) == [2, 4]
    assert flaky.delay().get(timeout=PATIENCE) == 2

    @celery_app.task
    def total(values: list[int]) -> int:
        return sum(values)

    assert chord([add.s(n, n) for n in range(3)])(total.s()).get(timeout=PATIENCE) == 6


def test_a_failure_that_no_test_waited_for_is_raised_at_the_end(tmp_path: Path) -> None:
    app = Celery("shop", broker=f"sqlite:///{tmp_path}/no/such/folder/q.db")
    with pytest.raises(cloudq.CloudQError, match="folder"), Worker(app) as worker:
        eventually(lambda: worker.failed)


class TestFixturesWithSettings:
    @pytest.fixture(scope="session")
    @classmethod
    def celery_config(cls) -> dict[str, Any]:
        return {"task_time_limit": 7, "broker_url": "memory://of-the-class"}

    @pytest.fixture(scope="session")
    @classmethod
    def celery_parameters(cls) -> dict[str, Any]:
        return {"main": "mine", "changes": {"pages": 3}}

    def test_they_are_what_the_app_is_made_with(self, celery_app: Celery) -> None:
        conf = celery_app.conf
        assert (celery_app.main, conf.pages, conf.task_time_limit) == ("mine", 3, 7)
        assert conf.broker_url == "memory://of-the-class"


class TestExceptions:
    def test_each_is_one_of_cloudqs(self) -> None:
        for name in exceptions.__all__:
            kind = getattr(exceptions, name)
            assert issubclass(kind, cloudq.CloudQError), name
            assert kind.__module__ == "cloudq.errors", name

    @pytest.mark.parametrize("name", exceptions.REFUSED)
    def test_what_there_is_not_says_why(self, name: str) -> None:
        with pytest.raises(ImportError, match=name):
            getattr(exceptions, name)

    def test_what_tasks_raise_is_caught_under_celerys_names(self, celery_app: Celery) -> None:
        @celery_app.task(bind=True, max_retries=0)
        def gives_up(self: cloudq.Task[..., Any]) -> None:
            raise self.retry()

        with pytest.raises(exceptions.MaxRetriesExceededError):
            gives_up.apply().get()
        with pytest.raises(exceptions.TimeoutError):
            gives_up.delay().get(timeout=0.01)
        with pytest.raises(exceptions.ImproperlyConfigured):
            Celery("other", broker="redis://")


class TestNames:
    def test_states_are_those_of_records(self, celery_app: Celery) -> None:
        result = celery_app.AsyncResult("unknown")
        assert result.state == states.PENDING
        assert states.PENDING in states.UNREADY_STATES
        assert states.SUCCESS in states.READY_STATES
        assert states.READY_STATES.isdisjoint(states.UNREADY_STATES)
        assert [name for name in State if getattr(states, name, None) != name] == []
        assert [name for name in State if name not in states.ALL_STATES] == []

    @pytest.mark.parametrize("module", ["", ".canvas", ".result", ".exceptions"])
    def test_every_name_is_there(self, module: str) -> None:
        found = importlib.import_module(f"cloudq.contrib.celery{module}")
        for name in found.__all__:
            assert getattr(found, name) is not None

    def test_it_implements_little(self) -> None:
        assert type(layer.group()) is cloudq.group
        assert type(layer.chord([])) is cloudq.chord
        assert issubclass(layer.Celery, cloudq.CloudQ)
        assert issubclass(layer.Task, cloudq.Task)

    @pytest.mark.parametrize("name", REFUSED)
    def test_parts_of_the_app_that_there_are_not_say_why(
        self, celery_app: Celery, name: str
    ) -> None:
        with pytest.raises(AttributeError, match=name) as caught:
            getattr(celery_app, name)
        assert REFUSED[name] in str(caught.value)
        assert not hasattr(cloudq.CloudQ, name), "cloudq has it by now"

    def test_what_nobody_has_is_an_attribute_error(self, celery_app: Celery) -> None:
        with pytest.raises(AttributeError, match="'nothing'"):
            _ = celery_app.nothing

    def test_schedules_are_those_of_cloudq(self) -> None:
        assert layer.solar("sunset", 48.2, 16.4) == cloudq.solar("sunset", 48.2, 16.4)
        assert layer.crontab is cloudq.crontab
        assert layer.schedule(30.0) == cloudq.every(30)
        with pytest.raises(ConfigurationError, match="start="):
            layer.schedule(30.0, relative=True)

    def test_celery_takes_the_constructors_arguments(self) -> None:
        app = Celery(
            "shop",
            broker="memory://names",
            backend="memory://names",
            include=["shop.orders"],
            changes={"task_time_limit": 5},
            config_source={"task_soft_time_limit": 2},
        )
        assert (app.main, app.name) == ("shop", "shop")
        assert app.conf.include == ["shop.orders"]
        assert (app.conf.task_time_limit, app.conf.task_soft_time_limit) == (5, 2)

    def test_an_app_need_not_be_current(self) -> None:
        first = Celery("first", broker="memory://names")
        second = Celery("second", broker="memory://names", set_as_current=False)
        assert (first.set_as_current, second.set_as_current) == (True, False)
        assert layer.current_app == first

    def test_the_apps_small_parts_are_celerys(self, celery_app: Celery) -> None:
        celery_app.conf.timezone = "Europe/Vienna"
        now = celery_app.now()
        assert abs((now - datetime.now(UTC)).total_seconds()) < 60
        assert str(celery_app.timezone) == str(now.tzinfo) == "Europe/Vienna"
        assert not celery_app.uses_utc_timezone()
        assert celery_app.either("timezone", None, 3) == 3
        assert celery_app.either("timezone", None) == "Europe/Vienna"
        assert celery_app.oid == celery_app.oid != Celery("other", broker="memory://names").oid
        assert celery_app.thread_oid
        assert (celery_app.current_task, celery_app.current_worker_task) == (None, None)
        assert "timezone: 'Europe/Vienna'" in celery_app.bugreport()
        assert "cloudq:" in celery_app.bugreport()
        assert celery_app.gen_task_name("add", "shop.tasks") == "shop.tasks.add"
        assert celery_app.annotations == ()
        celery_app.finalize()
        with pytest.raises(ConfigurationError, match="cloudq worker"):
            celery_app.start(["worker"])
        result = celery_app.send_task("far.away")
        assert list(celery_app.ResultSet([result])) == [result]
        assert celery_app.GroupResult("one", [result]).id == "one"

    def test_a_signature_needs_no_app(self) -> None:
        code = (
            "from cloudq.contrib.celery import signature, shared_task, Celery\n"
            "call = signature('add', args=(1, 2))\n"
            "@shared_task\n"
            "def add(a, b): return a + b\n"
            "assert (add.__name__, add.__module__) == ('add', '__main__')\n"
            "assert (call.task, call.args) == ('add', (1, 2))\n"
            "app = Celery('shop', broker='memory://')\n"
            "assert signature('add').app is app\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class TestCurrent:
    def test_a_shared_task_belongs_to_the_current_app(
        self, celery_app: Celery, celery_worker: Worker
    ) -> None:
        @layer.shared_task(bind=True, acks_late=True)
        def who(self: Any) -> list[Any]:
            return [self.name, self.app.name, bool(layer.current_task), layer.current_task.name]

        celery_app.set_current()
        result = who.delay()
        name = f"{__name__}.TestCurrent.test_a_shared_task_belongs_to_the_current_app.who"
        assert result.get(timeout=PATIENCE) == [name, "celery.tests", True, name]
        assert not layer.current_task
        assert layer.current_app == celery_app
        assert layer.current_app.name == "celery.tests"
        assert isinstance(result, layer.AsyncResult)
        assert layer.AsyncResult(result.id).get(timeout=1) == result.get()
        assert layer.AsyncResult(result.id, app=celery_app).successful()

    def test_a_shared_task_refuses_options_where_it_is_declared(self) -> None:
        with pytest.raises(ConfigurationError, match="at least once"):
            layer.shared_task(acks_late=False)

    def test_signatures_by_name_find_the_app(
        self, celery_app: Celery, celery_worker: Worker
    ) -> None:
        @celery_app.task(name="add")
        def add(a: int, b: int) -> int:
            return a + b

        celery_app.set_current()
        made = layer.signature("add", args=(1,), kwargs={"b": 2})
        assert made.delay().get(timeout=PATIENCE) == 3
        assert layer.signature(made.to_dict()) == made
        assert layer.maybe_signature(None) is None
        assert layer.maybe_signature(made) is made
        assert layer.chunks(add.s(), [(1, 1), (2, 2), (3, 3)], 2).delay().get(timeout=PATIENCE) == [
            [2, 4],
            [6],
        ]
        assert layer.xstarmap(add, [(1, 1)]).delay().get(timeout=PATIENCE) == [2]

    def test_groups_are_restored(self, celery_app: Celery, celery_worker: Worker) -> None:
        @celery_app.task
        def double(a: int) -> int:
            return a * 2

        celery_app.set_current()
        result = group([double.s(1), double.s(2)]).delay()
        result.save()
        found = layer.GroupResult.restore(result.id)
        assert found is not None
        assert found.get(timeout=PATIENCE) == [2, 4]
        assert celery_app.GroupResult.restore("none") is None

    def test_a_task_may_be_a_class(self, celery_app: Celery, celery_worker: Worker) -> None:
        class Double(layer.Task):
            name = "double"

            def run(self, a: int) -> int:
                return a * 2

        double = celery_app.register_task(Double())
        assert double.name == "double"
        assert double.delay(4).get(timeout=PATIENCE) == 8
        assert isinstance(celery_app.tasks["double"], Double)

    def test_signals_are_cloudqs_and_others_say_why(self, celery_app: Celery) -> None:
        assert layer.signals.task_failure is signals.task_failure
        with pytest.raises(ImportError, match="worker_init"):
            _ = layer.signals.celeryd_init
        with pytest.raises(AttributeError, match="task_failed"):
            _ = layer.signals.task_failed

    def test_periodic_tasks_are_asked_for_when_the_app_is_loaded(self, celery_app: Celery) -> None:
        @celery_app.task(name="add")
        def add(a: int, b: int) -> int:
            return a + b

        @celery_app.on_after_configure.connect
        def set_up(sender: Celery, **more: Any) -> None:
            sender.add_periodic_task(30.0, add.s(1, 2), name="often")

        celery_app.load()
        assert celery_app.conf.beat_schedule["often"] == {
            "task": "add",
            "schedule": 30.0,
            "args": (1, 2),
            "kwargs": {},
            "options": {},
        }
        assert set_up
        [entry] = celery_app.schedules.declared().values()
        assert (entry.name, entry.task, entry.when) == ("often", "add", cloudq.every(30))

    def test_entries_of_beat_schedule_have_celerys_options(self, celery_app: Celery) -> None:
        @celery_app.task(name="add")
        def add(a: int, b: int) -> int:
            return a + b

        assert add
        celery_app.conf.beat_schedule = {
            "add every 30 s": {
                "task": "add",
                "schedule": layer.crontab(minute="*/5"),
                "args": (1, 2),
                "options": {"queue": "sums", "expires": 15.0},
            }
        }
        [entry] = celery_app.schedules.declared().values()
        assert (entry.options, entry.expires, entry.args) == ({"queue": "sums"}, 15.0, (1, 2))
        celery_app.conf.beat_schedule["add every 30 s"]["options"] = {"exchange": "topics"}
        with pytest.raises(ConfigurationError, match="exchange"):
            celery_app.schedules.declared()

    def test_loggers_know_the_task(self) -> None:
        assert layer.get_task_logger("shop").name == "shop"


def test_control_and_inspect_have_celerys_names(celery_app: Celery) -> None:
    control: Any = celery_app.control
    for name in ("inspect", "ping", "revoke", "terminate", "rate_limit", "time_limit", "shutdown"):
        assert inspect.ismethod(getattr(control, name)), name
    for name in ("active", "reserved", "scheduled", "registered", "revoked", "stats", "conf"):
        assert inspect.ismethod(getattr(control.inspect(), name)), name
    assert control.inspect(timeout=0.01).ping() is None
    assert control.inspect(timeout=0.01).scheduled() is None
    assert control.discard_all() in (None, 0)
    for there, reasons in ((control, REFUSED_OF_CONTROL), (control.inspect(), REFUSED_OF_INSPECT)):
        for name, reason in reasons.items():
            with pytest.raises(AttributeError, match=name) as caught:
                getattr(there, name)
            assert reason in str(caught.value)
            assert not hasattr(there, "nothing")


def test_what_is_scheduled_has_its_time_as_text() -> None:
    given = [{"eta": 0.5, "request": {"id": "one"}}, {"eta": None}]
    assert with_times(given)[0]["eta"] == "1970-01-01T00:00:00.500000+00:00"
    assert with_times(given)[1]["eta"] is None
    assert with_times("no such command") == "no such command"


def test_commands_of_ones_own_have_celerys_decorators(celery_app: Celery) -> None:
    celery_app.set_current()

    @control_command(args=[("n", int)], signature="[N=1]", help="Sets it.")
    def set_level(state: Any, n: int) -> Any:
        return {"ok": n}

    @inspect_command()
    def level(state: Any) -> Any:
        return 1

    registry = celery_app.control.registry
    assert registry.find("set_level", "control").run is set_level
    assert registry.find("level", "inspect").run is level
    with pytest.raises(ConfigurationError, match="alias"):
        control_command(alias="lvl")


def test_a_schedule_that_is_relative_is_refused_at_once() -> None:
    entry = {"task": "add", "schedule": 30.0, "relative": True}
    with pytest.raises(ConfigurationError, match="start="):
        Celery("shop", broker="memory://shop", changes={"beat_schedule": {"often": entry}})
    app = Celery("shop", broker="memory://shop")
    with pytest.raises(ConfigurationError, match="start="):
        app.conf.beat_schedule = {"often": entry}


def test_receivers_of_signals_know_the_call(celery_app: Celery, celery_worker: Worker) -> None:
    seen: list[Any] = []

    def receive(sender: Any = None, request: Any = None, **more: Any) -> None:
        seen.append((request.id, request.task_id, request.name, request.task_name))

    work = celery_app.task(name="work")(lambda: 1)
    layer.signals.task_received.connect(receive)
    try:
        result = work.delay()
        result.get(timeout=PATIENCE)
    finally:
        layer.signals.task_received.disconnect(receive)
    assert seen == [(result.id, result.id, "work", "work")]
