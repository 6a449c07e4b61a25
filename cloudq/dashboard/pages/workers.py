"""The data of the workers: what their heartbeats say, and what one says that is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.visit import Visit
from cloudq.errors import ConfigurationError
from cloudq.messages.json_text import is_list, is_object
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
    """The reply of a worker: memory in bytes, seconds of CPU, counts, limits, what runs in it.

    `ends` counts by state, `tasks` by task, with the rate and the time limits that are in force.
    """

    memory: int | None
    cpu: float | None
    uptime: float | None
    pids: Sequence[str]
    children_end_after: str
    ends: Sequence[tuple[str, float]]
    tasks: Sequence[TaskLimits]
    active: Sequence[RunningTask]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLimits:
    """A task in a worker: how many have ended, its rate, and its time limits in seconds."""

    task: str
    ended: float
    rate: str | None
    soft: float | None
    hard: float | None


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
    stats, pool, usage = found.stats, _object(found.stats, "pool"), _object(found.stats, "rusage")
    times = [_number(usage.get("utime")), _number(usage.get("stime"))]
    pids = pool.get("processes")
    counts = {state: _number(count) or 0 for state, count in _object(stats, "states").items()}
    return Told(
        memory=found.memory,
        cpu=sum(each for each in times if each is not None) if any(times) else None,
        uptime=_number(stats.get("uptime")),
        pids=[str(pid) for pid in pids] if is_list(pids) else [],
        children_end_after=str(pool.get("max-tasks-per-child", "N/A")),
        ends=sorted(counts.items()),
        tasks=_limits(_object(stats, "total"), _object(stats, "limits")),
        active=[_running(task, name) for task in found.active or ()],
    )


def _limits(ended: Mapping[str, Any], limits: Mapping[str, Any]) -> list[TaskLimits]:
    found: list[TaskLimits] = []
    for task in sorted({*ended, *limits}):
        own = _object(limits, task)
        rate = own.get("rate_limit")
        found.append(
            TaskLimits(
                task=task,
                ended=_number(ended.get(task)) or 0,
                rate=rate if isinstance(rate, str) else None,
                soft=_number(own.get("soft_time_limit")),
                hard=_number(own.get("time_limit")),
            )
        )
    return found


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if is_object(found) else {}


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _running(task: Mapping[str, Any], name: str) -> RunningTask:
    since = task.get("time_start")
    return RunningTask(
        id=str(task.get("id", "")),
        task=str(task.get("name", "")),
        since=float(since) if isinstance(since, int | float) else 0.0,
        worker=name,
    )
