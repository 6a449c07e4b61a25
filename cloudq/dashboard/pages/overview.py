"""The data of the overview: all of the app at one look, with rates since the looks before."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from cloudq.app import CloudQ
from cloudq.dashboard.looks import Looks, Part, Watch
from cloudq.dashboard.visit import Visit
from cloudq.operations import costs, queues, schedules, workers
from cloudq.operations import overview as operations
from cloudq.operations.overview import Rates, Series, Snapshot
from cloudq.operations.queues import QueueRow
from cloudq.operations.schedules import ScheduleRow
from cloudq.operations.workers import RunningTask, WorkerRow

_KEPT = 60
# Looks farther apart make no rate that tells of now.
_APART = 300.0
_LONGEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The bill of the last hour."""

    dollars: float
    dollars_a_month: float
    nothing: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All of an app at one look. `history` has the rates of the looks before, oldest first."""

    queues: Part[list[QueueRow]]
    workers: Part[list[WorkerRow]]
    running: Sequence[RunningTask]
    failures: Part[list[Series]]
    due: Part[list[ScheduleRow]]
    bill: Part[Bill] | None
    rates: Rates | None
    history: Sequence[Rates]
    has_store: bool


class _History:
    """The snapshots and rates of the last looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self.rates: deque[Rates] = deque(maxlen=_KEPT)

    def add(self, now: Snapshot) -> None:
        """Add a look, if it is a new one."""
        with self._lock:
            last = self._last
            if last is not None and now.at <= last.at:
                return
            self._last = now
            if last is None or now.at - last.at > _APART:
                self.rates.clear()
                return
            made = operations.rates(last, now)
            if made is not None:
                self.rates.append(made)


_HISTORIES: WeakKeyDictionary[Looks, _History] = WeakKeyDictionary()


def data(watch: Watch, visit: Visit) -> Page:
    """Look at all of the app."""
    app = watch.app
    rows = watch.part("queues", queues.queues, app)
    living = watch.part("workers", workers.workers, app)
    failing = watch.part("failures", operations.failures, app, ttl=_slow(watch))
    due = watch.part("due", _due, app)
    bill = watch.part("bill", _bill, app, ttl=60.0)
    history = _HISTORIES.setdefault(watch.looks, _History())
    if rows.value is not None and living.value is not None:
        history.add(operations.snapshot(min(rows.at, living.at), rows.value, living.value))
    return Page(
        queues=rows,
        workers=living,
        running=workers.running(living.value or ())[:_LONGEST],
        failures=failing,
        due=due,
        bill=bill if operations.is_billed(app) else None,
        rates=history.rates[-1] if history.rates else None,
        history=list(history.rates),
        has_store=app.conf.backend_url is not None,
    )


def _slow(watch: Watch) -> float:
    """Return the time for which what reads many items is kept."""
    return max(watch.looks.refresh, 5.0) * 0.9


def _due(app: CloudQ) -> list[ScheduleRow]:
    return schedules.due_next(schedules.schedules(app).schedules)


def _bill(app: CloudQ) -> Bill:
    made = costs.costs(app)
    return Bill(dollars=made.dollars, dollars_a_month=made.dollars_a_month, nothing=made.nothing)
