"""Rows of tasks and dead letters as a page shows them: without arguments, unless the role may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudq.dashboard.visit import Visit
from cloudq.operations import tasks
from cloudq.operations.seen import Seen
from cloudq.results.events import Event
from cloudq.text import json_text, masked

_LONG = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A recorded state of a task. Times are epoch seconds, `arguments` None where hidden."""

    id: str
    task: str
    state: str
    at: float
    queue: str | None
    worker: str | None
    took: float | None
    tries: int
    error: str | None
    arguments: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRow:
    """A message in a queue, or a dead letter. `arguments` are shortened, None where hidden.

    `calls` counts those of a bundle, `handle_id` is the id of the message.
    """

    id: str
    handle_id: str
    queue: str
    task: str
    reason: str | None
    exception: str | None
    attempts: int
    retries: int
    sent_at: float | None
    problem: str | None
    calls: int
    arguments: str | None


def task_rows(events: Sequence[Event], visit: Visit) -> list[TaskRow]:
    """Make rows of events."""
    return [_task_row(event, visit) for event in events]


def _task_row(event: Event, visit: Visit) -> TaskRow:
    return TaskRow(
        id=event.id,
        task=event.task,
        state=str(event.state),
        at=event.at,
        queue=event.queue,
        worker=event.worker,
        took=event.took,
        tries=event.retries + 1,
        error=": ".join(filter(None, (event.error_type, event.error))) or None,
        arguments=_call(event.args) if visit.operates and event.args else None,
    )


def _call(text: str) -> str:
    """Write the recorded arguments of a call as Python does."""
    kept = tasks.arguments_in(text)
    if not kept.whole:
        return text
    # As a mapping, so that a secret is known by its name.
    named = (f"{name}={json_text(value)}" for name, value in masked(kept.kwargs).items())
    return ", ".join((*map(json_text, kept.args), *named))


def letter_rows(letters: Sequence[Seen], visit: Visit) -> list[LetterRow]:
    """Make rows of messages."""
    return [letter_row(seen, visit) for seen in letters]


def letter_row(seen: Seen, visit: Visit) -> LetterRow:
    """Make the row of a message."""
    first = seen.calls[0] if seen.calls else None
    return LetterRow(
        id=seen.id,
        handle_id=seen.peeked.id,
        queue=seen.queue,
        task=seen.task or "?",
        reason=seen.reason,
        exception=seen.exception,
        attempts=seen.peeked.attempts,
        retries=first.retries if first is not None else 0,
        sent_at=seen.peeked.sent_at,
        problem=seen.problem,
        calls=len(seen.calls),
        arguments=seen.arguments(_LONG) if visit.operates else None,
    )


def pretty(value: object) -> str:
    """Write a value as indented JSON, with secrets masked."""
    return json_text(masked(value), indent=True)
