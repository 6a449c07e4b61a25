"""Traces through queues, where `tracing` is set and OpenTelemetry's API is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from cloudq.errors import install_hint
from cloudq.messages.message import TaskMessage

if TYPE_CHECKING:  # whoever only publishes has no need of what runs tasks
    from cloudq.execution.outcomes import Job
    from cloudq.execution.settlement import Settlement

log = logging.getLogger("cloudq.tracing")


class Tracing(Protocol):
    """What makes spans. `cloudq.publishing.opentelemetry` is the one for OpenTelemetry."""

    def publish(
        self, task: str, id: str, queue: str, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Make the span of a message; the headers with its context."""
        ...

    def run(self, job: Job, call: Callable[[Job], Settlement]) -> Settlement:
        """Run a job in a span whose parent is the span of its message."""
        ...


@cache
def open_tracing(wanted: bool) -> Tracing | None:
    """What makes spans; None where they are not wanted, or cannot be made, which is logged."""
    if not wanted:
        return None
    try:
        spans = import_module("cloudq.publishing.opentelemetry")
    except ModuleNotFoundError as error:
        log.warning(
            "tracing is set, and there are no traces without %s: %s",
            error.name,
            install_hint("otel"),
        )
        return None
    return cast("Tracing", spans.Spans())


def in_span(tracing: Tracing, message: TaskMessage) -> TaskMessage:
    """The message with the context of a span of its own in its headers."""
    headers = tracing.publish(message.task, message.id, message.queue, message.headers)
    return message.model_copy(update={"headers": dict(headers)})
