"""`cloudq result`: shows the results of tasks."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Annotated, Any

import orjson
import typer
from typer.core import TyperCommand

from cloudq.cli.options import JsonOption, Target, common, refuse_missing
from cloudq.cli.output import complain, duration, emit, fields, local, say, say_trace
from cloudq.errors import ConfigurationError, ResultTimeout
from cloudq.messages.sealed_text import shown as readable
from cloudq.operations.seen import without_claims
from cloudq.results.record import Record, State
from cloudq.results.result import AsyncResult, wait_for
from cloudq.text import AsIs, iso_time

# A number or a time after a --wait, right or wrong, and no id: 5, 2.5, 10m, 5x, inf.
_VALUE = re.compile(r"[0-9.][\w.]{0,11}|inf|nan")

Wait = Annotated[
    float | None,
    typer.Option(
        metavar="[SECONDS]",
        help="Wait for the result and print it; without SECONDS, wait forever.",
    ),
]


class WaitCommand(TyperCommand):
    """A command with a `--wait` whose value may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(
            ctx,
            [
                "--wait=inf" if arg == "--wait" and not _VALUE.fullmatch(after) else arg
                for arg, after in pairwise([*args, ""])
            ],
        )


@common
def result(
    target: Target,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of tasks.")],
    wait: Wait = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the tracebacks of failed tasks.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Show the states and results of tasks.

    --json prints one object per line. With --wait the exit code is 0 only if all succeeded;
    without it, if something is recorded of each.
    """
    check_wait(wait)
    app = target.open()
    refuse_missing(app.conf.backend_url)
    with app:
        results = [app.AsyncResult(id) for id in ids]
        timeout = _wait(results, wait)
        backend = results[0].backend
        found = backend.records(ids)
    records = [found.get(id) or Record(id=id, state=State.PENDING) for id in ids]
    for place, record in enumerate(records):
        if json:
            emit(as_json(record), indent=False)
            continue
        if place:
            say("")
        _show(record, traceback=traceback)
    if timeout is not None:
        complain(str(timeout))
        return 1
    unknown = [id for id in ids if id not in found]
    if unknown and wait is None:
        complain(
            f"nothing is recorded of {', '.join(unknown[:3])}{' ...' if unknown[3:] else ''}: not "
            "finished, or no such task"
        )
        return 1
    return 0 if all(record.state == State.SUCCESS for record in records) or wait is None else 1


def as_json(record: Record) -> dict[str, object]:
    """Return a record as plain JSON; `value` as it is on the wire."""
    return {
        "id": record.id,
        "state": record.shown,
        "task": record.task or None,
        "value": _plain(record.value),
        "meta": _plain(record.meta),
        "error_type": record.error_type,
        "error": record.error,
        "traceback": record.traceback,
        "retries": record.retries,
        "queue": record.queue,
        "worker": record.worker,
        "started_at": iso_time(record.started_at),
        "finished_at": iso_time(record.finished_at),
        "revoked": record.revoked,
    }


def check_wait(wait: float | None) -> None:
    """Raise `ConfigurationError` for what is no time to wait."""
    if wait is not None and not wait >= 0:
        raise ConfigurationError(f"--wait is {wait:g}: give seconds, or a time such as 10m")


def outcome(record: Record) -> str:
    """Describe the end of a task that did not succeed, in one line."""
    error = ": ".join(filter(None, (record.error_type, record.error)))
    return f"{record.task or 'task'} {record.id}: {error or record.state}"


def _wait(results: list[AsyncResult[object]], wait: float | None) -> ResultTimeout | None:
    if wait is None:
        return None
    try:
        wait_for(results, timeout=None if math.isinf(wait) else wait)
    except ResultTimeout as error:
        return error
    return None


def _show(record: Record, *, traceback: bool) -> None:
    succeeded = record.state == State.SUCCESS
    unheard = record.state == State.PENDING and not record.task
    ran = (
        duration(record.finished_at - record.started_at)
        if record.finished_at and record.started_at
        else None
    )
    error = ": ".join(filter(None, (record.error_type, record.error))) or None
    shown = None if record.traceback is None or traceback else "add --traceback to see it"
    fields(
        (
            ("id", record.id),
            ("state", "PENDING (not finished, or no such task)" if unheard else record.shown),
            ("revoked", "yes, it will not start" if record.revoked else None),
            ("task", record.task or None),
            (
                "value",
                AsIs(without_claims(readable(record.value)))
                if succeeded and record.value
                else None,
            ),
            ("progress", AsIs(readable(record.meta)) if record.meta else None),
            ("error", error),
            ("traceback", shown),
            ("retries", None if unheard else record.retries),
            ("queue", record.queue),
            ("worker", record.worker),
            ("started", local(record.started_at)),
            ("finished", local(record.finished_at)),
            ("ran", ran),
        )
    )
    if traceback and record.traceback:
        say_trace(record.traceback)


def add_to(program: typer.Typer) -> None:
    """Add `result` to the commands of `cloudq`."""
    program.command(cls=WaitCommand)(result)


def _plain(text: str | None) -> AsIs | None:
    """Return the value in JSON text; the text itself where another program wrote it."""
    try:
        return AsIs(orjson.loads(text)) if text else None
    except ValueError:
        return AsIs(readable(str(text)))
