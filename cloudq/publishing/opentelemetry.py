"""Spans of OpenTelemetry: one for each message that is made, one for each time it is run.

Names and attributes follow its semantic conventions for messaging. The context travels in the
message's headers as the propagator of the program writes it: W3C's `traceparent` by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Settlement
from cloudq.results.record import State

_FAILED = frozenset({State.FAILURE, State.REJECTED})


class Spans:
    """Makes spans with the program's tracer provider; without one they cost next to nothing."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("cloudq")

    def publish(
        self, task: str, id: str, queue: str, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Make the span of a message; the headers with its context."""
        with self._tracer.start_as_current_span(
            f"publish {task}", kind=SpanKind.PRODUCER, attributes=_attributes(task, id, queue)
        ):
            carrier = dict(headers)
            propagate.inject(carrier)
            return carrier

    def run(self, job: Job, call: Callable[[Job], Settlement]) -> Settlement:
        """Run a job in a span whose parent is the span of its message."""
        message = job.message
        with self._tracer.start_as_current_span(
            f"run {message.task}",
            context=propagate.extract(message.headers),
            kind=SpanKind.CONSUMER,
            attributes={
                **_attributes(message.task, message.id, message.queue),
                "cloudq.retries": message.retries,
                "cloudq.attempts": job.delivery.attempts,
            },
        ) as span:
            settled = call(job)
            span.set_attribute("cloudq.state", str(settled.state or settled.action))
            if settled.error is not None:
                span.record_exception(settled.error)
            if settled.state in _FAILED:
                span.set_status(Status(StatusCode.ERROR, settled.reason))
            return settled


def _attributes(task: str, id: str, queue: str) -> dict[str, str]:
    return {
        "messaging.system": "cloudq",
        "messaging.destination.name": queue,
        "messaging.message.id": id,
        "cloudq.task": task,
    }
