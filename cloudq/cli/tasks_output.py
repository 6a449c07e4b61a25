"""Writes events and the lives of tasks as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import orjson

from cloudq.cli.output import duration, fields, local, say, shorten
from cloudq.operations.seen import without_claims
from cloudq.operations.tasks import TaskLife
from cloudq.results.events import Event
from cloudq.text import AsIs, iso_time

_REDACTED = "redacted: --args shows them"


def show_life(found: TaskLife, *, args: bool) -> None:
    """Print a task's record, then its events, oldest first."""
    record, kept = found.record, found.arguments
    error = ": ".join(filter(None, (record.error_type, record.error))) or None
    arguments = None if kept is None else (without_claims(kept.text) if args else _REDACTED)
    if args and kept is None:
        arguments = "not recorded: failures keep them, and all tasks with task_events=final"
    ran = (
        duration(record.finished_at - record.started_at)
        if record.finished_at and record.started_at
        else None
    )
    fields(
        (
            ("id", record.id),
            ("task", record.task or None),
            ("state", record.shown),
            ("arguments", arguments),
            ("error", error),
            ("retries", record.retries),
            ("queue", record.queue),
            ("worker", record.worker),
            ("started", local(record.started_at)),
            ("finished", local(record.finished_at)),
            ("ran", ran),
            ("parent", record.parent),
            ("children", ", ".join(found.children) or None),
            (
                "dead letter",
                f"cloudq dead show {record.queue} {record.id}" if _is_dead(found) else None,
            ),
        )
    )
    for event in found.events:
        say(line_of(event))


def line_of(event: Event, *, args: bool = False) -> str:
    """Write an event as one line."""
    took = f" in {duration(event.took)}" if event.took is not None else ""
    where = f" on {event.worker}" if event.worker else ""
    said = f" {without_claims(event.args)}" if args and event.args else ""
    moment = datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S")
    head = f"{moment} {event.state:<8} {event.task} {event.id}{took}{where}{said}"
    return f"{head}: {why(event)}" if why(event) else head


def why(event: Event) -> str | None:
    """Write the error of an event, shortened; None if it has none."""
    said = ": ".join(filter(None, (event.error_type, event.error)))
    return shorten(said, 200) if said else None


def event_json(event: Event, *, args: bool) -> dict[str, object]:
    """Return an event as plain JSON, its arguments only if `args` is set."""
    found: dict[str, object] = asdict(event)
    found["at"] = iso_time(event.at)
    found.pop("args")
    if args and event.args is not None:
        try:
            found["args"], found["kwargs"] = map(AsIs, orjson.loads(event.args))
        except ValueError:  # only its beginning was stored
            found["args_text"] = AsIs(event.args)
    return found


def _is_dead(found: TaskLife) -> bool:
    return found.record.dead_lettered and found.record.queue is not None
