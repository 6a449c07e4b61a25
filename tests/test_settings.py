"""Settings: where they come from, which source wins, and what cannot be."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError
from cloudq.driver.loader import parse


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a cloudq.toml, where a test may put one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_need_nothing() -> None:
    conf = CloudQ().conf
    assert (conf.broker, conf.backend, conf.backend_url) == (
        "sqlite:///cloudq.db",
        None,
        "sqlite:///cloudq.db",
    )
    assert (conf.max_retries, conf.default_retry_delay, conf.result_expires) == (3, 180.0, 86400.0)


def test_the_constructor_wins_over_object_environment_and_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "cloudq.toml").write_text(
        "max_retries = 1\nlease = 10\ntask_default_queue = 'toml'\nmax_deliveries = 4\n"
    )
    monkeypatch.setenv("CLOUDQ_MAX_RETRIES", "2")
    monkeypatch.setenv("CLOUDQ_LEASE", "20")
    monkeypatch.setenv("CLOUDQ_TASK_DEFAULT_QUEUE", "env")
    app = CloudQ(max_retries=4)
    app.config_from_object({"max_retries": 3, "lease": 30.0})
    conf = app.conf
    assert (conf.max_retries, conf.lease) == (4, 30.0)
    assert (conf.task_default_queue, conf.max_deliveries, conf.worker_threads) == ("env", 4, 16)


def test_a_wrong_setting_is_told_without_the_error_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for code, variable in (({"brokr": "memory://"}, "5"), ({}, "abc")):
        monkeypatch.setenv("CLOUDQ_LEASE", variable)
        with pytest.raises(ConfigurationError) as caught:
            CloudQ("x", **code)
        assert "ValidationError" not in "".join(traceback.format_exception(caught.value))


def test_configure_wins_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_BROKER", "memory://env")
    app = CloudQ(broker="memory://constructor")
    app.configure(broker="memory://configured")
    assert app.conf.broker == "memory://configured"


def test_configure_comes_before_the_first_use() -> None:
    with CloudQ(broker="memory://used") as app:
        assert app.broker
        with pytest.raises(
            ConfigurationError, match="cannot change once its broker or backend is in use"
        ):
            app.configure(broker="memory://other")


def test_a_file_named_by_the_environment_is_read(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "cloudq.toml").write_text("max_retries = 1")
    (elsewhere / "other.toml").write_text("max_retries = 2\ninclude = ['a', 'b']")
    monkeypatch.setenv("CLOUDQ_CONFIG", "other.toml")
    assert (CloudQ().conf.max_retries, CloudQ().conf.include) == (2, ["a", "b"])


def test_a_named_file_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_CONFIG", "missing.toml")
    with pytest.raises(
        ConfigurationError, match=r"CLOUDQ_CONFIG names missing\.toml, which is not a file"
    ):
        CloudQ()


def test_a_file_that_does_not_parse_is_an_error(elsewhere: Path) -> None:
    (elsewhere / "cloudq.toml").write_text("max_retries = ")
    with pytest.raises(ConfigurationError, match="cannot read the settings: Invalid value"):
        CloudQ()


def test_a_variable_that_does_not_parse_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_INCLUDE", "[a,b]")
    with pytest.raises(ConfigurationError, match=r"CLOUDQ_INCLUDE has to be .*, for example shop"):
        CloudQ()


CELERY = {
    "broker_url": ("broker", "memory://celery"),
    "result_backend": ("backend", "memory://celery"),
    "task_default_retry_delay": ("default_retry_delay", 5.0),
    "worker_concurrency": ("worker_processes", 3),
}


@pytest.mark.parametrize("name", CELERY)
@pytest.mark.parametrize("way", ["constructor", "object", "configure", "file"])
def test_celerys_names_are_understood(elsewhere: Path, name: str, way: str) -> None:
    ours, value = CELERY[name]
    if way == "file":
        (elsewhere / "cloudq.toml").write_text(f"{name} = {value!r}")
    app = CloudQ(**({name: value} if way == "constructor" else {}))
    if way == "object":
        app.config_from_object({name: value})
    if way == "configure":
        app.configure(**{name: value})
    assert getattr(app.conf, ours) == value


def test_the_order_of_sources_holds_under_either_name(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "cloudq.toml").write_text("broker_url = 'memory://file'")
    assert CloudQ().conf.broker == "memory://file"
    monkeypatch.setenv("CLOUDQ_BROKER", "memory://env")
    assert CloudQ().conf.broker == "memory://env"
    assert CloudQ(broker_url="memory://given").conf.broker == "memory://given"
    app = CloudQ(broker="memory://given")
    app.config_from_object({"broker_url": "memory://object"})
    assert app.conf.broker == "memory://given"
    app.configure(broker_url="memory://configured")
    assert app.conf.broker == "memory://configured"


def test_an_unknown_setting_names_the_near_one_or_all() -> None:
    with pytest.raises(ConfigurationError, match=r"no setting 'brokr': did you mean broker\?$"):
        CloudQ(brokr="memory://")
    with pytest.raises(ConfigurationError, match=r"no setting 'zzz': known: broker, backend, incl"):
        CloudQ(zzz="memory://")
    app = CloudQ()
    with pytest.raises(ConfigurationError, match="no setting 'max_retry'"):
        app.configure(max_retry=1)
    with pytest.raises(ConfigurationError, match="no setting 'max_retry'"):
        app.config_from_object({"max_retry": 1})


def test_an_unknown_setting_in_the_file_is_an_error(elsewhere: Path) -> None:
    (elsewhere / "cloudq.toml").write_text("max_retry = 3")
    with pytest.raises(ConfigurationError, match="no setting 'max_retry'"):
        CloudQ()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_retries": -1}, "setting 'max_retries': it must be 0 or more .got -1"),
        (
            {"max_retries": "many"},
            r"'max_retries': it must be a whole number.* \(got 'many'\)",
        ),
        ({"lease": 0.5}, "setting 'lease': "),
        ({"task_default_queue": ""}, "setting 'task_default_queue': "),
        ({"result_expires": 0}, "setting 'result_expires': "),
        ({"max_deliveries": 0}, "setting 'max_deliveries': "),
        ({"include": "tasks"}, "setting 'include': "),
        ({"lease": "x", "max_body": 1}, "setting 'lease': .*; setting 'max_body': "),
    ],
    ids=str,
)
def test_a_bad_value_is_named_with_what_it_must_be(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        CloudQ(**values)


def test_a_setting_may_be_assigned_and_is_checked() -> None:
    app = CloudQ()
    app.conf.max_retries = 7
    assert app.conf.max_retries == 7
    with pytest.raises(ValueError, match="max_retries"):
        app.conf.max_retries = -1


def test_config_from_a_module_a_name_or_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("shop_settings")
    module.broker_url = "memory://module"
    module.max_retries = 5
    module.Unrelated = object()
    module.helper = 3
    monkeypatch.setitem(sys.modules, "shop_settings", module)
    space = SimpleNamespace(broker="memory://module", max_retries=5, other=1)
    for source in (module, "shop_settings", space, {"max_retries": 5}):
        app = CloudQ()
        app.config_from_object(source)
        assert app.conf.max_retries == 5
    with pytest.raises(ConfigurationError, match="cannot import the config module"):
        CloudQ().config_from_object("no_such_module_at_all")


@pytest.mark.parametrize(
    ("broker", "backend", "url"),
    [
        ("sqlite:///a.db", None, "sqlite:///a.db"),
        ("memory://x", None, "memory://x"),
        ("sqs://", None, None),
        ("sqs://", "dynamodb://t", "dynamodb://t"),
        ("sqlite:///a.db", "none", None),
        ("sqlite:///a.db", "memory://x", "memory://x"),
    ],
)
def test_an_embedded_broker_is_the_backend_too(
    broker: str, backend: str | None, url: str | None
) -> None:
    assert CloudQ(broker=broker, backend=backend).conf.backend_url == url


def test_include_is_imported_on_load(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(elsewhere)
    (elsewhere / "shop_tasks_for_include.py").write_text("LOADED = True")
    CloudQ(include=["shop_tasks_for_include"]).load()
    with pytest.raises(ConfigurationError, match="include: cannot import 'shop_missing'"):
        CloudQ(include=["shop_missing"]).load()


def test_a_bad_value_from_outside_names_where_it_stands(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "cloudq.toml").write_text("lease = 0\nbrokr = 'x'\n")
    with pytest.raises(ConfigurationError, match=r"setting 'lease' in cloudq\.toml: ") as caught:
        CloudQ()
    assert "no setting 'brokr' in cloudq.toml: did you mean broker?" in str(caught.value)
    (elsewhere / "cloudq.toml").unlink()
    monkeypatch.setenv("CLOUDQ_LEASE", "0")
    with pytest.raises(ConfigurationError, match="setting 'lease' from CLOUDQ_LEASE: "):
        CloudQ()
    with pytest.raises(ConfigurationError, match="setting 'lease': "):
        CloudQ(lease=0.1)


@pytest.mark.parametrize("name", ["pickle", "msgpack", None, 5])
def test_results_are_json_and_nothing_else(name: Any) -> None:
    assert CloudQ("x", result_serializer="json").conf.result_serializer == "json"
    with pytest.raises(
        ConfigurationError, match=r"result_serializer.* results are always stored as JSON"
    ):
        CloudQ("x", result_serializer=name)


@pytest.mark.parametrize(
    "given",
    [
        {"signing_keys": {"k1": "s" * 40}, "signing_key": "hunter2" * 5},
        {"signing_keys": {"hunter2" * 11: "k1"}},
        {"signing_keys": {"hunter2+" * 5: "s" * 40}},
        {"signing_keys": {"k1": "hunter2"}},
        {"signing_keys": "hunter2"},
        {"signing_key": ["hunter2"]},
        {"beat_lease": {"password": "hunter2"}},
        {"lease": "amqp://u:hunter2@h"},
    ],
)
def test_no_secret_is_quoted_by_an_error_of_settings(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CloudQ("x", **given)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_an_error_of_settings_whose_keys_are_secrets_names_none() -> None:
    bad: Any = {"secret=hunter2": "x"}
    with pytest.raises(ConfigurationError, match="prices") as caught:
        _ = CloudQ("x", broker="memory://", prices=bad).conf.broker
    assert isinstance(caught.value, ConfigurationError)


def test_the_settings_show_no_secret() -> None:
    app = CloudQ(
        "x",
        broker="sqlite:///x.db?token=hunter2",
        signing_keys={"k1": "hunter2" * 5},
        beat_schedule={"a": {"task": "t", "kwargs": {"api_key": "hunter2"}}},
    )
    assert "hunter2" not in f"{app!r} {app.conf!r} {app.conf}"
    assert "'k1'" in repr(app.conf)
    assert "hunter2" not in repr(parse("sqs://user:hunter2@eu?key=hunter2"))


@pytest.mark.parametrize("content", [b'broker = "x', b'a = "\xff"'])
def test_a_file_that_is_no_toml_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    file = tmp_path / "shop.toml"
    file.write_bytes(content)
    monkeypatch.setenv("CLOUDQ_CONFIG", str(file))
    with pytest.raises(ConfigurationError, match=r"shop\.toml, which has to be TOML"):
        CloudQ("x")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "config_from_object: '' is no module's name: give one such as shop.mail"),
        (".x", "is no module's name"),
        ("shop:app", "is no module's name"),
        ({1: 2}, "settings have names, which are texts: 1 is none"),
    ],
)
def test_what_is_no_config_is_refused_with_a_sentence(source: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        CloudQ("x").config_from_object(source)


@pytest.mark.parametrize("name", ["", ".x", "a..b", "a b"])
def test_what_is_no_module_to_include_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"include: .* is no module's name"):
        CloudQ("x", include=[name]).load()


def test_the_words_after_the_name_of_a_secret_setting_are_shown() -> None:
    with pytest.raises(ConfigurationError, match="no setting 'password': known: broker"):
        CloudQ("x", password="hunter2")
