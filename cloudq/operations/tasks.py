"""Tasks as an operator finds them: recorded ends by a filter, and the life of one task."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from math import inf
from typing import Any

import orjson

from cloudq.app import CloudQ
from cloudq.canvas.graph import Graph, graph_of
from cloudq.messages.json_text import is_list, is_object
from cloudq.messages.values import from_wire
from cloudq.monitoring.event_log import FINAL, TRACKED, Reader
from cloudq.results.events import Event
from cloudq.results.outline import outlines_in
from cloudq.results.record import FAILED, Record, State

MOST = 2_000
"""Recorded ends that a search reads at most, unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """A choice of recorded ends; an end must fit all that is given.

    `name` is a glob of the task's name; `states` are those of `FINAL`, or also STARTED and RETRY
    where these are recorded; `since` and `until` are epoch seconds; `error` is a text in the type
    or the text of the error, in any case; `words` a text in the name or in the error, in any case,
    or the beginning of the id.
    """

    id: str | None = None
    name: str | None = None
    states: Sequence[State] = FINAL
    queue: str | None = None
    worker: str | None = None
    since: float = 0.0
    until: float | None = None
    error: str | None = None
    words: str | None = None

    def matches(self, event: Event) -> bool:
        """Tell whether an end fits."""
        return (
            event.state in self.states
            and event.at >= self.since
            and (self.until is None or event.at <= self.until)
            and (self.id is None or event.id == self.id)
            and (self.name is None or fnmatchcase(event.task, self.name))
            and (self.queue is None or event.queue == self.queue)
            and (self.worker is None or event.worker == self.worker)
            and (self.error is None or self.error.casefold() in _error_of(event).casefold())
            and (self.words is None or self._has_words(event))
        )

    def _has_words(self, event: Event) -> bool:
        words = (self.words or "").casefold()
        texts = event.task.casefold(), _error_of(event).casefold()
        return event.id.startswith(words) or any(words in text for text in texts)

    def __str__(self) -> str:
        given = {name: getattr(self, name) for name in self.__slots__ if name != "states"}
        said = [f"{name}={value}" for name, value in given.items() if value]
        states = [] if self.states == FINAL else [f"states={','.join(self.states)}"]
        return " ".join([*said, *states]) or "all"


FAILURES = TaskFilter(states=tuple(state for state in FINAL if state in FAILED))
"""Chooses what has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSearch:
    """Recorded ends that fit a filter, newest first, at most as many as were asked for.

    `matched` of the `seen` ends fit. With `complete` these are all that are recorded; else ends
    before `back_to` (epoch seconds) were not read. `recorded` names the states that this app's
    workers record, by its settings.
    """

    rows: Sequence[Event]
    matched: int
    seen: int
    complete: bool
    back_to: float | None
    recorded: Sequence[State]

    @property
    def scope(self) -> str:
        """Say what was looked at: "100 of 344 tasks", "100 of 344 among the newest 2,000"."""
        shown = f"{len(self.rows):,} of {self.matched:,}"
        return f"{shown} tasks" if self.complete else f"{shown} among the newest {self.seen:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The recorded arguments of a call: `text` is a beginning, unless they are `whole`."""

    text: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLife:
    """All that the store knows of one task.

    `events` are its recorded states, oldest first; `children` the ids of the tasks that it has
    started; `graph` the workflow around it, None if it is alone.
    """

    record: Record
    events: Sequence[Event] = ()
    arguments: Arguments | None = None
    children: Sequence[str] = ()
    graph: Graph | None = None

    @property
    def parent(self) -> str | None:
        """The id of the task that started it."""
        return self.record.parent


def search(
    app: CloudQ,
    chosen: TaskFilter | None = None,
    *,
    limit: int = 100,
    most: int = MOST,
) -> TaskSearch:
    """Find the newest recorded ends that a filter chooses, reading `most` at most.

    All that is read is counted, also beyond `limit`. Costs a query for the names of tasks, and
    one for each name and state that has ends, and each hundred of them. Raises `BackendError`,
    and `ConfigurationError` without a store.
    """
    chosen = chosen or TaskFilter()
    if chosen.id is not None:
        return _by_id(app, chosen, chosen.id)
    rows: list[Event] = []
    matched = seen = 0
    back_to: float | None = None
    for event in newest(app, chosen):
        if seen == most:
            back_to = event.at
            break
        seen += 1
        if chosen.matches(event):
            matched += 1
            if len(rows) < limit:
                rows.append(event)
    return TaskSearch(
        rows=rows,
        matched=matched,
        seen=seen,
        complete=back_to is None,
        back_to=back_to,
        recorded=recorded_states(app),
    )


def newest(app: CloudQ, chosen: TaskFilter) -> Iterator[Event]:
    """Yield the ends of the names and states of a filter, newest first, read page by page."""
    reader = Reader(app.control.backend)
    wanted = [
        (task, state)
        for task, state in reader.kinds(chosen.states)
        if chosen.name is None or fnmatchcase(task, chosen.name)
    ]
    streams: list[Iterable[Event]] = [
        reader.of_kind(task, state, since=chosen.since, until=chosen.until)
        for task, state in wanted
    ]
    until = inf if chosen.until is None else chosen.until
    streams.append(reader.ends(states=chosen.states, since=chosen.since, until=until))
    return heapq.merge(*streams, key=_newest_first)


def recorded_states(app: CloudQ) -> tuple[State, ...]:
    """Return the states that the workers of this app record, as far as its settings tell."""
    backend = app.backend
    history = backend.history if backend is not None else None
    return () if history is None else tuple(state for state in TRACKED if state in history.told)


def life(app: CloudQ, id: str, *, graph: bool = True) -> TaskLife | None:
    """Read all about one task; None if the store knows nothing of it.

    Costs one read, with retries and events some more, and with `graph` a read for each step from
    the task to the farthest one of its workflow.
    """
    backend = app.control.backend
    trail = Reader(backend).trail(id)
    if trail is None:
        return None
    record = trail.record
    found = graph_of(id, backend) if graph and (record.parent or record.children) else None
    if found is None and graph and record.join:
        found = graph_of(id, backend)
    return TaskLife(
        record=record,
        events=trail.events,
        arguments=None if trail.args is None else arguments_in(trail.args),
        children=_children(record),
        graph=found,
    )


def arguments_in(text: str) -> Arguments:
    """Read the arguments that an event has kept, or their beginning."""
    try:
        read: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Arguments(text=text)
    if not is_list(read) or len(read) != 2 or not is_list(read[0]) or not is_object(read[1]):
        return Arguments(text=text)
    kwargs = {name: from_wire(value) for name, value in read[1].items()}
    return Arguments(text=text, args=list(map(from_wire, read[0])), kwargs=kwargs, whole=True)


def _by_id(app: CloudQ, chosen: TaskFilter, id: str) -> TaskSearch:
    found = life(app, id, graph=False)
    events = [] if found is None else [event_of(found)]
    rows = [event for event in events if chosen.matches(event)]
    return TaskSearch(
        rows=rows,
        matched=len(rows),
        seen=len(events),
        complete=True,
        back_to=None,
        recorded=recorded_states(app),
    )


def event_of(found: TaskLife) -> Event:
    """Return the last state of a task as an event, made of its record."""
    record = found.record
    took = (
        record.finished_at - record.started_at
        if record.finished_at is not None and record.started_at is not None
        else None
    )
    return Event(
        id=record.id,
        task=record.task,
        state=record.state,
        at=record.finished_at or record.started_at or 0.0,
        queue=record.queue,
        worker=record.worker,
        took=took,
        retries=record.retries,
        error_type=record.error_type,
        error=record.error,
        args=None if found.arguments is None else found.arguments.text,
    )


def _children(record: Record) -> list[str]:
    if not record.children:
        return []
    rows = chain.from_iterable(outlines_in(record.children))
    return [id for id, _, members in rows if members is None]


def _error_of(event: Event) -> str:
    return ": ".join(filter(None, (event.error_type, event.error)))


def _newest_first(event: Event) -> tuple[float, str]:
    return -event.at, event.id
