"""A Celery project's settings by their sources: which stands above which, as in Celery."""

from __future__ import annotations

import sys
import types

import pytest

from cloudq import ConfigurationError
from cloudq.contrib.celery import Celery


def test_a_later_source_takes_the_place_of_an_earlier_one() -> None:
    app = Celery("shop", broker="memory://sources", task_time_limit=5)
    app.config_from_object(
        {"task_default_queue": "base", "timezone": "Europe/Rome", "task_time_limit": 9}
    )
    app.config_from_object({"task_default_queue": "local"})
    assert app.conf.task_default_queue == "local"
    assert (app.conf.timezone, app.conf.task_time_limit) == (None, 5)
    assert app.conf.without_defaults()["task_default_queue"] == "local"
    assert "timezone" not in app.conf.without_defaults()
    app.conf.update(task_default_queue="mine")
    app.config_from_object({"task_default_queue": "again"})
    assert app.conf.task_default_queue == "mine"


def test_a_source_that_is_refused_changes_nothing() -> None:
    app = Celery("shop", broker="memory://sources")
    app.config_from_object({"task_default_queue": "base"})
    with pytest.raises(ConfigurationError, match="task_routes"):
        app.config_from_object({"task_default_queue": "local", "task_routes": 5})
    assert app.conf.task_default_queue == "base"


def test_added_defaults_stand_above_sources_and_below_the_programs_own() -> None:
    app = Celery("shop", broker="memory://sources", task_soft_time_limit=1)
    app.config_from_object({"task_default_queue": "base"})
    app.add_defaults({"task_default_queue": "d", "task_soft_time_limit": 9})
    app.add_defaults(lambda: {"task_default_queue": "e"})
    app.config_from_object({"task_default_queue": "again"})
    assert (app.conf.task_default_queue, app.conf.task_soft_time_limit) == ("e", 1)


def test_the_variables_of_celery_stand_above_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://variable")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "memory://results")
    for app in (
        Celery("shop"),
        Celery("shop", broker="memory://program", backend="memory://program"),
    ):
        app.config_from_object({"broker_url": "memory://source"})
        app.conf.broker_url = "memory://set"
        assert (app.conf.broker, app.conf.broker_url) == ("memory://variable", "memory://variable")
        assert app.conf.result_backend == "memory://results"
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://localhost")
    with pytest.raises(ConfigurationError, match="redis"):
        Celery("shop", broker="memory://program")
    monkeypatch.setenv("CELERY_BROKER_URL", "")
    monkeypatch.setenv("CELERY_BROKER_READ_URL", "memory://read")
    with pytest.raises(ConfigurationError, match="broker_read_url"):
        Celery("shop", broker="memory://program")


def test_a_variable_names_the_settings_of_an_app_that_is_given_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("shop_by_variable")
    vars(module)["task_default_queue"] = "variable"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("CELERY_CONFIG_MODULE", module.__name__)
    app = Celery("shop", broker="memory://sources")
    assert app.conf.task_default_queue == "variable"
    app.config_from_object({"timezone": "Europe/Rome"})
    assert (app.conf.task_default_queue, app.conf.timezone) == ("celery", "Europe/Rome")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "shop_nowhere")
    with pytest.raises(ConfigurationError, match="shop_nowhere"):
        Celery("shop", broker="memory://sources")
