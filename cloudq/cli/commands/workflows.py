"""`cloudq workflows`: lists the groups and chords under way, or shows who is missing in one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cloudq.cli.options import JsonOption, Target, common, refuse_memory, require_file
from cloudq.cli.output import complain, emit, fields, local, note, say, since, table
from cloudq.operations import workflows as operations
from cloudq.operations.workflows import Workflow, WorkflowList
from cloudq.text import iso_time

_SHOWN = 100


@common
def workflows(
    target: Target,
    id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Id of a chord or group, or of the task it starts."),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="Maximum number to list.")
    ] = 50,
    all: Annotated[
        bool, typer.Option("--all", help="List those that are done or failed too.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """List the groups and chords under way, or show which members of one are missing.

    A store that bills its requests keeps no list: give an ID. The exit code is 1 if it is unknown.
    """
    app = target.open()
    refuse_memory(app)
    require_file(app)
    with app:
        if id is None:
            return _list(operations.workflows(app, limit=count, all_states=all), json=json)
        found = operations.workflow(app, id)
    if json:
        emit(None if found is None else _as_json(found))
    elif found is not None:
        _show(found)
    if found is None:
        complain(
            f"the store knows no chord or group {id}: it has not begun, or its records have "
            f"expired; `cloudq graph {id}` shows the workflow of a task"
        )
        return 1
    return 0


def _list(found: WorkflowList, *, json: bool) -> int:
    if json:
        emit({"workflows": [_as_json(each) for each in found.workflows], "problem": found.problem})
    elif found.problem is None:
        columns = ["ID", "STATE", "DONE", "OF", "THEN", "SINCE"]
        table(columns, map(_row, found.workflows), empty="no group or chord is under way")
        if not found.complete:
            note(f"{found.seen:,} were looked through, and there are more")
    if found.problem is not None:
        complain(found.problem)
        return 1
    return 0


def _row(flow: Workflow) -> list[object]:
    done = flow.count - flow.left
    return [flow.id, flow.state, done, flow.count, flow.body[1] or None, local(flow.started)]


def _show(flow: Workflow) -> None:
    follows = " ".join(filter(None, reversed(flow.body)))
    fields(
        (
            ("id", flow.id),
            ("state", flow.state),
            ("done", f"{flow.count - flow.left:,} of {flow.count:,}"),
            ("then", follows or None),
            ("failed", flow.failed),
            ("started", None if flow.started is None else f"{since(flow.started)} ago"),
        )
    )
    if not flow.missing:
        return
    say("")
    rows = [[each.id, each.task or None, str(each.state)] for each in flow.missing[:_SHOWN]]
    table(["ID", "TASK", "STATE"], rows, empty="")
    if flow.left > _SHOWN:
        note(f"the first {_SHOWN} of {flow.left:,} that are missing")


def _as_json(flow: Workflow) -> dict[str, Any]:
    found: dict[str, Any] = asdict(flow)
    started = None if flow.started is None else iso_time(flow.started)
    return found | {"started": started}


def add_to(program: typer.Typer) -> None:
    """Add `workflows` to the commands of `cloudq`."""
    program.command()(workflows)
