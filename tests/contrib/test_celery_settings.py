"""A Celery project's settings: each is carried over, ignored with a warning, or refused."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cloudq import ConfigurationError
from cloudq.contrib.celery import Celery, IgnoredByCloudQ, crontab
from cloudq.contrib.celery.conf import is_setting
from cloudq.contrib.celery.rules import Fate, Rule, Table, carried, ignored, refused
from cloudq.contrib.celery.settings_table import KEPT, SETTINGS, modern
from cloudq.settings import DECLARED
from cloudq.tasks.call_options import Options

# All settings of Celery 5.7.
NAMES = (Path(__file__).parent / "celery_settings.txt").read_text().split()
OLD_NAMES = dict(
    line.split()
    for line in (Path(__file__).parent / "celery_old_names.txt").read_text().splitlines()
)
CARRIED = [r for r in SETTINGS.rules if r.fate is Fate.CARRIED and r.to in DECLARED]
REFUSED = [r for r in SETTINGS.rules if r.fate is Fate.REFUSED]
IGNORED = [r for r in SETTINGS.rules if r.fate is Fate.IGNORED]


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("shop", broker="memory://settings") as made:
        yield made


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("shop_celeryconfig")
    monkeypatch.setitem(sys.modules, "shop_celeryconfig", module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_of_celery_has_a_fate(name: str) -> None:
    assert is_setting(name)
    if name != "beat_schedule":
        assert SETTINGS.find(name) is not None


@pytest.mark.parametrize("old", OLD_NAMES)
def test_the_upper_case_names_of_celery_3_are_known(old: str) -> None:
    assert modern(old) == OLD_NAMES[old]


def test_every_rule_is_of_a_setting_that_celery_has() -> None:
    assert set(SETTINGS.names()) == set(NAMES) - KEPT
    assert len(SETTINGS.rules) == len(SETTINGS.names()), "a setting has two rules"


@pytest.mark.parametrize("rule", [*REFUSED, *IGNORED], ids=lambda rule: rule.name)
def test_what_is_not_carried_over_says_why(rule: Rule) -> None:
    assert len(rule.why) > 15


@pytest.mark.parametrize("rule", REFUSED, ids=lambda rule: rule.name)
def test_a_refused_setting_raises_with_its_reason(app: Celery, rule: Rule) -> None:
    name = rule.name
    before = app.conf.settings()
    with pytest.raises(ConfigurationError) as caught:
        app.conf.update({name: "a value of no other"})
    assert name in str(caught.value)
    assert rule.why in str(caught.value)
    assert app.conf.settings() == before


@pytest.mark.parametrize("rule", IGNORED, ids=lambda rule: rule.name)
def test_an_ignored_setting_warns_once(app: Celery, rule: Rule) -> None:
    name = rule.name
    with pytest.warns(IgnoredByCloudQ, match=name) as caught:
        app.conf.update({name: "a value of no other"})
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.conf.update({name: "another"})
    assert app.conf[name] == "another"


def test_each_app_warns_for_itself() -> None:
    for _ in range(2):
        with pytest.warns(IgnoredByCloudQ, match="broker_pool_limit"):
            Celery("shop", broker="memory://settings", broker_pool_limit=5)


@pytest.mark.parametrize(
    "harmless",
    [
        {"task_acks_late": True},
        {"worker_prefetch_multiplier": 1},
        {"task_reject_on_worker_lost": True},
        {"enable_utc": True},
        {"task_protocol": 2},
        {"broker_transport_options": {}},
        {"broker_transport_options": {"visibility_timeout": 3600, "socket_timeout": 5}},
        {"accept_content": ["json"], "task_serializer": "json", "result_serializer": "json"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_happens_here_anyway_is_taken_without_a_word(
    app: Celery, harmless: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.conf.update(harmless)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"task_acks_late": False}, "idempotent=True"),
        ({"worker_prefetch_multiplier": 4}, "what its free places can run"),
        (
            {"broker_transport_options": {"visibility_timeout": 60, "region": "eu-west-1"}},
            "region and endpoint are in the URL",
        ),
        ({"broker_url": "redis://localhost/0"}, "no broker for redis"),
        ({"broker_url": ["sqs://", "sqs://"]}, "one broker"),
        ({"result_backend": "rpc://"}, "never in a queue"),
        ({"result_backend": "db+postgresql://host/db"}, "no store for db"),
        ({"result_expires": None}, "give a long time"),
        ({"worker_pool": "eventlet"}, "gevent or asyncio"),
        ({"task_publish_retry_policy": {"max_retries": None}}, "give max_retries"),
        ({"result_serializer": "pickle"}, "results are always stored as JSON"),
        ({"result_serializer": "application/x-msgpack"}, "results are always stored as JSON"),
    ],
)
def test_values_that_cannot_be_name_the_alternative(
    app: Celery, values: dict[str, Any], part: str
) -> None:
    with pytest.raises(ConfigurationError, match=part) as caught:
        app.conf.update(values)
    assert "shop" in str(caught.value)


def test_all_refusals_come_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Celery("shop", broker="amqp://guest:secret@host//", task_acks_late=False)
    assert "amqp" in str(caught.value)
    assert "task_acks_late" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_settings_are_carried_over_with_their_units(app: Celery) -> None:
    app.conf.update(
        result_expires=timedelta(hours=2),
        task_time_limit=30,
        worker_concurrency=3,
        imports=("shop.orders",),
        include=["shop.billing"],
        task_publish_retry_policy={"max_retries": 7},
    )
    settings = app.conf.settings()
    assert settings.result_expires == 7200.0
    assert settings.task_time_limit == 30
    assert settings.worker_processes == app.conf.worker_concurrency == 3
    assert settings.include == ["shop.orders", "shop.billing"]
    assert settings.publish_retries == 7
    app.conf.update(task_publish_retry=False, task_publish_retry_policy={"max_retries": 5})
    assert app.conf.publish_retries == 0
    assert app.conf.broker_url == settings.broker == "memory://settings"


def test_routes_are_rid_of_exchanges(app: Celery) -> None:
    app.conf.task_routes = {"shop.*": {"queue": "a", "routing_key": "shop.a", "exchange": "shop"}}
    assert app.conf.task_routes == {"shop.*": {"queue": "a"}}
    app.conf.task_routes = ([("shop.*", {"queue": "b"})],)
    with pytest.raises(ConfigurationError, match="name the queue"):
        app.conf.task_routes = {"shop.*": {"routing_key": "shop.a"}}


@pytest.mark.parametrize("rule", CARRIED, ids=lambda rule: rule.name)
def test_a_carried_setting_is_read_under_its_name(app: Celery, rule: Rule) -> None:
    if rule.name not in IN_CELERYS_FORM:
        assert app.conf[rule.name] == getattr(app.conf.settings(), rule.to)


IN_CELERYS_FORM = {
    "result_expires": timedelta(days=1),
    "task_publish_retry": True,
    "task_publish_retry_policy": {"max_retries": 3},
    "timezone": None,
    "worker_pool": "prefork",
    "worker_send_task_events": False,
}


@pytest.mark.parametrize(
    ("name", "given", "ours"),
    [
        ("result_expires", 60, 60.0),
        ("result_expires", timedelta(hours=2), 7200.0),
        ("task_publish_retry", False, 0),
        ("task_time_limit", timedelta(minutes=1), 60.0),
        ("timezone", "Asia/Tokyo", "Asia/Tokyo"),
        ("timezone", ZoneInfo("Asia/Tokyo"), "Asia/Tokyo"),
        ("worker_pool", "threads", "threads"),
        ("worker_send_task_events", True, "tracked"),
    ],
)
def test_a_setting_is_read_as_it_was_given(app: Celery, name: str, given: Any, ours: Any) -> None:
    if name in IN_CELERYS_FORM:
        assert app.conf[name] == IN_CELERYS_FORM[name]
    app.conf.update({name: given})
    assert app.conf[name] == given
    assert getattr(app.conf.settings(), SETTINGS.find(name).to) == ours


def test_a_setting_of_another_source_is_read_too(app: Celery) -> None:
    app.conf.result_expires = 60
    app.configure(result_expires=30.0, timezone="Asia/Tokyo")
    assert (app.conf.result_expires, app.conf.timezone) == (30.0, "Asia/Tokyo")


def test_a_module_is_read_in_lower_and_in_upper_case(app: Celery, config: types.ModuleType) -> None:
    vars(config).update(
        task_time_limit=10, CELERYD_TASK_SOFT_TIME_LIMIT=5, CELERY_ALWAYS_EAGER=True, PAGES=3, os=1
    )
    app.config_from_object("shop_celeryconfig")
    settings = app.conf.settings()
    assert (settings.task_time_limit, settings.task_soft_time_limit) == (10, 5)
    assert settings.task_always_eager


@pytest.mark.parametrize("prefix", ["CELERY_", "celery_"])
def test_a_namespace_reads_only_its_own(app: Celery, config: types.ModuleType, prefix: str) -> None:
    vars(config).update(
        {
            f"{prefix}TASK_TIME_LIMIT": 10,
            f"{prefix}beat_schedule": {"a": 1},
            "TASK_ALWAYS_EAGER": True,
            "DEBUG": True,
        }
    )
    app.config_from_object("shop_celeryconfig", namespace="CELERY")
    assert app.conf.task_time_limit == 10
    assert app.conf.beat_schedule == {"a": 1}
    assert not app.conf.task_always_eager


def test_what_a_namespace_spells_wrong_is_named(app: Celery, config: types.ModuleType) -> None:
    config.CELERY_TASK_TIME_LIMITS = 10  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="did you mean task_time_limit"):
        app.config_from_object("shop_celeryconfig", namespace="CELERY")


def test_an_object_in_a_module_is_found_by_colon_and_by_dot(
    app: Celery, config: types.ModuleType
) -> None:
    class Production:
        task_time_limit = 10

    config.Production = Production  # type: ignore[attr-defined]
    for path in ("shop_celeryconfig:Production", "shop_celeryconfig.Production"):
        with Celery("other", broker="memory://settings") as other:
            other.config_from_object(path)
            assert other.conf.task_time_limit == 10
    app.config_from_object(Production)
    assert app.conf.task_time_limit == 10


def test_a_module_that_there_is_not_is_an_error_unless_silent(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="no_such_config"):
        app.config_from_object("no_such_config")
    app.config_from_object("no_such_config", silent=True)


def test_a_variable_names_the_module(
    app: Celery, config: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.task_time_limit = 10  # type: ignore[attr-defined]
    monkeypatch.setenv("SHOP_CONFIG", "shop_celeryconfig")
    app.config_from_envvar("SHOP_CONFIG")
    assert app.conf.task_time_limit == 10
    with pytest.raises(ConfigurationError, match="NO_CONFIG"):
        app.config_from_envvar("NO_CONFIG")


def test_what_the_program_sets_stands_above_its_config_object(app: Celery) -> None:
    app.conf.task_time_limit = 10
    app.config_from_object(
        {"task_time_limit": 20, "task_soft_time_limit": 5, "broker_url": "redis://"}
    )
    assert app.conf.task_time_limit == 10
    assert app.conf.task_soft_time_limit == 5
    assert app.conf.broker_url == "memory://settings"


def test_settings_of_the_programs_own_are_kept(app: Celery) -> None:
    app.conf.update({"pages": 3}, colour="blue")
    app.conf["PAGE_SIZE"] = 10
    held = app.conf
    held.task_time_limit = 10
    assert held.task_time_limit == app.conf.task_time_limit == 10
    assert (app.conf.pages, app.conf["colour"], app.conf.PAGE_SIZE) == (3, "blue", 10)
    assert app.conf.get("nothing", 7) == 7
    assert app.conf.setdefault("nothing", 8) == 8
    assert "nothing" in app.conf
    assert "something" not in app.conf
    with pytest.raises(KeyError):
        app.conf["something"]
    with pytest.raises(AttributeError, match="something"):
        _ = app.conf.something


def test_cloudqs_own_settings_stand_beside_them(app: Celery) -> None:
    app.conf.update(lease=30, task_time_limit=10)
    assert app.conf.settings().lease == 30


def test_a_change_that_cannot_be_changes_nothing(app: Celery) -> None:
    with pytest.raises(ConfigurationError):
        app.conf.update(task_time_limit=-1, pages=3)
    assert app.conf.task_time_limit is None
    assert "pages" not in app.conf


def test_settings_change_after_the_broker_is_open_but_for_its_own(app: Celery) -> None:
    opened = app.broker
    app.conf.task_always_eager = True
    assert app.conf.task_always_eager
    assert app.broker is opened
    with pytest.raises(ConfigurationError, match="before that"):
        app.conf.broker_url = "memory://elsewhere"


def test_queue_and_threads_are_celerys_unless_somebody_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Celery("shop", broker="memory://settings")
    assert (app.conf.task_default_queue, app.conf.worker_threads) == ("celery", 1)
    monkeypatch.setenv("CLOUDQ_WORKER_THREADS", "4")
    app = Celery("shop", broker="memory://settings", task_default_queue="shop")
    assert (app.conf.task_default_queue, app.conf.worker_threads) == ("shop", 4)


def test_schedules_are_a_setting_and_beat_is_a_command(app: Celery) -> None:
    entry = {"task": "shop.sum", "schedule": crontab(hour=6, minute=30)}
    app.conf.beat_schedule = {"sum": entry}
    assert app.conf.beat_schedule == {"sum": entry}
    with pytest.raises(ConfigurationError, match="cloudq beat"):
        app.Beat()


def test_a_table_says_what_a_release_lacks() -> None:
    table = Table("setting", [carried("a", "b"), *refused("of no use", "c"), *ignored("?", "d")])
    assert table.apply({"a": 1}, of="here", ours={"b"}, warned=set()) == {"b": 1}
    with pytest.raises(ConfigurationError, match="this release has no setting 'b'"):
        table.apply({"a": 1}, of="here", ours=set(), warned=set())


def test_names_of_a_module_that_only_look_like_settings_are_left_alone(
    app: Celery, config: types.ModuleType
) -> None:
    vars(config).update(redis_url="redis://", control_panel=1, database_name="shop")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.config_from_object(config)
    assert "redis_url" not in app.conf


def test_settings_that_are_not_given_can_be_read() -> None:
    app = Celery("shop", broker="memory://shop", changes={"pages": 3})
    conf = app.conf
    assert (conf.broker_pool_limit, conf.worker_prefetch_multiplier) == (10, 1)
    assert (conf.task_acks_late, conf["enable_utc"], conf.redis_host) == (True, True, None)
    names = {rule.name for rule in SETTINGS.rules}
    assert names <= set(conf)
    assert len(dict(conf)) == len(conf) > 200
    assert conf.without_defaults() == {"pages": 3, "broker_url": "memory://shop"}
    assert conf.get_by_parts("task", "time", "limit") is None
    app.conf.update(security_key=None, own_password="geheim", own_url="sqs://me:geheim@there")
    assert "pages: 3" in conf.humanize()
    assert "geheim" not in conf.humanize(with_defaults=True)
    with pytest.raises(AttributeError, match="nobody_has"):
        _ = conf.nobody_has


def test_of_an_object_only_settings_are_read() -> None:
    class Source:
        CELERY_TASK_TIME_LIMIT = 7
        task_soft_time_limit = 3

        @property
        def SECRET_KEY(self) -> str:  # noqa: N802
            raise RuntimeError("there is none")

    for namespace, found in (("CELERY", (7, None)), (None, (7, 3))):
        app = Celery("shop", broker="memory://shop")
        app.config_from_object(Source(), namespace=namespace)
        assert (app.conf.task_time_limit, app.conf.task_soft_time_limit) == found


def by_function(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
    return {"queue": "films", "exchange": "x", "routing_key": "y"} if name == "film" else None


class ByMethod:
    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": "films"} if task == "film" else None


@pytest.mark.parametrize("router", [by_function, (by_function,), ByMethod(), [ByMethod()]])
def test_a_router_is_a_function_or_has_a_method(router: Any) -> None:
    with Celery("routed", broker="memory://routed", task_routes=router) as app:
        film: Any = app.task(name="film")(lambda: None)
        other: Any = app.task(name="other")(lambda: None)
        queues = [app.publisher.builder.queue_of(t.name, (), {}, Options()) for t in (film, other)]
        assert queues == ["films", "celery"]


def test_a_router_without_a_queue_is_refused() -> None:
    routes = [lambda name, *_, **__: {"routing_key": "x"}]
    with (
        Celery("routed", broker="memory://routed", task_routes=routes) as app,
        pytest.raises(ConfigurationError, match="routing_key and no queue"),
    ):
        app.send_task("film")


def test_annotations_have_celery_s_options_and_attributes_of_one_s_own() -> None:
    options: dict[str, Any] = {
        "acks_late": True,
        "rate_limit": "10/s",
        "retry_backoff": 5,
        "time_limit": timedelta(seconds=9),
        "compression": "gzip",
        "tenant": "north",
    }
    with Celery("told", broker="memory://told", task_annotations={"add": options}) as app:
        add: Any = app.task(name="add")(lambda: None)
        read = [getattr(add, name) for name in options]
        assert read == [True, "10/s", 5, 9.0, "zlib", "north"]
        assert add.policy.retry_backoff == 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"acks_late": False}, "delivery is at least once"),
        ({"rate_limits": "1/s"}, "'rate_limits' of add is no option"),
        ({"@__call__": print}, "'@__call__' of add is no option"),
    ],
)
def test_annotations_that_cannot_be_are_refused(options: Any, reason: str) -> None:
    with (
        Celery("told", broker="memory://told", task_annotations={"add": options}) as app,
        pytest.raises(ConfigurationError, match=reason),
    ):
        app.task(name="add")(lambda: None)
