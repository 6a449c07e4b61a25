"""Acts on dead letters: redrives them, at a rate or with other arguments, and deletes them.

A redrive never loses a letter: a copy is in the queue before the letter is deleted. What fails is
told per letter, and the letter is then where it was, or in both places.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cloudq.app import CloudQ
from cloudq.driver import Code, Failure
from cloudq.errors import CloudQError, ConfigurationError
from cloudq.messages.message import TaskMessage, payloads_of
from cloudq.messages.values import from_wire, to_wire
from cloudq.operations import dead_letters
from cloudq.operations.audit import Actor, write
from cloudq.operations.dead_letters import DeadFilter
from cloudq.operations.queues import PurgeDone, require_known
from cloudq.operations.seen import Seen
from cloudq.text import describe

# Letters that are acted on at a time, so that progress is told.
_AT_A_TIME = 500
_PARTS_A_SECOND = 1.0

Told = Callable[[int], None]
"""Is told how many letters have been handled so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change of a call's arguments: `args` in place of all positional ones, `kwargs` by name.

    A parameter of a registered task that was given by its place is changed there.
    """

    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        parts = [] if self.args is None else ["all positional arguments"]
        return ", ".join([*parts, *self.kwargs])


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedLetter:
    """A letter that was not handled, and why."""

    id: str
    queue: str
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadDone:
    """The outcome for letters: `done` of `chosen` were handled, the others `failed`.

    `seen` and `complete` are those of the search that chose them.
    """

    action: str
    done: int
    chosen: int
    failed: Sequence[FailedLetter] = ()
    seen: int = 0
    complete: bool = True


def redrive(
    app: CloudQ,
    chosen: DeadFilter | Sequence[Seen],
    queue: str | None = None,
    *,
    by: Actor,
    rate: float | None = None,
    edit: Edit | None = None,
    most: int | None = None,
    told: Told | None = None,
    audited: bool = True,
    said: str | None = None,
) -> DeadDone:
    """Send dead letters to their queues again: those a filter chooses, or that were read.

    With `rate` so many a second, with `edit` as new messages of the same id with other
    arguments, with `most` so many at most. Without `audited` the caller logs it; `said` are words
    for the log that say how letters were chosen. Raises
    `BrokerError` when the letters cannot be read, and `ConfigurationError` for a filter of ids
    that are not there.
    """
    letters, found = _letters(app, chosen, queue, most)
    act = _redriven if edit is None else partial(_edited, edit)
    failed = _each_part(app, letters, act, rate=rate, told=told)
    how = f" with other {edit}" if edit is not None else ""
    actor = by if audited else None
    return _finished(app, actor, f"redrive{how}", (said or chosen, queue), letters, failed, found)


def delete(
    app: CloudQ,
    chosen: DeadFilter | Sequence[Seen],
    queue: str | None = None,
    *,
    by: Actor,
    most: int | None = None,
    told: Told | None = None,
    said: str | None = None,
) -> DeadDone:
    """Delete dead letters for good: those a filter chooses, or that were read.

    Raises as `redrive`.
    """
    letters, found = _letters(app, chosen, queue, most)
    failed = _each_part(app, letters, _deleted, rate=None, told=told)
    return _finished(
        app, by, "delete dead letters", (said or chosen, queue), letters, failed, found
    )


def purge(app: CloudQ, queue: str, *, by: Actor) -> PurgeDone:
    """Delete all dead letters of a queue, however many there are. Raises `BrokerError`."""
    require_known(app, queue)
    with app.broker.asking("purge the dead letters of", queue) as admin:
        purged = admin.purge_dead(queue)
    write(app, by, "purge dead letters", f"queue {queue}", count=purged.count)
    return PurgeDone(queue=queue, deleted=purged.count, settles=purged.settles)


def edited(app: CloudQ, message: TaskMessage, edit: Edit) -> TaskMessage:
    """Return the message with other arguments. Raises `InvalidArguments` for ones that do not fit.

    Those of a task that is not registered are not checked.
    """
    args = list(message.args if edit.args is None else map(to_wire, edit.args))
    kwargs = dict(message.kwargs)
    task = app.tasks.get(message.task)
    places = list(task.arguments.places[: len(args)]) if task is not None else []
    if task is None and args and edit.kwargs:
        raise ConfigurationError(unknown_places(message.task))
    for name, value in edit.kwargs.items():
        if name in places and name not in kwargs:
            args[places.index(name)] = to_wire(value)
        else:
            kwargs[name] = to_wire(value)
    if task is not None:
        plain = {name: from_wire(value) for name, value in kwargs.items()}
        task.arguments.check([from_wire(arg) for arg in args], plain)
    return message.model_copy(update={"args": args, "kwargs": kwargs})


def unknown_places(task: str) -> str:
    """Say why an argument cannot be changed by its name."""
    return (
        f"this app has no task {task!r}, so it is not known which of its positional arguments has "
        "which name: use the app's own (-A), or give all of them as a list"
    )


_Act = Callable[[CloudQ, str, Sequence[Seen]], Sequence[Failure]]


def _edited(edit: Edit, app: CloudQ, queue: str, part: Sequence[Seen]) -> Sequence[Failure]:
    """Send letters with other arguments, then delete those that were sent."""
    failed: list[Failure] = []
    sent: list[int] = []
    for place, seen in enumerate(part):
        try:
            _send_edited(app, queue, seen, edit)
            sent.append(place)
        except CloudQError as error:
            failed.append(Failure(index=place, code=Code.INVALID, reason=describe(error)))
    if not sent:
        return failed
    try:
        with app.broker.asking("delete the dead letters of", queue) as admin:
            kept = admin.delete_dead(queue, [part[place].peeked for place in sent])
    except CloudQError as error:
        kept = [
            Failure(index=n, code=Code.UNKNOWN, reason=describe(error)) for n in range(len(sent))
        ]
    why = "sent with the new arguments, and still among the dead letters"
    failed += [
        replace(each, index=sent[each.index], reason=f"{why}: {each.reason}") for each in kept
    ]
    return failed


def _send_edited(app: CloudQ, queue: str, seen: Seen, edit: Edit) -> None:
    if seen.message is None:
        what = "its calls are a bundle" if seen.calls else "it cannot be read"
        raise ConfigurationError(f"{what}, so its arguments cannot be changed: redrive it whole")
    message = edited(app, seen.message, edit)
    if message.queue != queue:
        message = message.model_copy(update={"queue": queue})
    app.broker.send([message])


def _letters(
    app: CloudQ, chosen: DeadFilter | Sequence[Seen], queue: str | None, most: int | None
) -> tuple[list[Seen], tuple[int, bool]]:
    if not isinstance(chosen, DeadFilter):
        letters = list(chosen if most is None else chosen[:most])
        return letters, (len(letters), True)
    found = dead_letters.search(app, chosen, queue)
    missing = dead_letters.missing_ids(found, chosen)
    if missing:
        where = f" {queue}" if queue else ""
        raise ConfigurationError(
            f"no dead letter {', '.join(missing)}: see `cloudq dead list{where}`"
        )
    letters = list(found.letters if most is None else found.letters[:most])
    return letters, (found.seen, found.complete)


def _each_part(
    app: CloudQ, letters: Sequence[Seen], act: _Act, *, rate: float | None, told: Told | None
) -> list[FailedLetter]:
    """Act on letters in parts, queue by queue, so many a second; return those that failed."""
    size = _AT_A_TIME if rate is None else max(1, int(rate * _PARTS_A_SECOND))
    failed: list[FailedLetter] = []
    handled, began = 0, time.monotonic()
    for part in _parts(letters, size):
        if rate is not None:
            _wait_until(app, began + handled / rate)
        failed += _acted(app, part, act)
        handled += len(part)
        if told is not None:
            told(handled)
    return failed


def _parts(letters: Sequence[Seen], size: int) -> list[list[Seen]]:
    by_queue: dict[str, list[Seen]] = {}
    for seen in letters:
        by_queue.setdefault(seen.queue, []).append(seen)
    return [
        group[start : start + size]
        for group in by_queue.values()
        for start in range(0, len(group), size)
    ]


def _wait_until(app: CloudQ, moment: float) -> None:
    left = moment - time.monotonic()
    if left > 0:
        app.runtime.services.sleep(left)


def _acted(app: CloudQ, part: Sequence[Seen], act: _Act) -> list[FailedLetter]:
    queue = part[0].queue
    try:
        refused = act(app, queue, part)
    except CloudQError as error:
        # The service may have done a part of it before it failed.
        reason = f"the call failed, look before you try again: {describe(error)}"
        return [FailedLetter(id=seen.id, queue=queue, reason=reason) for seen in part]
    return [
        FailedLetter(id=part[each.index].id, queue=queue, reason=each.reason, code=str(each.code))
        for each in refused
    ]


def _redriven(app: CloudQ, queue: str, part: Sequence[Seen]) -> Sequence[Failure]:
    with app.broker.asking("redrive to", queue) as admin:
        return admin.redrive(queue, [seen.peeked for seen in part])


def _deleted(app: CloudQ, queue: str, part: Sequence[Seen]) -> Sequence[Failure]:
    with app.broker.asking("delete the dead letters of", queue) as admin:
        failures = admin.delete_dead(queue, [seen.peeked for seen in part])
    kept = {failure.index for failure in failures}
    _free(app, [seen for place, seen in enumerate(part) if place not in kept])
    return failures


def _free(app: CloudQ, gone: Sequence[Seen]) -> None:
    """Delete the payloads of letters that are gone; a failure is logged, and they expire."""
    messages = [seen.message for seen in gone if seen.message is not None]
    keys = [key for message in messages for key in payloads_of(message, follow=True)]
    payloads = app.runtime.payloads() if keys else None
    if payloads is not None:
        payloads.delete(keys)


def _finished(
    app: CloudQ,
    by: Actor | None,
    action: str,
    asked: tuple[str | DeadFilter | Sequence[Seen], str | None],
    letters: Sequence[Seen],
    failed: Sequence[FailedLetter],
    found: tuple[int, bool],
) -> DeadDone:
    chosen, queue = asked
    what = str(chosen) if isinstance(chosen, str | DeadFilter) else f"{len(letters)} chosen"
    done = len(letters) - len(failed)
    outcome = "done" if not failed else f"{len(failed)} not done: {failed[0].reason}"
    where = f"queue {queue}" if queue else "all queues"
    if by is not None:
        write(app, by, action, f"{where}, {what}", count=done, outcome=outcome)
    return DeadDone(
        action=action,
        done=done,
        chosen=len(letters),
        failed=failed,
        seen=found[0],
        complete=found[1],
    )
