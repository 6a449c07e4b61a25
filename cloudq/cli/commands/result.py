"""`cloudq result`: shows the results of tasks."""

from __future__ import annotations

from typing import Annotated

import orjson
import typer

from cloudq.cli.options import JsonOption, Target, common
from cloudq.cli.output import complain, duration, emit, fields, local, say, say_trace
from cloudq.errors import ResultTimeout
from cloudq.results.record import Record, State
from cloudq.results.result import AsyncResult, wait_for
from cloudq.text import AsIs


@common
def result(
    target: Target,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of tasks.")],
    wait: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Wait up to this long for the end."),
    ] = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the tracebacks of failed tasks.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Show the states and results of tasks.

    --json prints one object per line. With --wait the exit code is 0 only if all succeeded.
    """
    app = target.open()
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
        return 2
    done = all(record.state == State.SUCCESS for record in records)
    return 0 if done or wait is None else 1


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
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "revoked": record.revoked,
    }


def outcome(record: Record) -> str:
    """Describe the end of a task that did not succeed, in one line."""
    error = ": ".join(filter(None, (record.error_type, record.error)))
    return f"{record.task or 'task'} {record.id}: {error or record.state}"


def _wait(results: list[AsyncResult[object]], wait: float | None) -> ResultTimeout | None:
    if wait is None:
        return None
    try:
        wait_for(results, timeout=wait)
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
            ("value", AsIs(record.value) if succeeded and record.value else None),
            ("progress", AsIs(record.meta) if record.meta else None),
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
    program.command()(result)


def _plain(text: str | None) -> AsIs | None:
    """Return the value in JSON text; the text itself where another program wrote it."""
    try:
        return AsIs(orjson.loads(text)) if text else None
    except ValueError:
        return AsIs(text)
