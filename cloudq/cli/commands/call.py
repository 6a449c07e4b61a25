"""`cloudq call`: sends one call of a task."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, cast

import orjson
import typer
from typer.core import TyperCommand

from cloudq.app import CloudQ
from cloudq.cli.commands.result import as_json, outcome
from cloudq.cli.options import JsonOption, Target, common, refuse_memory
from cloudq.cli.output import complain, emit
from cloudq.errors import ConfigurationError, InvalidArguments, UnknownTask
from cloudq.results.record import State
from cloudq.results.result import wait_for
from cloudq.tasks.call_options import CallOptions

_NEGATIVE = re.compile(r"-[0-9.]")


class CallCommand(TyperCommand):
    """A command whose `--wait` may stand alone, and whose arguments may be negative numbers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], ""]
        bare = [
            "--wait=inf" if arg == "--wait" and not _is_number(after) else arg
            for arg, after in zip(args, following, strict=True)
        ]
        # With a space before it, a number is not taken for an option, and is the same in JSON.
        return super().parse_args(ctx, [f" {arg}" if _NEGATIVE.match(arg) else arg for arg in bare])


@common
def call(
    target: Target,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's registered name.")],
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARG", help="JSON values; what is not JSON is a string."),
    ] = None,
    args_json: Annotated[
        str | None, typer.Option("--args", metavar="JSON", help="All arguments as a list.")
    ] = None,
    kwargs_json: Annotated[
        str | None, typer.Option("--kwargs", metavar="JSON", help="Keyword arguments, an object.")
    ] = None,
    queue: Annotated[str | None, typer.Option("-Q", "--queue", help="Else the task's own.")] = None,
    countdown: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Run no earlier than in this time.")
    ] = None,
    eta: Annotated[
        str | None, typer.Option(metavar="TIME", help="Run no earlier: 2030-01-31T12:00, local.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="SECONDS|TIME", help="Do not run later.")
    ] = None,
    task_id: Annotated[str | None, typer.Option(metavar="ID", help="Else a new one.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Runs once among its equals.")
    ] = None,
    group_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Keeps the order on ordered queues.")
    ] = None,
    unique_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Not sent while its equal is queued or runs.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(metavar="0-9", help="On queues with priorities; 9 goes first.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            metavar="[SECONDS]", help="Print the result; alone, however long it takes (put it last)"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Send also an unknown task.")] = False,
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
    given = {
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
    options = cast("CallOptions", {key: value for key, value in given.items() if value is not None})
    positional = arguments(args or (), args_json)
    with app:
        sent = app.send_task(task, positional, _object("--kwargs", kwargs_json), **options)
        if wait is None:
            emit({"id": sent.id}, indent=False) if json else typer.echo(sent.id)
            return 0
        timeout = None if math.isinf(wait) else wait
        record = wait_for([sent], timeout=timeout)[0]
    if json:
        emit(as_json(record), indent=False)
    elif record.state == State.SUCCESS:
        typer.echo(record.value or "null")
    else:
        complain(f"{outcome(record)} - cloudq result --traceback {record.id}", kind=record.state)
    return 0 if record.state == State.SUCCESS else 1


def arguments(texts: Sequence[str], whole: str | None) -> list[Any]:
    """The positional arguments: JSON where it parses, else strings; or all as one JSON list."""
    if whole is None:
        return [_value(text) for text in texts]
    if texts:
        raise InvalidArguments("give the arguments one by one or as --args, not both")
    value = _parse("--args", whole)
    if not isinstance(value, list):
        raise InvalidArguments(f"--args must be a JSON list such as '[1, \"a\"]', not {whole}")
    return cast("list[Any]", value)


def moment(option: str, text: str) -> datetime:
    """A time in ISO form; one without a zone is local. Raises `InvalidArguments`."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise InvalidArguments(
            f"{option} {text}: write a time such as 2030-01-31T12:00 or 2030-01-31T12:00+00:00"
        ) from error


def _expiry(text: str) -> float | datetime:
    return float(text) if _is_number(text) else moment("--expires", text)


def _object(option: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    value = _parse(option, text)
    if not isinstance(value, dict):
        raise InvalidArguments(f"{option} must be a JSON object such as '{{\"a\": 1}}', not {text}")
    return cast("dict[str, Any]", value)


def _parse(option: str, text: str) -> object:
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
            f"app {app.name!r} has no tasks: does its module import them, or include=[...]?"
        )
    last = {known.rpartition(".")[2]: known for known in app.tasks}
    close = difflib.get_close_matches(name, app.tasks, n=3, cutoff=0.5) or [
        last[match] for match in difflib.get_close_matches(name.rpartition(".")[2], last, n=3)
    ]
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(app.tasks)}"
    return f"app {app.name!r} has no task {name!r}: {hint} (--force sends it all the same)"
