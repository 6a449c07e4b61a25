"""An app whose program writes each span it ends to a file, a line of JSON each."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from cloudq import CloudQ


class Lines(SpanExporter):
    """Appends spans to the ledger."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        ledger = os.open(os.environ["DRILL_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for span in spans:
            assert span.context is not None
            line = json.dumps(
                {
                    "name": span.name,
                    "trace": f"{span.context.trace_id:032x}",
                    "span": f"{span.context.span_id:016x}",
                    "parent": f"{span.parent.span_id:016x}" if span.parent else None,
                    "status": span.status.status_code.name,
                    "attributes": dict(span.attributes or {}),
                }
            )
            os.write(ledger, f"{line}\n".encode())
        os.close(ledger)
        return SpanExportResult.SUCCESS


def provide() -> None:
    """Give this process a tracer provider, as a program does at its start."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Lines()))
    trace.set_tracer_provider(provider)


if os.environ.get("DRILL_TRACES"):
    provide()

app = CloudQ("traced", tracing=True)


@app.task(name="traced.leaf")
async def leaf(number: int) -> int:
    with trace.get_tracer("user").start_as_current_span("inside"):
        if number < 0:
            raise ValueError("negative")
        return number


@app.task(name="traced.root")
def root(number: int) -> str:
    return leaf.delay(number).id
