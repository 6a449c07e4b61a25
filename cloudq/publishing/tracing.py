"""Connects the traces of callers and tasks, if the setting `tracing` is on."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from cloudq.driver.log import Log
from cloudq.errors import install_hint
from cloudq.messages.message import TaskMessage

if TYPE_CHECKING:  # loaded only where `tracing` is set
    from cloudq.publishing.opentelemetry import Spans

log = Log("cloudq.tracing")


@cache
def open_tracing(wanted: bool) -> Spans | None:
    """Return the maker of spans; None if not `wanted`, or not installed, which is logged."""
    if not wanted:
        return None
    try:
        loaded = import_module("cloudq.publishing.opentelemetry")
    except ModuleNotFoundError as error:
        log.warning(
            "the setting tracing is on, but %s is not installed, so there are no traces: %s",
            error.name,
            install_hint("otel"),
        )
        return None
    spans: Spans = loaded.Spans()
    return spans


def in_span(spans: Spans, message: TaskMessage) -> TaskMessage:
    """Make a span for the message and put the span's context into a copy of its headers."""
    headers = spans.publish(message.task, message.id, message.queue, message.headers)
    return message.model_copy(update={"headers": dict(headers)})
