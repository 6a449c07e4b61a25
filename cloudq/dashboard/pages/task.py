"""The data of one task: its life, its arguments, its result, and the workflow around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import orjson

from cloudq.app import CloudQ
from cloudq.canvas.graph import Graph
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.pages.rows import TaskRow, pretty, task_rows
from cloudq.dashboard.visit import Visit
from cloudq.messages.json_text import is_object
from cloudq.messages.sealed_text import shown
from cloudq.operations import tasks
from cloudq.operations.tasks import TaskLife
from cloudq.text import json_text, masked

_MOST_CHILDREN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One task. `arguments` are None where they are hidden or not recorded.

    `value` and `progress` are indented JSON; `percent` is set where the progress tells one.
    """

    id: str
    task: str
    state: str
    ended: bool
    revoked: bool
    dead_lettered: bool
    queue: str | None
    worker: str | None
    started_at: float | None
    finished_at: float | None
    tries: int
    value: str | None
    progress: str | None
    percent: float | None
    error_type: str | None
    error: str | None
    traceback: str | None
    recorded_arguments: bool
    arguments: str | None
    args_json: str | None
    kwargs_json: str | None
    events: Sequence[TaskRow]
    parent: str | None
    children: Sequence[str]
    more_children: int
    graph: Graph | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One task, None where the store knows nothing of it."""

    id: str
    life: Part[Life | None]


def data(watch: Watch, visit: Visit) -> Page:
    """Look at the task that a query names."""
    id = visit.query.get("id").strip()[:500]
    key = ("task", id, visit.operates)
    return Page(id=id, life=watch.part(key, _life, watch.app, id, visit))


def _life(app: CloudQ, id: str, visit: Visit) -> Life | None:
    found = tasks.life(app, id)
    if found is None:
        return None
    record = found.record
    args = kwargs = None
    kept = found.arguments
    if kept is not None and kept.whole and visit.operates:
        raw: Any = orjson.loads(kept.text)
        args, kwargs = pretty(raw[0]), pretty(raw[1])
    progress = _json(record.meta)
    return Life(
        id=record.id,
        task=record.task,
        state=record.shown,
        ended=record.terminal,
        revoked=record.revoked,
        dead_lettered=record.dead_lettered,
        queue=record.queue,
        worker=record.worker,
        started_at=record.started_at,
        finished_at=record.finished_at,
        tries=record.retries + 1,
        value=None if record.value is None else pretty(_json(record.value)),
        progress=None if record.meta is None else pretty(progress),
        percent=_percent(progress),
        error_type=record.error_type,
        error=record.error,
        traceback=record.traceback,
        recorded_arguments=kept is not None,
        arguments=_arguments(found, visit),
        args_json=args,
        kwargs_json=kwargs,
        events=task_rows(found.events, visit),
        parent=found.parent,
        children=found.children[:_MOST_CHILDREN],
        more_children=max(0, len(found.children) - _MOST_CHILDREN),
        graph=_graph(found),
    )


def _graph(found: TaskLife) -> Graph | None:
    graph = found.graph
    return graph if graph is not None and len(graph.vertices) > 1 else None


def _arguments(found: TaskLife, visit: Visit) -> str | None:
    """Write the recorded arguments, one a line."""
    kept = found.arguments
    if kept is None or not visit.operates:
        return None
    if not kept.whole:
        return str(masked(kept.text))
    named = (f"{name} = {json_text(value)}" for name, value in masked(kept.kwargs).items())
    return "\n".join((*map(json_text, kept.args), *named))


def _json(text: str | None) -> Any:
    """Return the value in JSON text; the text itself where another program wrote it."""
    try:
        return None if text is None else orjson.loads(text)
    except ValueError:
        return None if text is None else shown(text)


def _percent(progress: object) -> float | None:
    """Find a share in a progress: `percent`, or `current` of `total` as Celery's users write."""
    if not is_object(progress):
        return None
    percent = _number(progress.get("percent"))
    current, total = _number(progress.get("current")), _number(progress.get("total"))
    if percent is None and current is not None and total:
        percent = 100.0 * current / total
    return None if percent is None else max(0.0, min(100.0, percent))


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if isfinite(value) else None
