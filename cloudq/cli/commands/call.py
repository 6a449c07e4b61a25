"""`cloudq call`: sends one call of a task."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from cloudq.amounts import span
from cloudq.app import CloudQ
from cloudq.cli.arguments import json_list, json_object, read_words
from cloudq.cli.commands.queues import unread
from cloudq.cli.commands.result import Wait, WaitCommand, as_json, check_wait, outcome
from cloudq.cli.guesses import task_meant
from cloudq.cli.options import JsonOption, Target, common, refuse_memory
from cloudq.cli.output import complain, emit, emit_written, note, say
from cloudq.cli.readers import nobody_reads
from cloudq.errors import (
    ConfigurationError,
    InvalidArguments,
    ResultTimeout,
    UnknownTask,
)
from cloudq.messages.sealed_text import shown
from cloudq.operations.seen import without_claims
from cloudq.results.looks import unended
from cloudq.results.record import Record, State
from cloudq.results.result import AsyncResult, wait_for
from cloudq.text import AsIs

_NEGATIVE = re.compile(r"-[0-9.]")
# Seconds of a wait until it is looked at whether anybody works on the queue.
_UNANSWERED = 5.0
# Tasks that are listed where none has nearly the name.
_LISTED = 20


class CallCommand(WaitCommand):
    """A command with arguments below zero."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # A leading space keeps -5 from being read as an option, and means the same in JSON.
        return super().parse_args(ctx, [f" {arg}" if _NEGATIVE.match(arg) else arg for arg in args])


Args = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARG",
        help="Arguments, by place or NAME=VALUE: JSON, else a string, as the hints say.",
    ),
]
ArgsJson = Annotated[
    str | None, typer.Option("--args", metavar="JSON", help="All arguments, as a JSON list.")
]
KwargsJson = Annotated[
    str | None, typer.Option("--kwargs", metavar="JSON", help="Keyword arguments, a JSON object.")
]
Queue = Annotated[
    str | None, typer.Option("-Q", "--queue", help="Queue to send to. Default: the task's own.")
]
Countdown = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Do not run before this delay has passed.")
]
Eta = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Do not run before this time: 2030-01-31T12:00, local."),
]
Expires = Annotated[
    str | None,
    typer.Option(metavar="SECONDS|TIME", help="Do not run after this delay, such as 10m, or time."),
]
TaskId = Annotated[
    str | None, typer.Option(metavar="ID", help="Id of the new task. Default: a random one.")
]
IdempotencyKey = Annotated[str | None, typer.Option(metavar="KEY", help="Run only once per key.")]
GroupKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="Keep the order of a key on ordered queues.")
]
UniqueKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Do not send while a call with this key waits or runs."),
]
Priority = Annotated[
    int | None,
    typer.Option(metavar="0-9", help="Priority on queues that have priorities; 9 is first."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Send even if the app does not know the task.")
]


@common
def call(
    target: Target,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Registered name of the task.")],
    args: Args = None,
    args_json: ArgsJson = None,
    kwargs_json: KwargsJson = None,
    queue: Queue = None,
    countdown: Countdown = None,
    eta: Eta = None,
    expires: Expires = None,
    task_id: TaskId = None,
    idempotency_key: IdempotencyKey = None,
    group_key: GroupKey = None,
    unique_key: UniqueKey = None,
    priority: Priority = None,
    wait: Wait = None,
    force: Force = False,
    json: JsonOption = False,
) -> int:
    """Send one call of a task.

    Prints the task's id, or with --wait its result:

    cloudq call -A shop.tasks:app shop.tasks.add 2 3 --wait
    """
    check_wait(wait)
    app = target.open() if force else target.load()
    refuse_memory(app)
    if task not in app.tasks and not force:
        raise UnknownTask(_unknown(app, task))
    given: dict[str, Any] = {
        "queue": queue,
        "countdown": countdown,
        "eta": None if eta is None else moment("--eta", eta),
        "expires": None if expires is None else _expiry(expires),
        "task_id": task_id,
        "idempotency_key": idempotency_key,
        "group_key": group_key,
        "unique_key": unique_key,
        "priority": priority,
    }
    options = {key: value for key, value in given.items() if value is not None}
    positional, named = _arguments(app, task, args or (), args_json, kwargs_json)
    with app:
        remark = None if queue is None else unread(app, queue)
        sent = app.send_task(task, positional, named, **options)
        if remark is not None:
            note(remark)
        if wait is None:
            emit({"id": sent.id}, indent=False) if json else say(AsIs(sent.id))
            if sys.stdout.isatty() and app.backend is not None:
                note(f"its result: cloudq result{target.words} --wait {sent.id}")
            return 0
        try:
            record = _waited(app, sent, task, queue, wait)
        except KeyboardInterrupt:
            note(f"the task is not stopped; its result: cloudq result{target.words} {sent.id}")
            raise
    return _print_end(record, target, json=json)


def _arguments(
    app: CloudQ, task: str, words: Sequence[str], args: str | None, kwargs: str | None
) -> tuple[list[Any], dict[str, Any]]:
    """Read the arguments that are given one by one, and those that are given as JSON."""
    positional, named = read_words(app, task, words)
    if args is not None:
        if positional:
            raise InvalidArguments("give the arguments one by one or as --args, not both")
        positional = json_list("--args", args)
    return positional, json_object("--kwargs", kwargs) | named


def _waited(
    app: CloudQ, sent: AsyncResult[Any], task: str, queue: str | None, wait: float
) -> Record:
    """Wait for the end of a call; say so if nobody seems to work on its queue.

    Raises `ResultTimeout`.
    """
    if wait > _UNANSWERED:
        try:
            return wait_for([sent], timeout=_UNANSWERED)[0]
        except ResultTimeout:
            remark = nobody_reads(app, queue or app.queues(task)[0])
            if remark is not None:
                note(remark)
        try:
            return wait_for([sent], timeout=_limit(wait - _UNANSWERED))[0]
        except ResultTimeout:
            raise ResultTimeout(unended(sent.id, 1, 1, wait)) from None
    return wait_for([sent], timeout=_limit(wait))[0]


def _limit(wait: float) -> float | None:
    return None if math.isinf(wait) else wait


def _print_end(record: Record, target: Target, *, json: bool) -> int:
    """Print the result or the error; return the exit code."""
    if json:
        emit(as_json(record), indent=False)
    elif record.state == State.SUCCESS:
        emit_written(without_claims(shown(record.value or "null")))
    else:
        advice = f"cloudq result{target.words} --traceback {record.id}"
        complain(f"{outcome(record)} - {advice}", kind=record.state)
    return 0 if record.state == State.SUCCESS else 1


def moment(option: str, text: str) -> datetime:
    """Read an ISO time, local if it names no zone. Raises `InvalidArguments`."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise InvalidArguments(
            f"{option} {text}: give a time such as 2030-01-31T12:00 or 2030-01-31T12:00+00:00"
        ) from error


def _expiry(text: str) -> float | datetime:
    seconds = span(text)
    if seconds is None:
        return float(text) if _is_number(text) else moment("--expires", text)
    return seconds


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unknown(app: CloudQ, name: str) -> str:
    if not app.tasks:
        raise ConfigurationError(
            f"app {app.name!r} has no tasks: import them in its module, or use include=[...]"
        )
    hint = _meant(name, app.tasks)
    return f"app {app.name!r} has no task {name!r}: {hint} (--force sends it anyway)"


def _meant(name: str, known: Iterable[str]) -> str:
    close = task_meant(name, known)
    if close is not None:
        return f"did you mean {close}?"
    listed = sorted(known)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return f"it has {', '.join(listed[:_LISTED])}{more}"


def add_to(program: typer.Typer) -> None:
    """Add `call` to the commands of `cloudq`."""
    program.command(cls=CallCommand)(call)
