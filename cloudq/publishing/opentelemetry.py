"""OpenTelemetry spans: one for each message that is made, one for each time it is run.

Names and attributes follow its semantic conventions for messaging. The context travels in the
message's headers as the program's propagator writes it: W3C's `traceparent` by default.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from traceback import format_exception
from typing import Any, TypeVar

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from cloudq.messages.message import TaskMessage
from cloudq.results.record import FAILED
from cloudq.text import text_of

S = TypeVar("S")


class Spans:
    """Makes spans with the program's tracer provider; without one they cost next to nothing."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("cloudq")

    def publish(
        self, task: str, id: str, queue: str, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Make the span of a message and return the headers with the span's context."""
        with self._tracer.start_as_current_span(
            f"publish {task}", kind=SpanKind.PRODUCER, attributes=_attributes(task, id, queue)
        ):
            carrier = dict(headers)
            propagate.inject(carrier)
            return carrier

    @contextmanager
    def running(self, message: TaskMessage, attempts: int) -> Generator[Span]:
        """Run a message's task in a span whose parent is the span of the message."""
        with self._tracer.start_as_current_span(
            f"run {message.task}",
            context=propagate.extract(message.headers),
            kind=SpanKind.CONSUMER,
            attributes={
                **_attributes(message.task, message.id, message.queue),
                "cloudq.retries": message.retries,
                "cloudq.attempts": attempts,
            },
        ) as span:
            yield span

    @staticmethod
    def ended(span: Span, outcome: S) -> S:
        """Note in a task's span what the task came to; return the settlement that says it."""
        given: Any = outcome
        state, error = str(given.state or given.action), given.error
        span.set_attribute("cloudq.state", state)
        if error is not None:
            span.record_exception(error, _texts(error, given.hide))
        if state in FAILED:
            span.set_status(Status(StatusCode.ERROR, given.reason))
        return outcome


def _texts(error: BaseException, hide: Callable[[str], str] | None) -> dict[str, str]:
    """Return the texts of an error without the secrets of its call; none where it has none."""
    if hide is None:
        return {}
    trace = "".join(format_exception(error))
    return {
        "exception.message": hide(text_of(error)),
        "exception.stacktrace": hide(trace),
    }


def _attributes(task: str, id: str, queue: str) -> dict[str, str]:
    return {
        "messaging.system": "cloudq",
        "messaging.destination.name": queue,
        "messaging.message.id": id,
        "cloudq.task": task,
    }
