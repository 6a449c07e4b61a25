"""Settings in environment variables: lists as names or JSON, tables as JSON, and clear errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from cloudq import CloudQ, ConfigurationError
from cloudq.settings.model import model
from cloudq.settings.sources import EXAMPLES

LISTS = ("include", "priority_queues", "signing_apps")
TABLES = (
    *("queue_produce", "queue_accept", "queue_tasks", "queue_limits", "signing_keys"),
    *("task_annotations", "beat_schedule"),
)
ITEMS = {
    "queue_produce": "celery",
    "queue_accept": ["celery"],
    "queue_tasks": ["shop.mail.*"],
    "queue_limits": {"bytes": 10_000},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(monkeypatch: pytest.MonkeyPatch, setting: str, text: str) -> Any:
    monkeypatch.setenv(f"CLOUDQ_{setting.upper()}", text)
    return getattr(CloudQ("env", broker="memory://env").conf, setting)


@pytest.mark.parametrize("setting", LISTS)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop.mail", ["shop.mail"]),
        ("shop.mail,shop.orders", ["shop.mail", "shop.orders"]),
        ("  shop.mail ,\tshop.orders ", ["shop.mail", "shop.orders"]),
        ("shop.mail,", ["shop.mail"]),
        (",shop.mail,,shop.orders,", ["shop.mail", "shop.orders"]),
        ('["shop.mail", "shop.orders"]', ["shop.mail", "shop.orders"]),
        (' ["shop.mail"]\n', ["shop.mail"]),
        ('["my shop", "a,b"]', ["my shop", "a,b"]),
        ("[]", []),
        ("", []),
        ("   ", []),
        ("1,2", ["1", "2"]),
    ],
)
def test_a_list_is_read(
    monkeypatch: pytest.MonkeyPatch, setting: str, text: str, expected: list[str]
) -> None:
    assert read(monkeypatch, setting, text) == expected


@pytest.mark.parametrize("setting", LISTS)
@pytest.mark.parametrize(
    "text",
    [
        ",",
        " , ",
        "5",
        "true",
        "null",
        '"shop.mail"',
        "'shop.mail'",
        '{"shop.mail": 1}',
        "['shop.mail']",
        '["shop.mail"',
        '["shop.mail", 5]',
        "[[]]",
        "shop.mail shop.orders",
        "shop.mail;shop.orders",
        "[" * 3000,
    ],
)
def test_what_is_no_list_is_named_with_an_example(
    monkeypatch: pytest.MonkeyPatch, setting: str, text: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(monkeypatch, setting, text)
    said = str(raised.value)
    assert said.startswith(f"CLOUDQ_{setting.upper()} has to be names with commas between them or ")
    assert f"for example {EXAMPLES[setting]} (got " in said
    assert len(said) < 300


def test_each_item_of_a_list_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, "accept_content", "json, yaml") == ["json", "yaml"]
    with pytest.raises(ConfigurationError, match=r"accept_content\.1' from CLOUDQ_ACCEPT_CONTENT"):
        read(monkeypatch, "accept_content", "json,picle")


@pytest.mark.parametrize("setting", TABLES)
def test_a_table_is_read_from_json(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    assert read(monkeypatch, setting, " {} \n") == {}
    if setting in ITEMS:
        text = json.dumps({"orders": ITEMS[setting]})
        assert read(monkeypatch, setting, text) == {"orders": ITEMS[setting]}


@pytest.mark.parametrize("setting", TABLES)
@pytest.mark.parametrize(
    "text", ["orders=celery", "orders", "5", "null", '"a"', "{'orders': 'celery'}", '{"orders":']
)
def test_what_is_no_table_is_named_with_an_example(
    monkeypatch: pytest.MonkeyPatch, setting: str, text: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(monkeypatch, setting, text)
    said = str(raised.value)
    wanted = f"CLOUDQ_{setting.upper()} has to be a JSON object, for example {EXAMPLES[setting]}"
    assert said.startswith(wanted)


def test_a_list_is_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="CLOUDQ_QUEUE_PRODUCE has to be a JSON object"):
        read(monkeypatch, "queue_produce", '["orders"]')


def test_what_a_table_holds_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"queue_produce\.a' from CLOUDQ_QUEUE_PRODUCE"):
        read(monkeypatch, "queue_produce", '{"a": 5}')


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("tops3cr3t" * 5, '{"k": "tops3cr3t"', '["tops3cr3t"]'):
        with pytest.raises(ConfigurationError, match="CLOUDQ_SIGNING_KEYS") as raised:
            read(monkeypatch, "signing_keys", text)
        assert "tops3cr3t" not in str(raised.value)


def test_routes_are_json_or_the_name_of_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, "task_routes", "json.dumps") == "json.dumps"
    routes = [{"shop.*": "shop"}, "json.dumps"]
    assert read(monkeypatch, "task_routes", json.dumps(routes)) == routes
    monkeypatch.setenv("CLOUDQ_TASK_ROUTES", '{"shop.*": "mail"}')
    app = CloudQ("env", broker="memory://env")
    task = app.task(name="shop.send")(len)
    assert app.publisher.message_of(task.prepare("a")).queue == "mail"
    with pytest.raises(ConfigurationError, match="CLOUDQ_TASK_ROUTES has to be a JSON object"):
        read(monkeypatch, "task_routes", '{"shop.*"')


def test_an_empty_variable_leaves_the_file_s_value(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "cloudq.toml").write_text('include = ["shop.mail"]')
    assert read(monkeypatch, "include", "") == ["shop.mail"]
    assert read(monkeypatch, "include", "[]") == []
    assert read(monkeypatch, "accept_content", " ") == ["json"]


def test_a_variable_in_small_letters_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("cloudq_include", "shop.mail")
    assert CloudQ("env", broker="memory://env").conf.include == ["shop.mail"]


def is_plain(field: FieldInfo) -> bool:
    text = str(field.annotation)
    return not any(word in text for word in ("list", "dict", "tuple", "Mapping", "Any"))


def test_each_list_and_table_has_an_example_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {n for n, field in model().model_fields.items() if not is_plain(field)}
    assert settings == set(EXAMPLES)
    for setting, example in EXAMPLES.items():
        read(monkeypatch, setting, example)
        monkeypatch.delenv(f"CLOUDQ_{setting.upper()}")


def test_celerys_names_count_below_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDQ_BROKER_URL", "memory://theirs")
    assert CloudQ().conf.broker == "memory://theirs"
    monkeypatch.setenv("CLOUDQ_BROKER", "memory://ours")
    assert CloudQ().conf.broker == "memory://ours"
    assert CloudQ(broker="memory://code").conf.broker == "memory://code"


def test_a_table_of_one_source_is_not_mixed_with_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shop.toml"
    file.write_text('[task_routes]\n"a" = "in-file"\n')
    monkeypatch.setenv("CLOUDQ_CONFIG", str(file))
    assert CloudQ().conf.task_routes == {"a": "in-file"}
    assert CloudQ(task_routes={"b": "in-code"}).conf.task_routes == {"b": "in-code"}


def test_no_process_loads_asyncio_before_a_coroutine_runs() -> None:
    code = "import sys; from cloudq import CloudQ; CloudQ(); print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def said(**variables: str) -> str:
    """Return what a program says that makes two apps, with these variables set."""
    done = subprocess.run(
        [sys.executable, "-c", "from cloudq import CloudQ; CloudQ(); CloudQ()"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("CLOUDQ_BROKR", "CLOUDQ_BROKER"),
        ("CLOUDQ_BROKER_URI", "CLOUDQ_BROKER_URL"),
        ("cloudq_max_retrys", "CLOUDQ_MAX_RETRIES"),
        ("CLOUDQ_CONFIGS", "CLOUDQ_CONFIG"),
    ],
)
def test_a_mistyped_variable_is_told_once(given: str, meant: str) -> None:
    assert said(**{given: "7"}) == f"the variable {given} is not read: is {meant} meant?\n"


def test_variables_of_others_are_let_be() -> None:
    others = {"CLOUDQ_DASHBOARD_SECRET": "x", "CLOUDQ_APP": "shop", "CLOUDQ_PATIENCE": "9"}
    assert said(**others, CLOUDQ_BROKER="memory://", cloudq_include="os") == ""
