"""The beat: sends each run of each schedule when it is due. Of several beats only the leader sends.

A run is sent first and recorded afterwards, so a beat that dies in between sends it again instead
of losing it. Both messages have the same id and idempotency key, so workers run it once.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudq.amounts import seconds
from cloudq.clock import Backoff
from cloudq.driver.ends import pass_ends
from cloudq.driver.log import Log
from cloudq.errors import (
    BackendError,
    CloudQError,
    ConfigurationError,
    PublishError,
    ServiceError,
)
from cloudq.schedules.entry import Entry, utc
from cloudq.schedules.leader import LeaderLease
from cloudq.schedules.schedules import Schedule, Schedules
from cloudq.schedules.state import leader_key

log = Log("cloudq.schedules")

# Seconds. A run that is no later than this counts as in time, whatever its catch_up, since another
# leader takes over, and a short outage of the broker ends, in less. At least two leases.
_IN_TIME = 60.0
# Seconds. A last run this far in the future means that the clock was wrong then or is now.
_AHEAD = 300.0
# Most missed runs of one entry that are sent at once.
_MOST = 1000
# Seconds; short, since the wall clock may be set during the sleep.
_LONGEST_SLEEP = 5.0


@dataclass(slots=True)
class _ActiveEntry:
    """One active entry, and the epoch time up to which its runs have been handled."""

    entry: Entry
    last: float
    due: float = -1.0
    """Epoch time of its next run; -1: not computed yet, inf: never."""


class Beat:
    """One beat of an app. `tick` sends due runs; `BeatThread` calls it in time.

    Raises `ConfigurationError` without a result backend. `lease` is the longest time in seconds
    until another beat takes over from a dead leader. `refresh` is the pause in seconds between two
    reads of the stored schedules, by default a fifth of `lease`. The lease is timed by the clock
    `monotonic`, runs by the app's clock.
    """

    def __init__(
        self,
        schedules: Schedules,
        *,
        hostname: str | None = None,
        lease: float | None = None,
        refresh: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        runtime = schedules.runtime
        self._runtime = runtime
        self._schedules = schedules
        self._states = schedules.states
        self._monotonic = monotonic
        self._length = runtime.conf.beat_lease
        if lease is not None:
            self._length = seconds(lease, "the lease of a beat", ConfigurationError)
        self._refresh = self._length / 5 if refresh is None else refresh
        name = hostname or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        backend = runtime.backend
        assert backend is not None  # `states` raises without one
        self.lease = LeaderLease(backend, leader_key(runtime.name), name, self._length, monotonic)
        self._declared = schedules.declared()
        self._active: dict[str, _ActiveEntry] = {}
        self._load_at = -1.0
        self._said: set[str] = set()

    @property
    def leads(self) -> bool:
        """Tell whether this beat is the one that sends."""
        return self.lease.held

    def tick(self) -> float:
        """Keep the lease, send due runs, and return the seconds until the next call.

        Raises `BackendError` and `BrokerError`; runs that were not sent stay due.
        """
        now = self._monotonic()
        if now >= self.lease.look_at:
            if not self.lease.look():
                self._load_at = -1.0
            elif self._load_at < 0:
                self._load(now)
        if not self.lease.held:
            return max(0.0, self.lease.look_at - self._monotonic())
        if now >= self._load_at:
            self._load(now)
        self._send_due()
        until = min((active.due for active in self._active.values()), default=float("inf"))
        wait = min(until - self._runtime.clock(), self.lease.look_at - self._monotonic())
        return max(0.0, min(wait, _LONGEST_SLEEP))

    def next_due(self) -> float:
        """Epoch time of the next run, inf for never."""
        return min((active.due for active in self._active.values()), default=float("inf"))

    def stop(self) -> None:
        """Give up the lead, so that another beat can take it at once. Raises `BackendError`."""
        self.lease.leave()

    # ---- reading schedules

    def _load(self, now: float) -> None:
        """Read all schedules with their pauses, and those made at run time; one query."""
        found = self._schedules.all(self._declared)
        self._load_at = now + self._refresh
        active: dict[str, _ActiveEntry] = {}
        for name, scheduled in found.items():
            if scheduled.error and scheduled.error not in self._said:
                self._said.add(scheduled.error)
                log.error("a schedule is not run: %s", scheduled.error)
            if scheduled.active and scheduled.entry is not None:
                active[name] = self._active_entry(scheduled, scheduled.entry)
        self._active = active

    def _active_entry(self, scheduled: Schedule, entry: Entry) -> _ActiveEntry:
        state, now = scheduled.state, self._runtime.clock()
        if state.last is None or state.spec != entry.fingerprint:
            # The schedule is new or has new times, so no past runs are owed.
            if over := entry.over(utc(now)):
                log.warning("schedule %s never runs: %s", entry.name, over)
            self._states.begin(entry, now)
            active = _ActiveEntry(entry, now)
        else:
            active = _ActiveEntry(entry, state.last)
        known = self._active.get(scheduled.name)
        if known is not None and known.entry.fingerprint == entry.fingerprint:
            # The store may have missed a record of ours.
            active.last = max(active.last, known.last)
        if active.last > now + _AHEAD:
            log.warning(
                "schedule %s was last run %.0f s in the future: the clock has gone back, "
                "so its runs are counted from now",
                entry.name,
                active.last - now,
            )
            self._states.begin(entry, now)
            active.last = now
        active.due = self._due_after(entry, active.last)
        return active

    @staticmethod
    def _due_after(entry: Entry, last: float) -> float:
        following = next(entry.runs(utc(last)), None)
        return float("inf") if following is None else following.timestamp()

    # ---- sending

    def _send_due(self) -> None:
        now = self._runtime.clock()
        todo: list[tuple[_ActiveEntry, list[datetime], float]] = []
        for active in self._active.values():
            if active.due <= now:
                run_times, last = self._run_times(active, now)
                todo.append((active, run_times, last))
        if not todo:
            return
        refused = self._publish(
            [(active.entry, run_time) for active, run_times, _ in todo for run_time in run_times]
        )
        for active, run_times, last in todo:
            unsent = [
                run_time for run_time in run_times if (active.entry.name, run_time) in refused
            ]
            if unsent:
                # Stop before the first unsent run; later ones are sent again under the same ids.
                last = unsent[0].timestamp() - 0.001
                if last <= active.last:
                    continue
            self._note(active, last, len(run_times) - len(unsent))
        if refused:
            raise next(iter(refused.values()))

    def _run_times(self, active: _ActiveEntry, now: float) -> tuple[list[datetime], float]:
        """The runs to send now, and the epoch time up to which all are handled afterwards."""
        entry, moment = active.entry, utc(now)
        in_time = now - max(_IN_TIME, 2 * self._length)
        after = active.last if entry.catch_up == "all" else max(active.last, in_time)
        run_times = _up_to(entry, after, moment)
        if len(run_times) == _MOST:
            return run_times, run_times[-1].timestamp()
        if not run_times and entry.catch_up == "last" and active.last < in_time:
            latest = entry.last_run(utc(in_time))
            if latest is not None and latest.timestamp() > active.last:
                run_times = [latest]
        if active.due < in_time:
            log.warning(
                "schedule %s was due at %s and no beat was running: %s",
                entry.name,
                utc(active.due),
                f"missed runs that are sent now: {len(run_times)}"
                if run_times
                else "its missed runs are skipped",
            )
        return run_times, now

    def _publish(
        self, runs: list[tuple[Entry, datetime]]
    ) -> Mapping[tuple[str, datetime], CloudQError]:
        """Send runs in as few requests as possible; returns the unsent ones with their errors."""
        refused: dict[tuple[str, datetime], CloudQError] = {}
        calls: list[Any] = []
        sent: list[tuple[str, datetime]] = []
        for entry, run_time in runs:
            calls.append(self._schedules.call(entry, run_time))
            sent.append((entry.name, run_time))
        try:
            if calls:
                self._schedules.publisher.send_many(calls)
        except PublishError as error:
            for rejected in error.rejected:
                refused[sent[rejected.index]] = error
        except ServiceError as error:
            refused = dict.fromkeys(sent, error)
        except CloudQError as error:
            if len(calls) == 1:
                # Trying again is no use: wrong arguments, or a queue without priorities.
                log.error("a run of schedule %s is not sent: %s", runs[0][0].name, error)
                return {}
            for run in runs:  # one bad run must not hold back the others
                refused |= self._publish([run])
        for name, run_time in sent:
            if (name, run_time) not in refused:
                log.info("sent the run of schedule %s due at %s", name, run_time.isoformat())
        return refused

    def _note(self, active: _ActiveEntry, last: float, runs: int) -> None:
        active.last = last
        active.due = self._due_after(active.entry, last)
        try:
            self._states.ran(active.entry, last, runs)
        except BackendError as error:
            # It was sent. The next leader may send it again, under the same id.
            log.warning(
                "a run of schedule %s was sent but not recorded, and may be sent again: %s",
                active.entry.name,
                error,
            )


def _up_to(entry: Entry, after: float, moment: datetime) -> list[datetime]:
    found: list[datetime] = []
    for run_time in entry.runs(utc(after)):
        if run_time > moment or len(found) == _MOST:
            break
        found.append(run_time)
    return found


class BeatThread:
    """A beat in a thread of its own, or in the caller's by `run`."""

    def __init__(self, beat: Beat) -> None:
        self.beat = beat
        self._stopped = threading.Event()
        # A longer pause would lose the lease.
        self._backoff = Backoff(0.5, max(0.5, beat.lease.pause), jitter=0.0)
        self._thread = threading.Thread(target=self.run, name="beat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and give up the lead."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def ask(self) -> None:
        """Ask it to stop soon; safe in a signal handler."""
        self._stopped.set()

    def run(self) -> None:
        """Tick until stopped, and retry after errors with growing pauses."""
        while not self._stopped.is_set():
            self._stopped.wait(self._tick())
        try:
            self.beat.stop()
        except CloudQError as error:
            log.warning("the lease was not given up, so it has to expire: %s", error)

    def _tick(self) -> float:
        try:
            wait = self.beat.tick()
        except CloudQError as error:
            log.warning("the beat failed and tries again after a pause: %s", error)
        except BaseException as error:  # if this thread ended, nothing would be sent any more
            pass_ends(error)
            log.exception("the beat failed unexpectedly and tries again after a pause")
        else:
            self._backoff.succeeded()
            return wait
        return self._backoff.failed()
