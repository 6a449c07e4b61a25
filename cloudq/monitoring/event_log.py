"""Reads recorded events: the newest ones, those of one task, or new ones as they come."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from uuid import UUID

from cloudq.amounts import count, seconds
from cloudq.driver import Page
from cloudq.results.backend import Backend
from cloudq.results.ends import ends
from cloudq.results.events import (
    NAMES,
    Event,
    event_of,
    key_of,
    kind_in,
    partition_of,
    sort_of,
)
from cloudq.results.record import FAILED, TERMINAL, Record, State
from cloudq.results.stored import readable

FINAL = tuple(state for state in State if state in TERMINAL)
TRACKED = (*FINAL, State.STARTED, State.RETRY)

_PAGE = 100
# What follows the first page is read for counts, and in larger pages.
_LARGER_PAGE = 500
# Events are written shortly after their time, by hosts whose clocks differ.
_LATE = 15.0
# Most events that `follow` reads at once.
_BURST = 1000
# Most retries of a task name that are searched for those of one task.
_RETRIES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """One task's record and its events, oldest first.

    `args` are the arguments of its last run, as an event has kept them: a task may be redriven
    with others.
    """

    record: Record
    events: Sequence[Event] = ()
    args: str | None = None


class Reader:
    """Reads the events of one store. Every method raises `BackendError`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def names(self) -> list[str]:
        """The names of tasks with events. One query for each hundred."""
        return sorted({task for task, _ in self.kinds(TRACKED)})

    def kinds(self, states: Iterable[State]) -> list[tuple[str, State]]:
        """Return the tasks that have events of these states, with each. One query a hundred."""
        wanted = list(states)
        found: set[tuple[str, State]] = set()
        after: str | None = None
        while True:
            page = self._backend.query(NAMES, after=after, limit=_LARGER_PAGE)
            for item in page.items:
                task, state = kind_in(item.key.sort)
                found |= {(task, each) for each in wanted if state in (None, each)}
            after = page.next
            if after is None:
                return sorted(found)

    def of_kind(
        self, task: str, state: State, *, since: float = 0.0, until: float | None = None
    ) -> Iterator[Event]:
        """Yield the events of one task and state, newest first, read page by page as needed."""
        after = None if until is None else sort_of(until)
        size = _PAGE
        while True:
            page = self._backend.query(partition_of(task, state), after=after, limit=size)
            for event in readable(page.items, event_of):
                if event.at < since:
                    return
                yield event
            after, size = page.next, _LARGER_PAGE
            if after is None:
                return

    def ends(
        self,
        *,
        states: Collection[State] = FINAL,
        since: float = 0.0,
        until: float = inf,
    ) -> Iterator[Event]:
        """Yield the logged successes, newest first: those of stores whose requests are free."""
        if self._backend.driver.limits.billed or State.SUCCESS not in states:
            return iter(())
        self._backend.write_ends()  # those of this process, as in a test
        return ends(self._query, now=self._backend.clock(), since=since, until=until)

    def _query(self, partition: str, after: str | None, limit: int) -> Page:
        return self._backend.query(partition, after=after, limit=limit)

    def newest(
        self,
        *,
        names: Sequence[str] | None = None,
        states: Sequence[State] = FINAL,
        since: float = 0.0,
        limit: int = 100,
    ) -> list[Event]:
        """The newest events of these tasks and states since `since`, newest first.

        One query for each task, state and hundred events; finding all names takes another.
        """
        count(limit, "limit")
        seconds(since, "since", most=inf)
        kinds = (
            self.kinds(states)
            if names is None
            else [(name, state) for name in names for state in states]
        )
        found: list[Event] = []
        for name, state in kinds:
            found += self._of(name, state, since, limit)
        logged = self.ends(states=states, since=since)
        if names is not None:
            logged = (event for event in logged if event.task in names)
        found += islice(logged, limit)
        found.sort(key=lambda event: (-event.at, event.id))
        return found[:limit]

    def _of(self, name: str, state: State, since: float, limit: int) -> list[Event]:
        found: list[Event] = []
        after: str | None = None
        while True:
            size = min(limit - len(found), _PAGE)
            page = self._backend.query(partition_of(name, state), after=after, limit=size)
            events = readable(page.items, event_of)
            found += [event for event in events if event.at >= since]
            after = page.next
            if after is None or len(found) >= limit or (events and events[-1].at < since):
                return found

    def follow(
        self,
        *,
        names: Sequence[str] | None = None,
        states: Sequence[State] = FINAL,
        since: float | None = None,
    ) -> Iterator[Event | None]:
        """Yield events as they come, from `since` (epoch seconds) or now; None after each poll.

        A poll costs as much as `newest`. It is made when the store reports a write, else every
        two seconds at most.
        """
        start = time.time() if since is None else since
        seen: dict[tuple[str, State, float], float] = {}
        watcher = self._backend.watch()
        try:
            while True:
                horizon = max(start, time.time() - _LATE) if seen else start
                events = self.newest(names=names, states=states, since=horizon, limit=_BURST)
                for event in reversed(events):
                    mark = (event.id, event.state, event.at)
                    if mark not in seen:
                        seen[mark] = event.at
                        yield event
                seen = {mark: at for mark, at in seen.items() if at >= horizon}
                yield None
                watcher.wait(2.0)
        finally:
            watcher.close()

    def trail(self, id: str) -> Trail | None:
        """Read a task's record and events; None for an unknown or expired task.

        Failures before a redrive are found where requests are free, among the newest of its name.
        """
        record = self._backend.record(id)
        if record is None:
            return None
        moments = (
            (State.STARTED, record.started_at),
            (record.state, record.finished_at),
        )
        keys = [key_of(record.task, state, at, id, record.retries) for state, at in moments if at]
        events = readable(self._backend.get(keys).values(), event_of)
        if record.retries:
            events += self._picked(record, State.RETRY, record.finished_at)
        free = not self._backend.driver.limits.billed
        others = self._before(record, events) if free else []
        return Trail(
            record=record,
            events=sorted([*events, *others], key=lambda event: event.at),
            args=next((event.args for event in events if event.args), None),
        )

    def _before(self, record: Record, events: Sequence[Event]) -> list[Event]:
        """Read the ends of one task that have no event at the time of its record.

        These are failures before it ran again, and a success that is logged with others.
        """
        known = {(event.state, event.at) for event in events}
        failed = [end for state in FAILED for end in self._picked(record, state, None)]
        found = [event for event in failed if (event.state, event.at) not in known]
        if record.state is State.SUCCESS and record.finished_at and not events:
            took = record.finished_at - record.started_at if record.started_at else None
            found.append(
                Event(
                    id=record.id,
                    task=record.task,
                    state=record.state,
                    at=record.finished_at,
                    queue=record.queue,
                    worker=record.worker,
                    took=took,
                    retries=record.retries,
                )
            )
        return found

    def _picked(self, record: Record, state: State, until: float | None) -> list[Event]:
        """The events of one task in a state, picked from those of all tasks of its name."""
        last = until or time.time() + _LATE
        page = self._backend.query(
            partition_of(record.task, state), after=sort_of(last), limit=_RETRIES
        )
        born = _born(record.id)
        events = readable(page.items, event_of)
        return [event for event in events if event.id == record.id and event.at >= born]


def _born(id: str) -> float:
    """Creation time in a task id (epoch seconds), 0 if it is not a UUID of version 7."""
    try:
        made = UUID(id)
    except ValueError:
        return 0.0
    return (made.int >> 80) / 1000 if made.version == 7 else 0.0
