"""The data of the list of tasks: what is searched for, and how much of it was looked through."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.pages.rows import TaskRow, task_rows
from cloudq.dashboard.visit import Form, Visit
from cloudq.monitoring.event_log import FINAL, TRACKED
from cloudq.operations import tasks
from cloudq.operations.tasks import TaskFilter
from cloudq.results.record import State

SPANS: Mapping[str, float] = {"10m": 600, "1h": 3600, "6h": 21_600, "1d": 86_400, "7d": 604_800}
"""The spans that can be chosen, in seconds."""
PARAMETERS: Mapping[str, str] = {
    "q": "an id or its beginning, a name with * and ? or a part of it, or a text of the error",
    "id": "id of the task",
    "name": "name of the task, with * and ?",
    "state": "SUCCESS, FAILURE, REVOKED, REJECTED, STARTED or RETRY; or failed",
    "queue": "name of the queue",
    "worker": "name of the worker",
    "error": "a text in the error",
    "since": f"one of {', '.join(SPANS)}, or epoch seconds",
    "until": "epoch seconds",
    "limit": "rows to show, 1 to 500",
}
"""The parameters of a search."""
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_FAILED = (State.FAILURE, State.REJECTED)
_LIMIT, _MOST_SHOWN = 50, 500
_LONGEST = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The rows of a search, and in words how much was looked through."""

    rows: Sequence[TaskRow]
    matched: int
    seen: int
    complete: bool
    back_to: float | None
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A search for tasks. `unrecorded` are states that this app's workers do not record."""

    found: Part[Found]
    recorded: Sequence[str]
    unrecorded: Sequence[str]
    filter: str
    limit: int


def data(watch: Watch, visit: Visit) -> Page:
    """Search for tasks by the query of a visit."""
    app, query = watch.app, visit.query
    chosen = filter_of(query, app.runtime.clock())
    limit = whole(query.get("limit"), _LIMIT, 1, _MOST_SHOWN)
    # The time in a filter changes with each moment: the words of the query do not.
    key = ("tasks", visit.operates, *(query.get(name) for name in PARAMETERS))
    found = watch.part(key, _found, app, chosen, limit, visit)
    recorded = tasks.recorded_states(app)
    wanted = set(chosen.states)
    return Page(
        found=found,
        recorded=[str(state) for state in recorded],
        unrecorded=[str(state) for state in TRACKED if state in wanted and state not in recorded],
        filter=str(chosen),
        limit=limit,
    )


def filter_of(query: Form, now: float) -> TaskFilter:
    """Read a filter from a query. What cannot be read chooses nothing less than all."""
    words = query.get("q").strip()[:_LONGEST]
    id, name, error = query.get("id").strip(), query.get("name").strip(), query.get("error").strip()
    if words and _ID.fullmatch(words):
        id, words = id or words, ""
    elif words and re.fullmatch(r"[\w.*?-]+", words) and ("." in words or "*" in words):
        name = name or (words if "*" in words else f"*{words}*")
        words = ""
    return TaskFilter(
        id=id[:_LONGEST] or None,
        name=name[:_LONGEST] or None,
        states=_states(query.get("state")),
        queue=query.get("queue")[:_LONGEST] or None,
        worker=query.get("worker")[:_LONGEST] or None,
        error=error[:_LONGEST] or None,
        words=words or None,
        since=_since(query.get("since"), now),
        until=_moment(query.get("until")),
    )


def _states(text: str) -> Sequence[State]:
    if text == "failed":
        return _FAILED
    wanted = [State(word) for word in text.upper().split(",") if word in State.__members__]
    return [state for state in wanted if state in TRACKED] or FINAL


def _since(text: str, now: float) -> float:
    span = SPANS.get(text)
    return (_moment(text) or 0.0) if span is None else now - span


def _moment(text: str) -> float | None:
    if not re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,6})?", text):
        return None
    return float(text)


def whole(text: str, default: int, least: int, most: int) -> int:
    """Read a whole number between bounds; the default for what is none."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return default
    return max(least, min(most, int(text)))


def _found(app: CloudQ, chosen: TaskFilter, limit: int, visit: Visit) -> Found:
    search = tasks.search(app, chosen, limit=limit)
    return Found(
        rows=task_rows(search.rows, visit),
        matched=search.matched,
        seen=search.seen,
        complete=search.complete,
        back_to=search.back_to,
        scope=search.scope,
    )
