"""The data of the workers: what their heartbeats say, and what one says that is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.pages.rows import pretty
from cloudq.dashboard.visit import Visit
from cloudq.errors import ConfigurationError
from cloudq.messages.json_text import is_object
from cloudq.operations import workers
from cloudq.operations.workers import RunningTask, WorkerDetail, WorkerRow

_PATIENCE = 20.0
_LONGEST = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All workers of the store, and what has run longest in them."""

    rows: Part[list[WorkerRow]]
    running: Sequence[RunningTask]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The reply of a worker: its numbers as JSON, its memory in bytes, and what runs in it."""

    replied: bool
    stats: str | None
    memory: int | None
    pool: Mapping[str, Any]
    active: Sequence[RunningTask]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePage:
    """One worker. `told` is None unless it was asked."""

    name: str
    row: Part[WorkerRow]
    told: Part[Told] | None


def data(watch: Watch, visit: Visit) -> Page:
    """Look at all workers."""
    rows = watch.part("workers", workers.workers, watch.app)
    return Page(rows=rows, running=workers.running(rows.value or ())[:_LONGEST])


def one(watch: Watch, visit: Visit) -> OnePage:
    """Look at one worker, and ask it if that is wanted."""
    name = visit.query.get("name")[:500]
    rows = watch.part("workers", workers.workers, watch.app)
    row = next((row for row in rows.value or () if row.name == name), None)
    error = rows.error
    if row is None and error is None:
        error = f"no worker {name!r} is known in this store"
    told: Part[Told] | None = None
    if visit.query.get("ask") and row is not None and row.alive:
        told = watch.part(("worker", name), _told, watch.app, name)
    return OnePage(name=name, row=Part(value=row, error=error, at=rows.at), told=told)


def _told(app: CloudQ, name: str) -> Told:
    found: WorkerDetail = workers.detail(app, name, timeout=_PATIENCE)
    if found.stats is None:
        raise ConfigurationError(f"{name} did not reply within {_PATIENCE:.0f} s")
    pool = found.stats.get("pool")
    return Told(
        replied=True,
        stats=pretty(found.stats),
        memory=found.memory,
        pool=pool if is_object(pool) else {},
        active=[_running(task, name) for task in found.active or ()],
    )


def _running(task: Mapping[str, Any], name: str) -> RunningTask:
    since = task.get("time_start")
    return RunningTask(
        id=str(task.get("id", "")),
        task=str(task.get("name", "")),
        since=float(since) if isinstance(since, int | float) else 0.0,
        worker=name,
    )
