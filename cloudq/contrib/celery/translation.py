"""Translates the options of tasks and calls, each by its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudq.contrib.celery.options_table import CALL_OPTIONS, TASK_OPTIONS
from cloudq.contrib.celery.requests import SHOWN
from cloudq.contrib.celery.rules import tell_once
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.options import TaskOptions

_EXCHANGE = ("exchange", "routing_key", "exchange_type")


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options of Celery's alone that are None, which stands for their default."""
    return {
        name: value
        for name, value in options.items()
        if value is not None or name in TaskOptions.__annotations__
    }


def task_options(options: Mapping[str, Any], *, of: str, warned: set[str]) -> dict[str, Any]:
    """Translate the options of a task to cloudq's. Raises `ConfigurationError`."""
    known = TaskOptions.__annotations__
    return TASK_OPTIONS.apply(options, of=of, ours=known, warned=warned)


def call_options(options: Mapping[str, Any], *, of: str, warned: set[str]) -> dict[str, Any]:
    """Translate a call's options to cloudq's, without None. Raises `ConfigurationError`."""
    given = {name: value for name, value in options.items() if value is not None}
    if "queue" in given:  # which is what they come to
        given = {name: value for name, value in given.items() if name not in _EXCHANGE}
    # Callbacks are parameters of their own where calls take them.
    ours = {*CallOptions.__annotations__, "link", "link_error"}
    if not given.keys().isdisjoint(("argsrepr", "kwargsrepr")):
        tell_once("argsrepr", f"{of}: {SHOWN}", warned)
    return CALL_OPTIONS.apply(given, of=of, ours=ours, warned=warned)
