"""`cloudq call`: sends one call of a task."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import orjson
import typer
from typer.core import TyperCommand

from cloudq.app import CloudQ
from cloudq.cli.commands.queues import unread
from cloudq.cli.commands.result import as_json, outcome
from cloudq.cli.options import JsonOption, Target, common, refuse_memory
from cloudq.cli.output import complain, emit, emit_written, note, say
from cloudq.errors import ConfigurationError, InvalidArguments, UnknownTask
from cloudq.messages.values import is_list, is_object
from cloudq.results.record import Record, State
from cloudq.results.result import wait_for
from cloudq.text import AsIs

_NEGATIVE = re.compile(r"-[0-9.]")


class CallCommand(TyperCommand):
    """A command with a `--wait` whose value is optional, and with arguments below zero."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], ""]
        bare = [
            "--wait=inf" if arg == "--wait" and not _is_number(after) else arg
            for arg, after in zip(args, following, strict=True)
        ]
        # A leading space keeps -5 from being read as an option, and means the same in JSON.
        return super().parse_args(ctx, [f" {arg}" if _NEGATIVE.match(arg) else arg for arg in bare])


Args = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARG", help="Arguments as JSON; what is not JSON is a string."),
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
    typer.Option(metavar="SECONDS|TIME", help="Do not run after this delay or time."),
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
Wait = Annotated[
    float | None,
    typer.Option(
        metavar="[SECONDS]",
        help="Wait for the result and print it; without SECONDS, wait forever.",
    ),
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
    positional = arguments(args or (), args_json)
    with app:
        remark = None if queue is None else unread(app, queue)
        sent = app.send_task(task, positional, _object("--kwargs", kwargs_json), **options)
        if remark is not None:
            note(remark)
        if wait is None:
            emit({"id": sent.id}, indent=False) if json else say(AsIs(sent.id))
            return 0
        timeout = None if math.isinf(wait) else wait
        try:
            [record] = wait_for([sent], timeout=timeout)
        except KeyboardInterrupt:
            note(f"the task is not stopped; its result: cloudq result{target.words} {sent.id}")
            raise
    return _print_end(record, target, json=json)


def _print_end(record: Record, target: Target, *, json: bool) -> int:
    """Print the result or the error; return the exit code."""
    if json:
        emit(as_json(record), indent=False)
    elif record.state == State.SUCCESS:
        emit_written(record.value or "null")
    else:
        advice = f"cloudq result{target.words} --traceback {record.id}"
        complain(f"{outcome(record)} - {advice}", kind=record.state)
    return 0 if record.state == State.SUCCESS else 1


def arguments(texts: Sequence[str], whole: str | None) -> list[Any]:
    """Read the positional arguments: each JSON or else a string; or all as one JSON list."""
    if whole is None:
        return [_value(text) for text in texts]
    if texts:
        raise InvalidArguments("give the arguments one by one or as --args, not both")
    value = _parse("--args", whole)
    if not is_list(value):
        raise InvalidArguments(f"--args must be a JSON list such as '[1, \"a\"]', not {whole}")
    return value


def moment(option: str, text: str) -> datetime:
    """Read an ISO time, local if it names no zone. Raises `InvalidArguments`."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise InvalidArguments(
            f"{option} {text}: give a time such as 2030-01-31T12:00 or 2030-01-31T12:00+00:00"
        ) from error


def _expiry(text: str) -> float | datetime:
    return float(text) if _is_number(text) else moment("--expires", text)


def _object(option: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    value = _parse(option, text)
    if not is_object(value):
        raise InvalidArguments(f"{option} must be a JSON object such as '{{\"a\": 1}}', not {text}")
    return value


def _parse(option: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArguments(f"{option} is not JSON: {error}") from error


def _value(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


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
    last = {known.rpartition(".")[2]: known for known in app.tasks}
    close = difflib.get_close_matches(name, app.tasks, n=3, cutoff=0.5) or [
        last[match] for match in difflib.get_close_matches(name.rpartition(".")[2], last, n=3)
    ]
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(app.tasks)}"
    return f"app {app.name!r} has no task {name!r}: {hint} (--force sends it anyway)"


def add_to(program: typer.Typer) -> None:
    """Add `call` to the commands of `cloudq`."""
    program.command(cls=CallCommand)(call)
