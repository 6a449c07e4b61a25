"""The state of an app at one look: queues, rates, failures, workers, what is due, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.driver.adapters import adapter
from cloudq.errors import CloudQError
from cloudq.monitoring.event_log import Reader
from cloudq.operations import workers as workers_
from cloudq.operations.costs import Costs, costs
from cloudq.operations.queues import QueueRow, queues
from cloudq.operations.schedules import ScheduleRow, due_next, schedules
from cloudq.operations.workers import RunningTask, WorkerRow
from cloudq.results.record import FAILED, State
from cloudq.text import describe

HOUR = 3600.0
BUCKETS = 12
MOST_FAILURES = 2_000
"""Failures of one task that are counted at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Failures of one task: `counts` in equal parts of `span` seconds, the oldest part first.

    With `more` there are older ones in the span that were not counted. `latest` is the newest
    error, with the id of its task.
    """

    task: str
    counts: Sequence[int]
    span: float
    total: int
    more: bool = False
    latest: str | None = None
    latest_id: str | None = None
    latest_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Counts at a moment (epoch seconds), of which two make rates.

    `done` and `failed` are by worker, since they begin anew with each; `waiting` by queue.
    """

    at: float
    done: Mapping[str, int]
    failed: Mapping[str, int]
    waiting: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Tasks a second, since an earlier look `over` seconds ago.

    `arriving` is what the queues have gained and the workers have ended. Functions are not
    counted, since they have no heartbeat: where they work, `arriving` and `ending` are too low.
    """

    arriving: float
    ending: float
    failing: float
    over: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All of an app at one look, at `at` (epoch seconds).

    `rates` is None at the first look. `problems` are parts that could not be read, with reasons:
    then they are empty.
    """

    at: float
    queues: Sequence[QueueRow]
    workers: Sequence[WorkerRow]
    running: Sequence[RunningTask]
    failures: Sequence[Series]
    due: Sequence[ScheduleRow]
    costs: Costs | None
    snapshot: Snapshot
    rates: Rates | None
    problems: Mapping[str, str]


def overview(
    app: CloudQ, before: Snapshot | None = None, *, names: Sequence[str] | None = None
) -> Overview:
    """Look at the whole app; with the `snapshot` of an earlier look, with rates.

    A part that cannot be read is left empty and named in `problems`, so that a store that is down
    hides no queue.
    """
    problems: dict[str, str] = {}
    rows: list[QueueRow] = []
    living: list[WorkerRow] = []
    failing: list[Series] = []
    due: list[ScheduleRow] = []
    cost: Costs | None = None
    try:
        rows = queues(app, names)
    except CloudQError as error:
        problems["queues"] = describe(error)
    if app.conf.backend_url is None:
        problems["store"] = "no result store: workers, failures and schedules are not known"
    else:
        try:
            living = workers_.workers(app)
            failing = failures(app)
            cost = costs(app) if is_billed(app) else None
        except CloudQError as error:
            problems["store"] = describe(error)
    try:
        due = due_next(schedules(app).schedules)
    except CloudQError as error:
        problems["schedules"] = describe(error)
    now = snapshot(app.runtime.clock(), rows, living)
    return Overview(
        at=now.at,
        queues=rows,
        workers=living,
        running=workers_.running(living),
        failures=failing,
        due=due,
        costs=cost,
        snapshot=now,
        rates=None if before is None else rates(before, now),
        problems=problems,
    )


def snapshot(at: float, rows: Sequence[QueueRow], living: Sequence[WorkerRow]) -> Snapshot:
    """Return the counts of a look, of which the next look makes rates."""
    seen = {row.queue: (row.ready, row.running, row.delayed) for row in rows}
    return Snapshot(
        at=at,
        done={f"{row.name} {row.started}": row.done for row in living},
        failed={f"{row.name} {row.started}": row.failed for row in living},
        waiting={queue: sum(count or 0 for count in counts) for queue, counts in seen.items()},
    )


def rates(before: Snapshot, now: Snapshot) -> Rates | None:
    """Return the rates between two looks; None where no time has passed."""
    over = now.at - before.at
    if over <= 0:
        return None
    ended = _gained(before.done, now.done)
    failed = _gained(before.failed, now.failed)
    shared = now.waiting.keys() & before.waiting.keys()
    grown = sum(now.waiting[queue] - before.waiting[queue] for queue in shared)
    return Rates(
        arriving=max(0.0, (ended + grown) / over),
        ending=ended / over,
        failing=failed / over,
        over=over,
    )


def failures(
    app: CloudQ, *, span: float = HOUR, buckets: int = BUCKETS, most: int = MOST_FAILURES
) -> list[Series]:
    """Count the failures of the last `span` seconds by task, the most first.

    Costs a query for the names of tasks, and one for each that has failed and each hundred of its
    failures. Raises `BackendError`, and `ConfigurationError` without a store.
    """
    now = app.runtime.clock()
    reader = Reader(app.control.backend)
    states = [state for state in State if state in FAILED]
    found: dict[str, Series] = {}
    for task, state in reader.kinds(states):
        series = _series(reader, task, state, now, span=span, buckets=buckets, most=most)
        if series.total:
            found[task] = _together(found[task], series) if task in found else series
    return sorted(found.values(), key=_by_total)


def is_billed(app: CloudQ) -> bool:
    """Tell whether anything that this app uses is billed by request."""
    urls = [app.conf.broker, app.conf.backend_url]
    return any(url is not None and adapter(url).tariff is not None for url in urls)


def _series(
    reader: Reader,
    task: str,
    state: State,
    now: float,
    *,
    span: float,
    buckets: int,
    most: int,
) -> Series:
    counts = [0] * buckets
    total, more = 0, False
    latest: str | None = None
    latest_id: str | None = None
    latest_at: float | None = None
    for event in reader.of_kind(task, state, since=now - span):
        if total == most:
            more = True
            break
        if latest_id is None:
            latest = ": ".join(filter(None, (event.error_type, event.error))) or None
            latest_id, latest_at = event.id, event.at
        place = int((event.at - (now - span)) / span * buckets)
        counts[min(max(place, 0), buckets - 1)] += 1
        total += 1
    return Series(
        task=task,
        counts=counts,
        span=span,
        total=total,
        more=more,
        latest=latest,
        latest_id=latest_id,
        latest_at=latest_at,
    )


def _together(one: Series, other: Series) -> Series:
    newer = max(one, other, key=_latest_at)
    return Series(
        task=one.task,
        counts=[a + b for a, b in zip(one.counts, other.counts, strict=True)],
        span=one.span,
        total=one.total + other.total,
        more=one.more or other.more,
        latest=newer.latest,
        latest_id=newer.latest_id,
        latest_at=newer.latest_at,
    )


def _gained(before: Mapping[str, int], now: Mapping[str, int]) -> int:
    """Sum what counters have gained; one that is new has begun at 0."""
    return sum(max(0, count - before.get(name, 0)) for name, count in now.items())


def _latest_at(series: Series) -> float:
    return series.latest_at or 0.0


def _by_total(series: Series) -> tuple[int, str]:
    return -series.total, series.task
