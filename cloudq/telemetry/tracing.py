"""Traces through queues, where `tracing` is set and OpenTelemetry's API is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache, wraps
from importlib import import_module
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from cloudq.message import TaskMessage
from cloudq.outcome import Job
from cloudq.settlement import Settlement

log = logging.getLogger("cloudq.tracing")


class Tracing(Protocol):
    """What makes spans. `cloudq.telemetry.spans` is the one for OpenTelemetry."""

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
        spans = import_module("cloudq.telemetry.spans")
    except ModuleNotFoundError as error:
        log.warning(
            'tracing is set, and there are no traces without %s: pip install "cloudq[otel]"',
            error.name,
        )
        return None
    return cast("Tracing", spans.Spans())


class Traced(Protocol):
    """What may have spans made of what it does."""

    @property
    def tracing(self) -> Tracing | None: ...


E = TypeVar("E", bound=Traced)
P = ParamSpec("P")


def traced(run: Callable[[E, Job], Settlement]) -> Callable[[E, Job], Settlement]:
    """Let a method that runs a job do it in a span."""

    @wraps(run)
    def wrapped(self: E, job: Job) -> Settlement:
        if self.tracing is None:
            return run(self, job)
        return self.tracing.run(job, lambda job: run(self, job))

    return wrapped


def spanned(
    make: Callable[Concatenate[E, P], TaskMessage],
) -> Callable[Concatenate[E, P], TaskMessage]:
    """Let a method that makes a message put the context of a span into its headers."""

    @wraps(make)
    def wrapped(self: E, *args: P.args, **kwargs: P.kwargs) -> TaskMessage:
        message = make(self, *args, **kwargs)
        if self.tracing is None:
            return message
        headers = self.tracing.publish(message.task, message.id, message.queue, message.headers)
        return message.model_copy(update={"headers": dict(headers)})

    return wrapped
