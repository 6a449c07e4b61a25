"""Translates Celery's options of tasks and of calls into cloudq's, by the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudq.contrib.celery.options_table import CALL_OPTIONS, TASK_OPTIONS
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.options import TaskOptions
from cloudq.tasks.signature import Node, Signature

_EXCHANGE = ("exchange", "routing_key", "exchange_type")


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options of Celery's alone that are None, which stands for their default."""
    return {
        name: value
        for name, value in options.items()
        if value is not None or name in TaskOptions.__annotations__
    }


def translate(node: Node[Any], warned: set[str]) -> None:
    """Translate the call options at every place of a workflow. Raises `ConfigurationError`.

    Members of a generator that is read as it is sent keep theirs.
    """
    waiting, seen = [node], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Signature) and each.options:
            each.options = call_options(each.options, of=each.task, warned=warned)
        waiting += [*each.peek(), *each.links, *each.link_errors]


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
    return CALL_OPTIONS.apply(given, of=of, ours=ours, warned=warned)
