"""The job of `cloudq demo`: sends its tasks and waits for them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cloudq.amounts import counted
from cloudq.cli.demo import tasks
from cloudq.cli.demo.progress import ProgressView
from cloudq.cli.demo.tasks import app
from cloudq.cli.demo.worker import LocalWorker
from cloudq.errors import CloudQError
from cloudq.results.record import Record
from cloudq.results.result import AsyncResult
from cloudq.tasks.signature import chord

_FAILURES = 2
# Indexes in one call of `summarize`: a message of some 150 kB.
_CHUNK = 100
# Results fetched per poll, and the pause between polls.
_WINDOW, _PAUSE = 300, 0.1
_STUCK = 60.0
_TRIPS = 50
_MEMBERS, _AMID = 100, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The finished job: its results, their records, and the time it took."""

    files: list[AsyncResult[tasks.Index]]
    unsteady: AsyncResult[str]
    members: int
    squares: int
    survivors: int
    summary: AsyncResult[tasks.Index]
    records: list[Record]
    round_trip: float
    seconds: float


def run(files: Sequence[str], worker: LocalWorker, progress: ProgressView) -> Done:
    """Index files and sum up the indexes. Raises `CloudQError` if the worker stops."""
    started = time.monotonic()
    unsteady = tasks.unsteady.delay(_FAILURES)
    indexed = app.publish([tasks.index.prepare(file) for file in files])
    progress.step("files", len(indexed))
    records = _wait(indexed, worker, progress)
    progress.step("a task that fails twice", 1)
    records += _wait([unsteady], worker, progress)
    parts = [result.get() for result in indexed if result.successful()]
    chunks = [parts[start : start + _CHUNK] for start in range(0, len(parts), _CHUNK)]
    progress.step("sums", len(chunks) + 1)
    sums = app.publish([tasks.summarize.prepare(chunk) for chunk in chunks])
    records += _wait(sums, worker, progress)
    summary = tasks.summarize.delay([each.get() for each in sums])
    records += _wait([summary], worker, progress, before=len(sums))
    progress.step("a chord", 1)
    members = [tasks.square.s(number) for number in range(_MEMBERS)]
    summed = chord(members, tasks.total.s()).delay()
    records += _wait([summed], worker, progress)
    progress.step("a process is killed amid its tasks", _AMID)
    survivors = app.publish([tasks.deadly.prepare(number) for number in range(_AMID)])
    records += _wait(survivors, worker, progress)
    progress.step("calls, one after the other", _TRIPS)
    round_trip = _round_trip(progress)
    return Done(
        files=indexed,
        unsteady=unsteady,
        members=_MEMBERS,
        squares=summed.get(),
        survivors=sum(result.successful() for result in survivors),
        summary=summary,
        records=records,
        round_trip=round_trip,
        seconds=time.monotonic() - started,
    )


def _round_trip(progress: ProgressView) -> float:
    """Return the median time in seconds from a call to its value, of calls one after the other."""
    taken: list[float] = []
    for number in range(_TRIPS):
        began = time.monotonic()
        tasks.unsteady.delay(0).get(timeout=_STUCK)
        taken.append(time.monotonic() - began)
        progress.show(number + 1, 0, 0.0)
    return median(taken)


def _wait(
    results: Sequence[AsyncResult[Any]],
    worker: LocalWorker,
    progress: ProgressView,
    before: int = 0,
) -> list[Record]:
    """Wait for all results, polling a window at a time: tasks mostly end in the order sent."""
    backend = app.backend
    assert backend is not None  # checked before anything was sent
    ended: list[Record] = []
    waiting = list(results)
    started = moved = time.monotonic()
    while waiting:
        worker.check()
        window = waiting[:_WINDOW]
        found = backend.records([result.id for result in window])
        records = [result.keep(found.get(result.id)) for result in window]
        fresh = [record for record in records if record.terminal]
        ended += fresh
        waiting = [result for result in waiting if result.final is None]
        now = time.monotonic()
        moved = now if fresh else moved
        if now - moved > _STUCK:
            raise CloudQError(
                f"no task has finished for {_STUCK:g} s, {counted(len(waiting), 'task')} left: "
                f"see the worker's log, {worker.log}"
            )
        retries = sum(record.retries for record in ended)
        rate = len(ended) / (now - started) if len(results) > 1 else 0.0
        progress.show(before + len(ended), retries, rate)
        if waiting and len(fresh) < len(window):
            time.sleep(_PAUSE)
    return ended
