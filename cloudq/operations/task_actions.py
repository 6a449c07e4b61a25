"""Acts on tasks: revokes and ends them, and runs them again, also with other arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.app import CloudQ
from cloudq.driver import Item, Key
from cloudq.driver.log import Log
from cloudq.errors import CloudQError, ConfigurationError
from cloudq.messages.payloads import Unfetched
from cloudq.operations import dead_actions, dead_letters
from cloudq.operations.audit import Actor, write
from cloudq.operations.dead_actions import Edit
from cloudq.operations.dead_letters import DeadFilter
from cloudq.operations.seen import Seen
from cloudq.operations.tasks import (
    FAILURES,
    Arguments,
    TaskFilter,
    TaskLife,
    TaskSearch,
    arguments_in,
    life,
    search,
)
from cloudq.results.events import Event
from cloudq.results.record import TERMINAL, Record, State
from cloudq.tasks.call_options import CallOptions
from cloudq.text import describe

log = Log("cloudq.operations")

MOST_RETRIED = 1_000
"""Tasks that one retry by a filter runs again at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """The outcome of a revocation: the ids that had not ended, and those that had."""

    revoked: Sequence[str]
    ended: Sequence[str]
    terminated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A task that runs again: as a new call `id`, or as its dead letter, which keeps its id."""

    before: str
    id: str
    task: str
    redriven: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAgain:
    """A task that was not run again, and why."""

    id: str
    task: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDone:
    """The outcome of a retry by a filter; `found` is the search that chose the tasks."""

    again: Sequence[Again]
    failed: Sequence[NotAgain]
    found: TaskSearch


def revoke(
    app: CloudQ,
    ids: Sequence[str],
    *,
    by: Actor,
    terminate: bool = False,
    signal: str = "SIGTERM",
) -> Revoked:
    """Keep tasks from starting; with `terminate` also end those that run.

    A cloud function does not end a running task. Raises `BackendError`, and `ConfigurationError`
    without a store or for a signal that ends no process.
    """
    revoked = [id for id in ids if app.AsyncResult(id).revoke()]
    ended = [id for id in ids if id not in revoked]
    if terminate:
        app.control.terminate(list(ids), signal=signal)
    action = "terminate" if terminate else "revoke"
    outcome = f"{len(ended)} had ended already" if ended else "done"
    write(app, by, action, _named(ids), count=len(revoked), outcome=outcome)
    return Revoked(revoked=revoked, ended=ended, terminated=terminate)


def run_again(
    app: CloudQ,
    id: str,
    *,
    by: Actor,
    edit: Edit | None = None,
) -> Again:
    """Run a task again, with its recorded arguments or those of its dead letter.

    With `edit` some of them are changed. A task with a
    dead letter goes on as that letter, with its id; any other becomes a new call on its queue.
    Raises `ConfigurationError` where the task has not ended, or its arguments are not known.
    """
    found = life(app, id, graph=False)
    if found is None:
        raise ConfigurationError(
            f"no record of task {id}: it has not finished, or its record has expired"
        )
    if found.record.state not in TERMINAL:
        raise ConfigurationError(
            f"task {id} is {found.record.state} and has not ended: revoke it first, or wait"
        )
    try:
        done = _again(app, found, edit, by)
    except CloudQError as error:
        write(app, by, "run again", _task_of(found), count=0, outcome=describe(error))
        raise
    write(app, by, "run again", _task_of(found), count=1, outcome=f"runs as {done.id}")
    return done


def retry(
    app: CloudQ,
    chosen: TaskFilter = FAILURES,
    *,
    by: Actor,
    most: int = MOST_RETRIED,
    found: TaskSearch | None = None,
) -> RetryDone:
    """Run the tasks again that a filter chooses, `most` at most, and each once.

    One that was run again before is left out, so that the same retry twice does no harm. `found`
    is a search that was made before, as for a dry run. What fails is told per task. Raises as
    `search`.
    """
    found = found or search(app, chosen, limit=most)
    events = distinct(found.rows)[:most]
    backend = app.control.backend
    records = backend.records([event.id for event in events]) if events else {}
    letters = _letters_of(app, records)
    again: list[Again] = []
    failed: list[NotAgain] = []
    for event in events:
        record = records.get(event.id) or _record_of(event)
        try:
            again.append(_retried(app, record, event, letters, by))
        except CloudQError as error:
            failed.append(NotAgain(id=event.id, task=event.task, reason=describe(error)))
    outcome = f"{len(failed)} not run again: {failed[0].reason}" if failed else "done"
    write(app, by, "retry", str(chosen), count=len(again), outcome=outcome)
    return RetryDone(again=again, failed=failed, found=found)


def distinct(events: Sequence[Event]) -> list[Event]:
    """Return the newest event of each task."""
    found: dict[str, Event] = {}
    for event in events:
        found.setdefault(event.id, event)
    return list(found.values())


def _again(app: CloudQ, found: TaskLife, edit: Edit | None, by: Actor) -> Again:
    record = found.record
    if record.dead_lettered and record.queue is not None:
        letters = dead_letters.search(app, DeadFilter(ids=(record.id,)), record.queue).letters
        if letters:
            return _redriven(app, record, letters[0], edit, by)
    return _called(app, record, found.arguments, edit)


def _retried(
    app: CloudQ, record: Record, event: Event, letters: Mapping[str, Seen], by: Actor
) -> Again:
    """Run one task of many again, unless it was before."""
    if record.dead_lettered:
        letter = letters.get(record.id)
        if letter is None:
            raise ConfigurationError("its dead letter was sent again, or deleted, meanwhile")
        return _redriven(app, record, letter, None, by)
    if record.state not in TERMINAL:
        raise ConfigurationError(f"it runs again already: it is {record.state}")
    if record.state == State.SUCCESS != event.state:  # its dead letter was sent again
        raise ConfigurationError("it has succeeded since")
    before = ran_again(app, record.id)
    if before is not None:
        raise ConfigurationError(f"it was run again before, as {before}")
    return _called(app, record, None if event.args is None else arguments_in(event.args), None)


def _redriven(app: CloudQ, record: Record, letter: Seen, edit: Edit | None, by: Actor) -> Again:
    done = dead_actions.redrive(app, [letter], letter.queue, by=by, edit=edit, audited=False)
    for failed in done.failed:
        raise ConfigurationError(f"its dead letter was not sent again: {failed.reason}")
    return Again(before=record.id, id=record.id, task=record.task, redriven=True)


def _called(app: CloudQ, record: Record, kept: Arguments | None, edit: Edit | None) -> Again:
    """Call a task anew on its queue, and note that it was."""
    given = _given(record, kept, edit)
    if edit is not None:
        given = _changed(app, record.task, given, edit)
    where: CallOptions = {} if not record.queue else {"queue": record.queue}
    sent = app.send_task(record.task, given[0], given[1], **where)
    _note_again(app, record.id, sent.id)
    return Again(before=record.id, id=sent.id, task=record.task)


def ran_again(app: CloudQ, id: str) -> str | None:
    """Return the id of the call that a task was run again as; None if it was not. One read."""
    item = app.control.backend.get([_again_key(id)]).get(_again_key(id))
    later = item.fields.get("as") if item is not None else None
    return later if isinstance(later, str) else None


def _note_again(app: CloudQ, id: str, later: str) -> None:
    backend = app.control.backend
    expires = backend.clock() + max(backend.expires, app.conf.task_events_expires)
    item = Item(key=_again_key(id), fields={"as": later}, expires=expires)
    try:
        backend.put([item])
    except CloudQError as error:  # it runs: at worst a second retry runs it once more
        log.warning("task %s runs again as %s, which is not noted: %s", id, later, error)


def _again_key(id: str) -> Key:
    return Key(f"again#{id}")


def _letters_of(app: CloudQ, records: Mapping[str, Record]) -> dict[str, Seen]:
    """Read the dead letters of these tasks, once for each queue."""
    buried = [record for record in records.values() if record.dead_lettered and record.queue]
    found: dict[str, Seen] = {}
    for queue in sorted({record.queue for record in buried if record.queue}):
        for seen in dead_letters.search(app, queue=queue).letters:
            found[seen.id] = seen
    return found


def _record_of(event: Event) -> Record:
    """Return what an event says of a task whose record has expired, or was never kept."""
    return Record(id=event.id, state=event.state, task=event.task, queue=event.queue)


def _given(
    record: Record, kept: Arguments | None, edit: Edit | None
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the arguments of a call. Raises `ConfigurationError` where they are not known."""
    values = [] if kept is None else [*kept.args, *kept.kwargs.values()]
    is_gone = any(isinstance(value, Unfetched) for value in values)
    if kept is not None and kept.whole and not is_gone:
        return kept.args, kept.kwargs
    if edit is not None and edit.args is not None:
        return (), {}
    why = "only the beginning of its arguments is recorded" if kept else "no arguments are recorded"
    why += " (failures keep the first 300 characters, successes only with task_events=final)"
    if is_gone:
        why = "a large argument of it was in the payload store, and went with its message"
    raise ConfigurationError(
        f"task {record.id} cannot run again: {why}: give its arguments, as in "
        f"`cloudq call {record.task} ARGUMENTS`"
    )


def _changed(
    app: CloudQ, name: str, given: tuple[Sequence[Any], Mapping[str, Any]], edit: Edit
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    args = list(given[0] if edit.args is None else edit.args)
    kwargs = dict(given[1])
    task = app.tasks.get(name)
    places = list(task.arguments.places[: len(args)]) if task is not None else []
    if task is None and args and edit.kwargs:
        raise ConfigurationError(dead_actions.unknown_places(name))
    for key, value in edit.kwargs.items():
        if key in places and key not in kwargs:
            args[places.index(key)] = value
        else:
            kwargs[key] = value
    return args, kwargs


def _task_of(found: TaskLife) -> str:
    return f"{found.record.task} {found.record.id}"


def _named(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:5])
    many = "tasks" if len(ids) > 1 else "task"
    return f"{many} {shown}" if len(ids) <= 5 else f"{many} {shown} and {len(ids) - 5} more"
